/* fuzz_pickle.c - libFuzzer target of the pickle machine and of the tensors it describes.
 *
 * The input is a pickle. It is run alone and, because no fuzzer guesses a checksum, also wrapped in
 * an archive whose storages "0" and "1" have 64 bytes. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "formats/pth/pickle.h"
#include "formats/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST = 1 << 16, MEMBERS = 3 };

typedef struct archive {
    uint8_t bytes[MOST + 2048];
    size_t size;
} archive;

static void put(archive *a, uint64_t number, int width) {
    for (int i = 0; i < width; i++) a->bytes[a->size++] = (uint8_t)(number >> (8 * i));
}

static uint32_t checksum(const uint8_t *data, size_t size) {
    uint32_t c = ~0u;
    for (size_t i = 0; i < size; i++) {
        c ^= data[i];
        for (int bit = 0; bit < 8; bit++) c = c >> 1 ^ (c & 1 ? 0xEDB88320u : 0);
    }
    return ~c;
}

/* What the local and the central header of a stored member share. */
static void put_entry(archive *a, uint32_t crc, uint32_t size, uint32_t name) {
    put(a, 20, 2); /* version */
    put(a, 0, 8);  /* flags, stored, time, date */
    put(a, crc, 4);
    put(a, size, 4);
    put(a, size, 4);
    put(a, name, 2);
    put(a, 0, 2);
}

static void wrap(archive *a, const uint8_t *pickle, size_t size) {
    static const char *const names[MEMBERS] = {"a/data.pkl", "a/data/0", "a/data/1"};
    static const uint8_t zeros[64];
    uint32_t at[MEMBERS], crc[MEMBERS], sizes[MEMBERS] = {(uint32_t)size, 64, 64};
    for (int i = 0; i < MEMBERS; i++) {
        const uint8_t *data = i ? zeros : pickle;
        at[i] = (uint32_t)a->size;
        crc[i] = checksum(data, sizes[i]);
        put(a, 0x04034b50, 4);
        put_entry(a, crc[i], sizes[i], (uint32_t)strlen(names[i]));
        memcpy(a->bytes + a->size, names[i], strlen(names[i]));
        a->size += strlen(names[i]);
        memcpy(a->bytes + a->size, data, sizes[i]);
        a->size += sizes[i];
    }
    uint32_t directory = (uint32_t)a->size;
    for (int i = 0; i < MEMBERS; i++) {
        put(a, 0x02014b50, 4);
        put(a, 20, 2);
        put_entry(a, crc[i], sizes[i], (uint32_t)strlen(names[i]));
        put(a, 0, 6); /* comment, disk, attributes inside */
        put(a, 0, 4); /* attributes outside */
        put(a, at[i], 4);
        memcpy(a->bytes + a->size, names[i], strlen(names[i]));
        a->size += strlen(names[i]);
    }
    uint32_t length = (uint32_t)a->size - directory;
    put(a, 0x06054b50, 4);
    put(a, 0, 4); /* disks */
    put(a, MEMBERS, 2);
    put(a, MEMBERS, 2);
    put(a, length, 4);
    put(a, directory, 4);
    put(a, 0, 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static archive a;
    static const uint8_t none[1];
    kr_pickle p;
    if (size > MOST) return 0;
    if (size == 0) data = none;
    int alone = kr_pickle_read(&p, data, size, "input", NULL);
    kr_pickle_free(&p);
    a.size = 0;
    wrap(&a, data, size);
    kr_weights w = {0};
    uint64_t hash;
    int wrapped = kr_pth_read_bytes(&w, a.bytes, a.size, "input", NULL);
    if (wrapped == 0) kr_weights_scan(&w, 1, &hash, NULL);
    kr_weights_free(&w);
    if (alone < 0 && wrapped == 0) abort(); /* one machine, one answer */
    return 0;
}
