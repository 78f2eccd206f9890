/* tokenizer_write.c - writing tokenizer.json, in the form that Hugging Face's library writes. */
#include "data/tokenizer/tokenizer_write.h"

#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"
#include "data/tokenizer/byte_chars.h"

/* The string of an id in byte characters (an end token: as it is), in a growing buffer. */
typedef struct name {
    char *text;
    size_t capacity;
} name;

static int name_of(const krait_tokenizer *t, int32_t id, name *to, krait_error *e) {
    struct kr_token_span s = t->spans[id];
    if (kr_grow((void **)&to->text, &to->capacity, (size_t)s.size * 2 + 1, 1) < 0)
        return kr_fail_memory(e, "writing a tokenizer");
    size_t n = 0;
    for (uint32_t i = 0; i < s.size; i++) {
        unsigned char byte = t->bytes[s.start + i];
        if (id == t->end)
            to->text[n++] = (char)byte;
        else
            n += kr_byte_put(byte, to->text + n);
    }
    to->text[n] = 0;
    return 0;
}

static int add_vocab(const krait_tokenizer *t, json_t *vocab, name *scratch, krait_error *e) {
    for (int32_t id = 0; id < t->vocabulary; id++) {
        if (!t->spans[id].size) continue;
        KR_TRY(name_of(t, id, scratch, e));
        if (json_object_set_new(vocab, scratch->text, json_integer(id)) < 0)
            return kr_fail_memory(e, "writing a tokenizer");
    }
    return 0;
}

static int add_merges(const krait_tokenizer *t, const kr_merge_pair *merges, int64_t count,
                      json_t *list, name *scratch, krait_error *e) {
    for (int64_t i = 0; i < count; i++) {
        KR_TRY(name_of(t, merges[i].left, scratch, e));
        json_t *left = json_string(scratch->text);
        int rc = name_of(t, merges[i].right, scratch, e);
        json_t *line =
            rc < 0 ? NULL
                   : json_sprintf("%s %s", left ? json_string_value(left) : "", scratch->text);
        if (!left || !line || json_array_append_new(list, line) < 0)
            rc = kr_fail_memory(e, "writing a tokenizer");
        json_decref(left);
        if (rc < 0) return rc;
    }
    return 0;
}

static int add_end(const krait_tokenizer *t, json_t *root, name *scratch, krait_error *e) {
    json_t *list = json_array();
    if (json_object_set_new(root, "added_tokens", list) < 0)
        return kr_fail_memory(e, "writing a tokenizer");
    if (t->end < 0) return 0;
    KR_TRY(name_of(t, t->end, scratch, e));
    json_t *token = json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (int)t->end, "content",
                              scratch->text, "single_word", 0, "lstrip", 0, "rstrip", 0,
                              "normalized", 0, "special", 1);
    if (json_array_append_new(list, token) < 0) return kr_fail_memory(e, "writing a tokenizer");
    return 0;
}

static json_t *byte_level(void) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                     "trim_offsets", 1, "use_regex", 1);
}

/* Everything but tokens and merges; NULL: no memory. */
static json_t *skeleton(json_t **vocab, json_t **merges) {
    json_t *root = json_pack("{s:s, s:n, s:n, s:[], s:n, s:o, s:n, s:o}", "version", "1.0",
                             "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                             byte_level(), "post_processor", "decoder", byte_level());
    *vocab = json_object();
    *merges = json_array();
    json_t *model =
        json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout",
                  "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0,
                  "byte_fallback", 0, "ignore_merges", 0, "vocab", *vocab, "merges", *merges);
    if (root && model && json_object_set_new(root, "model", model) == 0) return root;
    json_decref(root);
    return NULL;
}

int kr_tokenizer_write(const krait_tokenizer *t, const kr_merge_pair *merges, int64_t count,
                       const char *path, krait_error *e) {
    json_t *vocab, *list, *root = skeleton(&vocab, &list);
    name scratch = {0};
    int rc = root ? add_end(t, root, &scratch, e) : kr_fail_memory(e, "writing a tokenizer");
    if (rc == 0) rc = add_vocab(t, vocab, &scratch, e);
    if (rc == 0) rc = add_merges(t, merges, count, list, &scratch, e);
    if (rc == 0) rc = kr_json_write(root, path, e);
    json_decref(root);
    kr_free(scratch.text);
    return rc;
}
