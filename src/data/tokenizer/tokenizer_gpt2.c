/* tokenizer_gpt2.c - byte-level BPE from vocab.json and merges.txt in a folder (the form of GPT-2):
 * no normaliser, the GPT-2 pattern, and "<|endoftext|>" as the one added token where it exists. */
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "data/tokenizer/bpe_read.h"
#include "data/tokenizer/bpe_text.h"
#include "data/tokenizer/tokenizer_write.h"

static bool has(const char *folder, const char *name) {
    char *path = kr_path_join(folder, name);
    bool there = path && kr_is_file(path);
    kr_free(path);
    return there;
}

static bool claims(const char *path) {
    return kr_is_dir(path) && has(path, "vocab.json") && has(path, "merges.txt");
}

/* The merges: a line each, after a line that begins with "#version". */
static int read_merges(kr_bpe_reader *r, const char *text, size_t size, krait_error *e) {
    size_t line = 0;
    for (const char *at = text, *end = text + size, *stop; at < end; at = stop + 1) {
        stop = memchr(at, '\n', (size_t)(end - at));
        if (!stop) stop = end;
        size_t length = (size_t)(stop - at);
        if (length && at[length - 1] == '\r') length--;
        line++;
        if (length == 0 || (line == 1 && length >= 8 && memcmp(at, "#version", 8) == 0)) continue;
        KR_TRY(kr_bpe_read_merge(r, at, length, e));
    }
    return 0;
}

static int64_t count_lines(const kr_map *m) {
    int64_t lines = 1;
    for (size_t i = 0; i < m->size; i++) lines += m->data[i] == '\n';
    return lines;
}

static int read_files(kr_bpe_reader *r, const char *vocab, const char *merges, krait_error *e) {
    kr_map map;
    KR_TRY(kr_json_load(&r->root, vocab, KR_TOKENIZER_FILE_LIMIT, e));
    KR_TRY(kr_map_open(&map, merges, e));
    r->what = vocab;
    int rc = kr_bpe_read_vocab(r, r->root, count_lines(&map), e);
    r->what = merges;
    if (rc == 0) rc = read_merges(r, (const char *)map.data, map.size, e);
    r->t->hash = kr_bpe_read_hash(map.data, map.size, (uint64_t)r->t->vocabulary);
    kr_map_close(&map);
    return rc;
}

static int add_end(kr_bpe_reader *r, krait_error *e) {
    static const char end[] = "<|endoftext|>";
    const json_t *id = json_object_get(r->vocab, end);
    if (!json_is_integer(id)) return 0;
    kr_added_token a = {.text = (char *)(uintptr_t)end, .size = sizeof end - 1};
    a.id = r->t->end = (int32_t)json_integer_value(id);
    return kr_bpe_read_added(r, &a, false, e);
}

static int open_files(krait_tokenizer *t, const char *path, krait_error *e) {
    kr_bpe_reader r = {.t = t, .what = path};
    char *vocab = kr_path_join(path, "vocab.json"), *merges = kr_path_join(path, "merges.txt");
    int rc = vocab && merges ? kr_bpe_read_begin(&r, e) : kr_fail_memory(e, "a tokenizer");
    if (rc == 0) rc = kr_pretok_add_bytes(r.b->pretok, false, true, e);
    if (rc == 0) rc = read_files(&r, vocab, merges, e);
    if (rc == 0) rc = add_end(&r, e);
    rc = kr_bpe_read_end(&r, rc, e);
    kr_free(vocab);
    kr_free(merges);
    return rc;
}

/* The merges stand in a table without order: they are put back in the order of their ranks. */
static int save(const krait_tokenizer *t, const char *path, krait_error *e) {
    const kr_bpe *b = &((const kr_bpe_text *)t->inside)->bpe;
    kr_merge_pair *all = kr_calloc((size_t)b->count + 1, sizeof *all), *used = all;
    if (!all) return kr_fail_memory(e, "writing a tokenizer");
    for (int64_t i = 0; i < b->count; i++) all[i].left = -1;
    for (uint64_t i = 0; i <= b->mask; i++) {
        const struct kr_merge *m = &b->merges[i];
        if (m->pair == UINT64_MAX) continue;
        all[m->rank] = (kr_merge_pair){(int32_t)(m->pair >> 32), (int32_t)m->pair};
    }
    for (int64_t i = 0; i < b->count; i++) /* a pair that came twice left a gap */
        if (all[i].left >= 0) *used++ = all[i];
    int rc = kr_tokenizer_write(t, all, used - all, path, e);
    kr_free(all);
    return rc;
}

const kr_tokenizer_kind kr_tokenizer_gpt2 = {
    .name = "vocab.json with merges.txt",
    .claims = claims,
    .open = open_files,
    .close = kr_bpe_text_close,
    .save = save,
    .scratch_open = kr_bpe_text_scratch_open,
    .scratch_close = kr_bpe_text_scratch_close,
    .encode = kr_bpe_text_encode,
};
