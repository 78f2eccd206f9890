/* tokenizer_json.c - Hugging Face's tokenizer.json, for byte-level BPE.
 *
 * What decides ids is honoured or refused by its name: a key, a type or a value that is not known
 * here is an error, never passed over. */
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "data/tokenizer/bpe_read.h"
#include "data/tokenizer/bpe_text.h"

enum { MOST_PARTS = 16 }; /* of a Sequence */

static bool claims(const char *path) {
    if (kr_is_file(path)) return true;
    char *inside = kr_path_join(path, "tokenizer.json");
    bool there = inside && kr_is_file(inside);
    kr_free(inside);
    return there;
}

static int refuse(const kr_bpe_reader *r, const char *where, const char *what, krait_error *e) {
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "%s: %s: %.120s is not supported", r->what, where,
                   what);
}

/* Every key of the object must be among `keys`, a list with blanks on both sides of each. */
static int only_keys(const kr_bpe_reader *r, const json_t *o, const char *where, const char *keys,
                     krait_error *e) {
    if (!json_is_object(o))
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: %s is not an object", r->what, where);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)o, key, value) {
        char padded[64];
        if (strlen(key) > 60 || strchr(key, ' ')) return refuse(r, where, key, e);
        snprintf(padded, sizeof padded, " %s ", key);
        if (!strstr(keys, padded)) return refuse(r, where, key, e);
    }
    return 0;
}

/* The "type" of a part; NULL: the part is absent or null. */
static int type_of(const kr_bpe_reader *r, const json_t *part, const char *where, const char **type,
                   krait_error *e) {
    *type = NULL;
    if (!part || json_is_null(part)) return 0;
    if (!json_is_object(part))
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: %s is not an object", r->what, where);
    KR_TRY(kr_json_string(part, "type", type, r->what, e));
    if (*type) return 0;
    return kr_fail(e, KRAIT_ERR_FORMAT, "%s: %s has no type", r->what, where);
}

/* Runs `one` over a part, or over every part of a Sequence (whose members are under `key`). */
typedef int part_fn(kr_bpe_reader *r, const json_t *part, const char *type, krait_error *e);
static int each_part(kr_bpe_reader *r, const json_t *part, const char *where, const char *key,
                     part_fn *one, krait_error *e) {
    const char *type;
    KR_TRY(type_of(r, part, where, &type, e));
    if (!type) return 0;
    if (strcmp(type, "Sequence") != 0) return one(r, part, type, e);
    const json_t *members = json_object_get(part, key);
    if (!json_is_array(members) || json_array_size(members) > MOST_PARTS)
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: %s: a Sequence without a list of at most %d %s",
                       r->what, where, MOST_PARTS, key);
    for (size_t i = 0; i < json_array_size(members); i++) {
        const json_t *member = json_array_get(members, i);
        KR_TRY(type_of(r, member, where, &type, e));
        if (!type || strcmp(type, "Sequence") == 0)
            return refuse(r, where, type ? "a Sequence in a Sequence" : "null in a Sequence", e);
        KR_TRY(one(r, member, type, e));
    }
    return 0;
}

/* ---- normalizer, pre_tokenizer, post_processor, decoder -------------------- */

static int read_normalizer(kr_bpe_reader *r, const json_t *part, const char *type, krait_error *e) {
    if (strcmp(type, "NFC") != 0) return refuse(r, "normalizer", type, e);
    r->b->nfc = true;
    return only_keys(r, part, "normalizer", " type ", e);
}

static int read_byte_level(kr_bpe_reader *r, const json_t *part, krait_error *e) {
    bool prefix = true, regex = true; /* what the format means by absence */
    KR_TRY(
        only_keys(r, part, "pre_tokenizer", " type add_prefix_space trim_offsets use_regex ", e));
    KR_TRY(kr_json_bool(part, "add_prefix_space", &prefix, r->what, e));
    KR_TRY(kr_json_bool(part, "use_regex", &regex, r->what, e));
    return kr_pretok_add_bytes(r->b->pretok, prefix, regex, e);
}

static int read_cut(const kr_bpe_reader *r, const json_t *part, kr_cut *cut, krait_error *e) {
    static const char *const names[] = {"Isolated", "Removed", "Contiguous"};
    const char *behavior = "";
    KR_TRY(kr_json_string(part, "behavior", &behavior, r->what, e));
    for (int i = 0; i < 3; i++) {
        *cut = (kr_cut)i;
        if (strcmp(behavior, names[i]) == 0) return 0;
    }
    return refuse(r, "pre_tokenizer: behavior", behavior, e);
}

