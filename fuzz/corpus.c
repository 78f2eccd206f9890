/* corpus.c - runs a fuzz target without libFuzzer: on every file of a folder, and on the file cut
 * off at 64 places, so that the corpus is part of the ordinary tests (and of their sanitizers). */
#define _DEFAULT_SOURCE
#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Each input lies in memory of exactly its size: a sanitizer sees the first byte read past it. */
static int run(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy) return -1;
    if (size) memcpy(copy, data, size);
    int rc = LLVMFuzzerTestOneInput(copy, size);
    free(copy);
    return rc;
}

static int run_file(const char *path) {
    static uint8_t data[1 << 24];
    FILE *f = fopen(path, "rb");
    if (!f) return -1;
    size_t size = fread(data, 1, sizeof data, f), last = size + 1;
    fclose(f);
    for (size_t i = 64; i-- > 0;) {
        size_t cut = size * i / 63;
        if (cut != last && run(data, cut) != 0) return -1;
        last = cut;
    }
    return 0;
}

int main(int argc, char **argv) {
    int files = 0, failed = 0;
    DIR *folder = argc > 1 ? opendir(argv[1]) : NULL;
    if (!folder) return 1;
    for (struct dirent *d; (d = readdir(folder));) {
        char path[4096];
        if (d->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", argv[1], d->d_name);
        failed += run_file(path) != 0;
        files++;
    }
    closedir(folder);
    printf("%d files of %s, %d failed\n", files, argv[1], failed);
    return files == 0 || failed != 0;
}
