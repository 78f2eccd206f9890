/* loader_test.c - text sources, the token store and the windows of the loader. */
#define _DEFAULT_SOURCE
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/test_folder.h"
#include "data/text/loader.h"

static char folder[64];
static krait_tokenizer *bytes;

static const char *write_file(const char *name, const char *text, size_t size) {
    static char path[4][256];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    FILE *f = fopen(p, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, size, f), size);
    fclose(f);
    return p;
}

static kr_docs_options text_of(const char *const *paths, int64_t n) {
    return (kr_docs_options){.paths = paths, .n_paths = n, .tokenizer = bytes};
}

static kr_store *open_store(const kr_docs_options *docs, const char *cache, int64_t limit) {
    kr_store_options o = {.docs = *docs, .cache = cache, .memory_bytes = limit};
    kr_store *s;
    krait_error e;
    if (kr_store_open(&s, &o, &e) < 0) fail_msg("%s", e.message);
    return s;
}

static void refuses(const kr_docs_options *docs, const char *part) {
    kr_store_options o = {.docs = *docs};
    kr_store *s;
    krait_error e;
    assert_true(kr_store_open(&s, &o, &e) < 0);
    assert_null(s);
    print_message("refused: %s\n", e.message);
    assert_non_null(strstr(e.message, part));
}

/* Bytes of every document, "|" between documents. */
static char *all_text(const kr_docs_options *o, size_t piece) {
    kr_source_options so = {o->paths, o->n_paths, o->separator, o->ids, piece};
    kr_source *s;
    krait_error e;
    if (kr_source_open(&s, &so, &e) < 0) fail_msg("%s", e.message);
    static char text[1 << 16];
    size_t size = 0;
    kr_piece p;
    int got;
    while ((got = kr_source_next(s, &p, &e)) == 1) {
        memcpy(text + size, p.bytes, p.size);
        size += p.size;
        if (p.last) text[size++] = '|';
    }
    assert_int_equal(got, 0);
    text[size] = 0;
    kr_source_close(&s);
    return text;
}

static void sources(void **state) {
    (void)state;
    char sub[128];
    snprintf(sub, sizeof sub, "%s/tree", folder);
    mkdir(sub, 0777);
    snprintf(sub, sizeof sub, "%s/tree/b", folder);
    mkdir(sub, 0777);
    write_file("tree/c.txt", "third", 5);
    write_file("tree/a.txt", "first", 5);
    write_file("tree/.hidden", "never", 5);
    write_file("tree/b/x.txt", "second", 6);
    snprintf(sub, sizeof sub, "%s/tree", folder);
    const char *paths[1] = {sub};
    kr_docs_options o = text_of(paths, 1);
    assert_string_equal(all_text(&o, 0), "first|second|third|");

    paths[0] = write_file("s.txt", "one##two#x##three##", 19);
    o.separator = "##";
    assert_string_equal(all_text(&o, 0), "one|two#x|three|");
    o.separator = NULL;
    const char *json = "{\"text\":\"a\\nb\"}\n\n{\"x\":[1],\"text\":\"caf\\u00e9\"}";
    paths[0] = write_file("s.jsonl", json, strlen(json));
    assert_string_equal(all_text(&o, 0), "a\nb|caf\xC3\xA9|");
    paths[0] = write_file("bad.jsonl", "{\"text\":1}\n", 11);
    refuses(&o, "line 1");
    paths[0] = write_file("deep.jsonl", "{\"text\"\n", 8);
    refuses(&o, "not JSON");
}

/* A document in pieces has the same bytes, whatever the size of a piece, and a separator is found
 * across pieces. */
static void pieces(void **state) {
    (void)state;
    char text[5000];
    static const char words[] = "word \nline\n\nnext \xC3\xA9\xE2\x82\xAC ## end##";
    for (size_t i = 0; i < sizeof text; i++) text[i] = words[i % (sizeof words - 1)];
    const char *paths[1] = {write_file("pieces.txt", text, sizeof text)};
    kr_docs_options o = text_of(paths, 1);
    for (int with = 0; with < 2; with++) {
        o.separator = with ? "##" : NULL;
        char *whole = strdup(all_text(&o, 1 << 20));
        for (size_t piece = 64; piece < 300; piece += 7)
            assert_string_equal(all_text(&o, piece), whole);
        free(whole);
    }
}