static int read_split(kr_bpe_reader *r, const json_t *part, krait_error *e) {
    bool invert = false;
    kr_cut cut;
    KR_TRY(only_keys(r, part, "pre_tokenizer", " type pattern behavior invert ", e));
    KR_TRY(kr_json_bool(part, "invert", &invert, r->what, e));
    KR_TRY(read_cut(r, part, &cut, e));
    const json_t *pattern = json_object_get(part, "pattern");
    KR_TRY(only_keys(r, pattern, "pre_tokenizer: pattern", " Regex String ", e));
    const char *regex = NULL, *string = NULL;
    KR_TRY(kr_json_string(pattern, "Regex", &regex, r->what, e));
    KR_TRY(kr_json_string(pattern, "String", &string, r->what, e));
    if (!regex == !string)
        return kr_fail(e, KRAIT_ERR_FORMAT,
                       "%s: pre_tokenizer: pattern needs one of Regex and String", r->what);
    return kr_pretok_add_split(r->b->pretok, regex ? regex : string, !regex, cut, invert, e);
}

static int read_pre_tokenizer(kr_bpe_reader *r, const json_t *part, const char *type,
                              krait_error *e) {
    if (strcmp(type, "ByteLevel") == 0) return read_byte_level(r, part, e);
    if (strcmp(type, "Split") == 0) return read_split(r, part, e);
    if (strcmp(type, "Digits") == 0) {
        bool single = false;
        KR_TRY(only_keys(r, part, "pre_tokenizer", " type individual_digits ", e));
        KR_TRY(kr_json_bool(part, "individual_digits", &single, r->what, e));
        return kr_pretok_add_split(r->b->pretok, single ? "\\p{N}" : "\\p{N}+", false,
                                   KR_CUT_ISOLATED, false, e);
    }
    if (strcmp(type, "Punctuation") == 0) {
        kr_cut cut;
        KR_TRY(only_keys(r, part, "pre_tokenizer", " type behavior ", e));
        KR_TRY(read_cut(r, part, &cut, e));
        return kr_pretok_add_split(r->b->pretok, "[!-/:-@\\[-`{-~\\p{P}]", false, cut, false, e);
    }
    return refuse(r, "pre_tokenizer", type, e);
}

/* Only those that add no token. */
static int read_post_processor(kr_bpe_reader *r, const json_t *part, const char *type,
                               krait_error *e) {
    if (strcmp(type, "ByteLevel") == 0) return 0; /* it moves offsets, which are not kept */
    if (strcmp(type, "TemplateProcessing") != 0) return refuse(r, "post_processor", type, e);
    const json_t *single = json_object_get(part, "single");
    bool nothing = json_is_array(single) && json_array_size(single) == 1 &&
                   json_object_get(json_array_get(single, 0), "Sequence");
    return nothing ? 0 : refuse(r, "post_processor", "a template that adds tokens", e);
}

static int read_decoder(kr_bpe_reader *r, const json_t *part, const char *type, krait_error *e) {
    (void)part;
    return strcmp(type, "ByteLevel") == 0 ? 0 : refuse(r, "decoder", type, e);
}

/* ---- model -------------------- */

static int read_merges(kr_bpe_reader *r, const json_t *merges, krait_error *e) {
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const json_t *m = json_array_get(merges, i);
        if (json_is_string(m)) {
            KR_TRY(kr_bpe_read_merge(r, json_string_value(m), json_string_length(m), e));
            continue;
        }
        const json_t *left = json_array_get(m, 0), *right = json_array_get(m, 1);
        if (json_array_size(m) != 2 || !json_is_string(left) || !json_is_string(right))
            return kr_fail(e, KRAIT_ERR_FORMAT, "%s: merge %lld is not two strings", r->what,
                           (long long)i);
        KR_TRY(kr_bpe_read_pair(r, json_string_value(left), json_string_length(left),
                                json_string_value(right), json_string_length(right), e));
    }
    return 0;
}

/* Options that change ids in ways that are not done here. */
static int check_model(const kr_bpe_reader *r, const json_t *model, krait_error *e) {
    const char *type = "BPE", *prefix = "", *suffix = "";
    double dropout = 0;
    bool ignore_merges = false;
    KR_TRY(
        only_keys(r, model, "model",
                  " type dropout unk_token continuing_subword_prefix end_of_word_suffix fuse_unk "
                  "byte_fallback ignore_merges vocab merges ",
                  e));
    KR_TRY(kr_json_string(model, "type", &type, r->what, e));
    KR_TRY(kr_json_string(model, "continuing_subword_prefix", &prefix, r->what, e));
    KR_TRY(kr_json_string(model, "end_of_word_suffix", &suffix, r->what, e));
    KR_TRY(kr_json_real(model, "dropout", &dropout, r->what, e));
    KR_TRY(kr_json_bool(model, "ignore_merges", &ignore_merges, r->what, e));
    if (strcmp(type, "BPE") != 0) return refuse(r, "model", type, e);
    if (*prefix) return refuse(r, "model", "continuing_subword_prefix", e);
    if (*suffix) return refuse(r, "model", "end_of_word_suffix", e);
    if (dropout > 0) return refuse(r, "model", "dropout", e);
    if (ignore_merges) return refuse(r, "model", "ignore_merges", e);
    return 0;
}

