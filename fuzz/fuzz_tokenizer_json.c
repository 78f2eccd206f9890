/* fuzz_tokenizer_json.c - libFuzzer target of tokenizer.json: any text is refused, or is a
 * tokenizer that encodes and decodes. What follows a zero byte is the text to encode. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <krait/krait.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char sample[] = "It's 12 caf\x65\xCC\x81 <|end|>\n\n  \xFF\xF0\x9F\x98\x80 abababab";

/* Ids must be of the vocabulary, and their bytes must be told alike by both ways of asking. */
static void use(const krait_tokenizer *t, const char *text, size_t size) {
    int64_t n = krait_tokenizer_encode(t, text, size, NULL, 0, NULL);
    if (n <= 0) return;
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    if (!ids || krait_tokenizer_encode(t, text, size, ids, n, NULL) != n) abort();
    int64_t room = krait_tokenizer_decode(t, ids, n, NULL, 0, NULL);
    char *back = room < 0 ? NULL : malloc((size_t)room + 1);
    if (!back || krait_tokenizer_decode(t, ids, n, back, room, NULL) != room) abort();
    free(back);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t json = zero ? (size_t)(zero - data) : size;
    int fd = memfd_create("tokenizer.json", 0);
    if (fd < 0 || write(fd, data, json) != (ssize_t)json) abort();
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    krait_tokenizer *t;
    if (krait_tokenizer_open(&t, path, NULL) == 0) {
        use(t, sample, sizeof sample - 1);
        if (zero) use(t, (const char *)zero + 1, size - json - 1);
    }
    krait_tokenizer_close(&t);
    close(fd);
    return 0;
}