static void refusals(void **state) {
    (void)state;
    const char *paths[1] = {write_file("empty.txt", "", 0)};
    kr_docs_options o = text_of(paths, 1);
    refuses(&o, "empty");
    paths[0] = write_file("binary.txt", "\x89PNG\r\n\x1a\n\0\0", 10);
    refuses(&o, "not text");
    paths[0] = "/nowhere/at/all.txt";
    refuses(&o, "/nowhere/at/all.txt");
    o.ids = true;
    paths[0] = write_file("ids.txt", "1 2\n3 x\n", 8);
    refuses(&o, "line 2");
    paths[0] = write_file("ids.txt", "1 2\n3 99999999999999999999999\n", 30);
    refuses(&o, "outside the vocabulary");
    o.n_paths = 0;
    refuses(&o, "no data");
}

typedef struct seen {
    int64_t inputs[300], targets, bytes, batches;
} seen;

/* Runs one epoch of `loader`, checks every window against the store, and counts how often each
 * token was an input. */
static void check_epoch(kr_loader *l, const kr_store *s, int64_t B, int64_t T, seen *out) {
    int32_t *ids = malloc((size_t)(B * T) * 4), *targets = malloc((size_t)(B * T) * 4);
    int32_t *previous = malloc((size_t)B * 4);
    uint8_t *reset = malloc((size_t)(B * T));
    kr_loader_info info;
    kr_loader_describe(l, &info);
    krait_error e;
    for (int64_t w = 0; w < info.batches; w++) {
        kr_batch batch;
        assert_int_equal(kr_loader_next(l, ids, targets, reset, &batch, &e), 1);
        int64_t tokens = 0;
        for (int64_t i = 0; i < B * T; i++) {
            int64_t t = i % T;
            bool pad = targets[i] < 0 && ids[i] == 0;
            if (!pad) out->inputs[ids[i]]++;
            tokens += targets[i] >= 0;
            assert_true(targets[i] < kr_store_end(s) + 1);
            if (ids[i] == kr_store_end(s)) assert_int_equal(reset[i], 1);
            if (t + 1 < T && targets[i] >= 0 && (ids[i + 1] || targets[i + 1] >= 0)) {
                assert_int_equal(ids[i + 1], targets[i]);
            }
            if (t == 0 && w > 0 && previous[i / T] >= 0 && !pad)
                assert_int_equal(ids[i], previous[i / T]);
            if (t == T - 1) previous[i / T] = targets[i];
        }
        if (w == 0)
            for (int64_t b = 0; b < B; b++) assert_int_equal(reset[b * T], info.tokens > b);
        assert_int_equal(tokens, batch.tokens);
        out->targets += batch.tokens;
        out->bytes += batch.bytes;
        out->batches++;
    }
    free(ids);
    free(targets);
    free(previous);
    free(reset);
}

/* Each document is a run of one letter, so that any mixing of documents shows. */
static kr_store *letters(const char *cache, int64_t limit) {
    char text[2000];
    size_t size = 0;
    for (int i = 0; i < 26; i++) {
        for (int n = 0; n < 3 + i * i % 37; n++) text[size++] = (char)('a' + i);
        text[size++] = '\n';
    }
    const char *paths[1] = {write_file("letters.txt", text, size)};
    kr_docs_options o = text_of(paths, 1);
    o.separator = "\n";
    return open_store(&o, cache, limit);
}

static void every_token_once(void **state) {
    (void)state;
    kr_store *s = letters(NULL, 0);
    const int64_t shapes[][2] = {{1, 1}, {1, 1000}, {3, 7}, {4, 64}, {700, 2}, {8, 16}};
    for (size_t k = 0; k < 12; k++) {
        int64_t B = shapes[k / 2][0], T = shapes[k / 2][1];
        kr_loader_options o = {s, {0, kr_store_tokens(s)}, B, T, k % 2, 5, 2};
        kr_loader *l;
        krait_error e;
        assert_int_equal(kr_loader_open(&l, &o, &e), 0);
        for (int epoch = 0; epoch < 2; epoch++) {
            seen n = {{0}, 0, 0, 0};
            check_epoch(l, s, B, T, &n);
            assert_int_equal(n.inputs[256], 26);
            for (int i = 0; i < 26; i++) assert_int_equal(n.inputs['a' + i], 3 + i * i % 37);
            assert_int_equal(n.targets, kr_store_tokens(s));
            assert_int_equal(n.bytes, kr_store_bytes(s));
        }
        int32_t *none = malloc((size_t)(B * T) * 8);
        kr_batch batch;
        uint8_t *reset = malloc((size_t)(B * T));
        assert_int_equal(kr_loader_next(l, none, none + B * T, reset, &batch, &e), 0);
        free(none);
        free(reset);
        kr_loader_close(&l);
    }
    print_message("%d tokens, %d documents, 12 shapes: every token once\n", (int)kr_store_tokens(s),
                  (int)kr_store_documents(s));
    kr_store_close(&s);
}