/* With a token for every byte nothing is ever unknown; without, only plain absence is honoured. */
static int check_unknown(const kr_bpe_reader *r, const json_t *model, krait_error *e) {
    const char *unknown = NULL;
    bool fallback = false;
    KR_TRY(kr_json_string(model, "unk_token", &unknown, r->what, e));
    KR_TRY(kr_json_bool(model, "byte_fallback", &fallback, r->what, e));
    for (int i = 0; i < 256; i++) {
        if (r->b->bpe.byte_id[i] >= 0) continue;
        if (unknown) return refuse(r, "model", "unk_token with bytes that have no token", e);
        if (fallback) return refuse(r, "model", "byte_fallback with bytes that have no token", e);
    }
    return 0;
}

static int read_model(kr_bpe_reader *r, const json_t *model, krait_error *e) {
    KR_TRY(check_model(r, model, e));
    const json_t *merges = json_object_get(model, "merges");
    if (!json_is_array(merges))
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: model: merges is not a list", r->what);
    int64_t count = (int64_t)json_array_size(merges);
    KR_TRY(kr_bpe_read_vocab(r, json_object_get(model, "vocab"), count, e));
    KR_TRY(read_merges(r, merges, e));
    return check_unknown(r, model, e);
}

/* ---- added tokens -------------------- */

static int read_added(kr_bpe_reader *r, const json_t *o, krait_error *e) {
    KR_TRY(only_keys(r, o, "added_tokens",
                     " id content single_word lstrip rstrip normalized special ", e));
    kr_added_token a = {0};
    const char *content = "";
    int64_t id = -1;
    bool normalized = true;
    KR_TRY(kr_json_string(o, "content", &content, r->what, e));
    KR_TRY(kr_json_int(o, "id", &id, r->what, e));
    KR_TRY(kr_json_bool(o, "single_word", &a.single_word, r->what, e));
    KR_TRY(kr_json_bool(o, "special", &a.special, r->what, e));
    KR_TRY(kr_json_bool(o, "lstrip", &a.lstrip, r->what, e));
    KR_TRY(kr_json_bool(o, "rstrip", &a.rstrip, r->what, e));
    KR_TRY(kr_json_bool(o, "normalized", &normalized, r->what, e));
    if (!*content || id < 0 || id > INT32_MAX)
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: added token '%.80s' has no content or no id",
                       r->what, content);
    a.text = (char *)(uintptr_t)content;
    a.size = strlen(content);
    a.id = (int32_t)id;
    return kr_bpe_read_added(r, &a, normalized, e);
}

static int read_all_added(kr_bpe_reader *r, const json_t *list, krait_error *e) {
    if (!list || json_is_null(list)) return 0;
    if (!json_is_array(list))
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: added_tokens is not a list", r->what);
    for (size_t i = 0; i < json_array_size(list); i++)
        KR_TRY(read_added(r, json_array_get(list, i), e));
    return 0;
}

static const kr_added_token *added_named(const kr_added *a, const char *name) {
    for (size_t i = 0; i < a->count; i++)
        if (strcmp(a->tokens[i].text, name) == 0) return &a->tokens[i];
    return NULL;
}

/* What tokenizer_config.json in the same folder calls eos_token: a string, or an object with it as
 * content. NULL: it says nothing. */
static const char *named_end(const char *path, json_t **config) {
    const char *slash = strrchr(path, '/');
    char *folder = slash ? kr_strndup(path, (size_t)(slash - path)) : kr_strdup(".");
    char *beside = folder ? kr_path_join(*folder ? folder : "/", "tokenizer_config.json") : NULL;
    if (beside && kr_is_file(beside)) kr_json_load(config, beside, KR_TOKENIZER_FILE_LIMIT, NULL);
    kr_free(folder);
    kr_free(beside);
    const json_t *end = json_object_get(*config, "eos_token");
    if (json_is_object(end)) end = json_object_get(end, "content");
    return json_string_value(end);
}

static const kr_added_token *find_added(const kr_bpe_text *b, const char *name) {
    const kr_added_token *found = name ? added_named(&b->raw, name) : NULL;
    return found || !name ? found : added_named(&b->normal, name);
}

/* The one special token; NULL where there are none or several. */
static const kr_added_token *only_special(const kr_bpe_text *b) {
    const kr_added_token *found = NULL;
    const kr_added *lists[] = {&b->raw, &b->normal};
    for (int k = 0, seen = 0; k < 2; k++)
        for (size_t i = 0; i < lists[k]->count; i++)
            if (lists[k]->tokens[i].special) found = seen++ ? NULL : &lists[k]->tokens[i];
    return found;
}

/* The end of a document is an added token: the one that tokenizer_config.json names, else one of
 * the usual names, else the only special one. */
static void find_end(kr_bpe_reader *r) {
    static const char *const usual[] = {"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"};
    json_t *config = NULL;
    const kr_added_token *end = find_added(r->b, named_end(r->what, &config));
    json_decref(config);
    for (size_t i = 0; !end && i < sizeof usual / sizeof *usual; i++)
        end = find_added(r->b, usual[i]);
    if (!end) end = only_special(r->b);
    if (end) r->t->end = end->id;
}

/* ---- the file -------------------- */

static int read_parts(kr_bpe_reader *r, krait_error *e) {
    json_t *root = r->root;
    KR_TRY(only_keys(r, root, "the file",
                     " version truncation padding added_tokens normalizer pre_tokenizer "
                     "post_processor decoder model ",
                     e));
    static const char *const must_be_null[] = {"truncation", "padding"};
    for (int i = 0; i < 2; i++) {
        const json_t *value = json_object_get(root, must_be_null[i]);
        if (value && !json_is_null(value))
            return refuse(r, must_be_null[i], "anything but null", e);
    }
    KR_TRY(each_part(r, json_object_get(root, "normalizer"), "normalizer", "normalizers",
                     read_normalizer, e));
    KR_TRY(each_part(r, json_object_get(root, "pre_tokenizer"), "pre_tokenizer", "pretokenizers",
                     read_pre_tokenizer, e));
    KR_TRY(each_part(r, json_object_get(root, "post_processor"), "post_processor", "processors",
                     read_post_processor, e));
    KR_TRY(each_part(r, json_object_get(root, "decoder"), "decoder", "decoders", read_decoder, e));
    if (!kr_pretok_has_bytes(r->b->pretok))
        return refuse(r, "pre_tokenizer", "text that is not byte-level (no ByteLevel step)", e);
    if (json_is_null(json_object_get(root, "decoder")))
        return refuse(r, "decoder", "null with a ByteLevel pre_tokenizer", e);
    KR_TRY(read_model(r, json_object_get(root, "model"), e));
    return read_all_added(r, json_object_get(root, "added_tokens"), e);
}

static int read_file(kr_bpe_reader *r, krait_error *e) {
    kr_map map;
    KR_TRY(kr_bpe_read_begin(r, e));
    KR_TRY(kr_map_open(&map, r->what, e));
    int rc =
        map.size > KR_TOKENIZER_FILE_LIMIT
            ? kr_fail(e, KRAIT_ERR_FORMAT, "%s: larger than 256 MiB", r->what)
            : kr_json_parse(&r->root, map.data ? (const char *)map.data : "", map.size, r->what, e);
    r->t->hash = kr_bpe_read_hash(map.data, map.size, 1);
    kr_map_close(&map);
    if (rc == 0) rc = read_parts(r, e);
    if (rc < 0 && e && !strstr(e->message, r->what)) kr_fail_prefix(e, "%s", r->what);
    return rc;
}

static char *file_of(const char *path) {
    return kr_is_file(path) ? kr_strdup(path) : kr_path_join(path, "tokenizer.json");
}

/* The file itself, as it is now: refused when it is no longer the one that was read. */
static int save(const krait_tokenizer *t, const char *path, krait_error *e) {
    char *file = file_of(t->path);
    kr_map map = {0};
    kr_out out = {0};
    int rc = file ? kr_map_open(&map, file, e) : kr_fail_memory(e, "writing a tokenizer");
    if (rc == 0 && kr_bpe_read_hash(map.data, map.size, 1) != t->hash)
        rc = kr_fail(e, KRAIT_ERR_MISMATCH, "%s: was changed since it was opened", file);
    if (rc == 0) rc = kr_out_open(&out, path, e);
    if (rc == 0) rc = kr_out_write(&out, map.data, map.size, e);
    if (rc == 0) rc = kr_out_commit(&out, e);
    kr_out_abort(&out);
    kr_map_close(&map);
    kr_free(file);
    return rc;
}

static int open_json(krait_tokenizer *t, const char *path, krait_error *e) {
    char *file = file_of(path);
    if (!file) return kr_fail_memory(e, "a tokenizer");
    kr_bpe_reader r = {.t = t, .what = file};
    int rc = kr_bpe_read_end(&r, read_file(&r, e), e);
    if (rc == 0) find_end(&r);
    kr_free(file);
    return rc;
}

const kr_tokenizer_kind kr_tokenizer_json = {
    .name = "tokenizer.json",
    .claims = claims,
    .open = open_json,
    .close = kr_bpe_text_close,
    .save = save,
    .scratch_open = kr_bpe_text_scratch_open,
    .scratch_close = kr_bpe_text_scratch_close,
    .encode = kr_bpe_text_encode,
};