enum { SB = 3, ST = 11 };
typedef struct window {
    int32_t ids[SB * ST], targets[SB * ST];
    uint8_t reset[SB * ST];
} window;

static void seek_is_exact(void **state) {
    (void)state;
    kr_store *s = letters(NULL, 0);
    kr_loader_options o = {s, {0, kr_store_tokens(s)}, SB, ST, true, 9, 0};
    kr_loader *l, *other;
    krait_error e;
    static window kept[100];
    static kr_loader_position at[100];
    kr_batch batch;
    assert_int_equal(kr_loader_open(&l, &o, &e), 0);
    for (int i = 0; i < 100; i++) {
        kr_loader_position_get(l, &at[i]);
        assert_int_equal(kr_loader_next(l, kept[i].ids, kept[i].targets, kept[i].reset, &batch, &e),
                         1);
    }
    assert_true(at[99].epoch > 1);
    assert_memory_not_equal(&kept[0], &kept[at[99].window], sizeof(window));
    assert_int_equal(kr_loader_open(&other, &o, &e), 0);
    for (int i = 99; i >= 0; i--) {
        window w;
        memset(&w, 0, sizeof w);
        assert_int_equal(kr_loader_seek(other, &at[i], &e), 0);
        assert_int_equal(kr_loader_next(other, w.ids, w.targets, w.reset, &batch, &e), 1);
        assert_memory_equal(&w, &kept[i], sizeof w);
    }
    kr_loader_close(&other);
    o.seed = 10;
    assert_int_equal(kr_loader_open(&other, &o, &e), 0);
    assert_int_equal(kr_loader_seek(other, &at[3], &e), KRAIT_ERR_MISMATCH);
    kr_loader_close(&other);
    at[3].window = 1 << 20;
    assert_int_equal(kr_loader_seek(l, &at[3], &e), KRAIT_ERR_FORMAT);
    kr_loader_close(&l);
    kr_store_close(&s);
}

static void split_and_single_document(void **state) {
    (void)state;
    kr_store_part train, held;
    kr_store *s = letters(NULL, 0);
    kr_store_split(s, 0.1, &train, &held);
    bool at_start = false;
    for (int64_t i = 0; i < 26; i++) at_start |= kr_store_starts(s)[i] == held.begin;
    assert_true(at_start);
    assert_true(train.end == held.begin && train.begin == 0 && held.end == kr_store_tokens(s));
    kr_store_close(&s);

    char text[1000];
    memset(text, 'x', sizeof text);
    const char *paths[1] = {write_file("single.txt", text, sizeof text)};
    kr_docs_options d = text_of(paths, 1);
    s = open_store(&d, NULL, 0);
    kr_store_split(s, 0.1, &train, &held);
    assert_int_equal(held.end - held.begin, 100);
    kr_loader_options o = {s, train, 4, 50, true, 1, 1};
    kr_loader *l;
    krait_error e;
    assert_int_equal(kr_loader_open(&l, &o, &e), 0);
    seen n = {{0}, 0, 0, 0};
    check_epoch(l, s, 4, 50, &n);
    assert_int_equal(n.inputs['x'], 900);
    assert_int_equal(n.targets, 900); /* 901 tokens; nothing to predict where the part was cut */
    kr_loader_close(&l);
    o.part = (kr_store_part){5, 6};
    assert_int_equal(kr_loader_open(&l, &o, &e), KRAIT_ERR_ARGUMENT);
    kr_store_close(&s);
}

static void cache_file(void **state) {
    (void)state;
    char cache[128];
    snprintf(cache, sizeof cache, "%s/cache", folder);
    kr_store *memory = letters(NULL, 0), *built = letters(cache, 1), *again;
    assert_null(kr_store_cache_file(memory));
    char path[256];
    snprintf(path, sizeof path, "%s", kr_store_cache_file(built));
    int64_t n = kr_store_tokens(memory);
    int32_t a[2000], b[2000];
    krait_error e;
    for (int round = 0; round < 3; round++) {
        assert_true(kr_store_hash(memory) == kr_store_hash(built));
        assert_int_equal(kr_store_tokens(built), n);
        assert_int_equal(kr_store_read(memory, 0, n, a, &e), 0);
        assert_int_equal(kr_store_read(built, 0, n, b, &e), 0);
        assert_memory_equal(a, b, (size_t)n * 4);
        kr_store_close(&built);
        if (round == 1) assert_int_equal(truncate(path, 300), 0); /* damaged: made anew */
        char letters_path[256];
        snprintf(letters_path, sizeof letters_path, "%s/letters.txt", folder);
        const char *from[1] = {letters_path};
        kr_docs_options o = text_of(from, 1);
        o.separator = "\n";
        again = open_store(&o, cache, 1);
        assert_non_null(strstr(kr_store_cache_file(again), cache));
        built = again;
    }
    kr_store_close(&built);
    kr_store_close(&memory);
}

static void token_ids(void **state) {
    (void)state;
    const char *paths[1] = {write_file("t.ids", "5 6 7\n\n8,9\r\n256 1 2\n", 20)};
    kr_docs_options o = {.paths = paths, .n_paths = 1, .ids = true, .tokenizer = bytes};
    kr_docs *d;
    kr_doc doc;
    krait_error e;
    assert_int_equal(kr_docs_open(&d, &o, &e), 0);
    const int64_t counts[] = {3, 0, 2, 3}, first[] = {5, 0, 8, 256}, sizes[] = {3, 0, 2, 2};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(kr_docs_next(d, &doc, &e), 1);
        assert_int_equal(doc.index, i);
        assert_int_equal(doc.count, counts[i]);
        if (doc.count) assert_int_equal(doc.ids[0], first[i]);
        assert_int_equal(doc.bytes, sizes[i]);
        assert_true(doc.first && doc.last);
    }
    assert_int_equal(kr_docs_next(d, &doc, &e), 0);
    kr_docs_close(&d);
    kr_store *s = open_store(&o, NULL, 0);
    assert_int_equal(kr_store_documents(s), 3);
    assert_int_equal(kr_store_tokens(s), 3 + 2 + 3 + 2); /* two end tokens added, one was there */
    kr_store_close(&s);
}

static int once_out_of_memory(const char *path, const char *cache) {
    const char *paths[1] = {path};
    kr_docs_options d = {.paths = paths, .n_paths = 1, .tokenizer = bytes, .separator = "\n"};
    kr_store_options o = {.docs = d, .cache = cache, .memory_bytes = 1};
    kr_store *s;
    krait_error e = {0};
    int rc = kr_store_open(&s, &o, &e);
    if (rc == 0) {
        kr_loader_options lo = {s, {0, kr_store_tokens(s)}, 2, 8, true, 1, 1};
        kr_loader *l;
        rc = kr_loader_open(&l, &lo, &e);
        kr_loader_close(&l);
    }
    kr_store_close(&s);
    assert_true(rc == 0 || (rc == KRAIT_ERR_MEMORY && strlen(e.message)));
    return rc;
}

static void allocations_fail(void **state) {
    (void)state;
    char cache[128];
    snprintf(cache, sizeof cache, "%s/cache2", folder);
    const char *path = write_file("memory.txt", "some\nlines\nof text\n", 19);
    int n = 1, failures = 0;
    for (; n < 200; n++) {
        kr_mem_fail_after(n);
        int rc = once_out_of_memory(path, n % 2 ? cache : NULL);
        bool reached = kr_mem_fail_after(0) >= n;
        failures += rc < 0;
        if (!reached) break;
    }
    assert_true(n < 200);
    assert_true(failures > 5);
    print_message("%d failed allocations, all reported\n", failures);
}

static int make_folder(void **state) {
    (void)state;
    krait_error e;
    return kr_test_folder_make(folder) < 0 || krait_tokenizer_open(&bytes, "bytes", &e) < 0;
}

static int remove_folder(void **state) {
    (void)state;
    krait_tokenizer_close(&bytes);
    return kr_test_folder_drop(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sources),          cmocka_unit_test(pieces),
        cmocka_unit_test(refusals),         cmocka_unit_test(every_token_once),
        cmocka_unit_test(seek_is_exact),    cmocka_unit_test(split_and_single_document),
        cmocka_unit_test(cache_file),       cmocka_unit_test(token_ids),
        cmocka_unit_test(allocations_fail),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
