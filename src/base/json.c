/* json.c - reading and writing JSON with limits, over jansson. */
#include "base/json.h"

#include <stdbool.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"

/* The deepest nesting of brackets outside strings. Text that is not JSON gives some number too: the
 * parser refuses it later. */
static int nesting(const char *text, size_t size) {
    int depth = 0, deepest = 0;
    bool quoted = false;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (quoted && c == '\\') {
            i++;
        } else if (c == '"') {
            quoted = !quoted;
        } else if (!quoted && (c == '[' || c == '{')) {
            if (++depth > deepest) deepest = depth;
            if (deepest > KR_JSON_MAX_DEPTH) break;
        } else if (!quoted && (c == ']' || c == '}')) {
            depth--;
        }
    }
    return deepest;
}

/* Puts the largest number there is in the place of each bare Infinity, which Python writes and JSON
 * does not have; whether there was one. */
static bool replace_infinity(char *text, size_t size) {
    bool quoted = false, any = false;
    for (size_t i = 0; i + 8 <= size; i++) {
        if (quoted && text[i] == '\\') {
            i++;
        } else if (text[i] == '"') {
            quoted = !quoted;
        } else if (!quoted && memcmp(text + i, "Infinity", 8) == 0) {
            memcpy(text + i, "1.0e+308", 8);
            any = true;
        }
    }
    return any;
}

/* A copy of the text without Infinity; NULL: it has none, or there is no memory. */
static char *without_infinity(const char *text, size_t size) {
    char *copy = kr_malloc(size + 1);
    if (!copy) return NULL;
    memcpy(copy, text, size);
    if (replace_infinity(copy, size)) return copy;
    kr_free(copy);
    return NULL;
}

int kr_json_parse(json_t **out, const char *text, size_t size, const char *what, krait_error *e) {
    *out = NULL;
    if (nesting(text, size) > KR_JSON_MAX_DEPTH)
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: JSON nested deeper than %d levels", what,
                       KR_JSON_MAX_DEPTH);
    json_error_t reason = {0};
    *out = json_loadb(text, size, JSON_REJECT_DUPLICATES, &reason);
    if (*out) return 0;
    char *plain = without_infinity(text, size);
    if (plain) *out = json_loadb(plain, size, JSON_REJECT_DUPLICATES, &reason);
    kr_free(plain);
    if (*out) return 0;
    if (reason.text[0] == 0 || json_error_code(&reason) == json_error_out_of_memory)
        return kr_fail_memory(e, what);
    return kr_fail(e, KRAIT_ERR_FORMAT, "%s: not valid JSON: line %d, column %d: %s", what,
                   reason.line, reason.column, reason.text);
}

int kr_json_load(json_t **out, const char *path, size_t max_size, krait_error *e) {
    *out = NULL;
    kr_map map;
    KR_TRY(kr_map_open(&map, path, e));
    int rc;
    if (map.size > max_size)
        rc = kr_fail(e, KRAIT_ERR_FORMAT, "%s: %zu bytes of JSON, at most %zu are read", path,
                     map.size, max_size);
    else
        rc = kr_json_parse(out, map.data ? (const char *)map.data : "", map.size, path, e);
    kr_map_close(&map);
    return rc;
}

/* The text in the fewest digits (15 to 17) whose numbers read back equal. */
static char *shortest_text(const json_t *json) {
    for (size_t digits = 15; digits < 17; digits++) {
        char *text = json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(digits));
        if (!text) return NULL;
        json_t *back = json_loads(text, JSON_DECODE_ANY, NULL);
        bool same = back && json_equal(back, json);
        json_decref(back);
        if (same) return text;
        kr_free(text);
    }
    return json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
}

int kr_json_write(const json_t *json, const char *path, krait_error *e) {
    char *text = shortest_text(json);
    if (!text) return kr_fail_memory(e, path);
    kr_out out = {0};
    int rc = kr_out_open(&out, path, e);
    if (rc == 0) rc = kr_out_write(&out, text, strlen(text), e);
    if (rc == 0) rc = kr_out_write(&out, "\n", 1, e);
    if (rc == 0) rc = kr_out_commit(&out, e);
    kr_out_abort(&out);
    kr_free(text);
    return rc;
}

static int wrong_type(const char *what, const char *key, const char *wanted, krait_error *e) {
    return kr_fail(e, KRAIT_ERR_FORMAT, "%s: \"%s\" is not %s", what, key, wanted);
}

static const json_t *member(const json_t *object, const char *key) {
    const json_t *v = json_object_get(object, key);
    return json_is_null(v) ? NULL : v;
}

int kr_json_int(const json_t *object, const char *key, int64_t *value, const char *what,
                krait_error *e) {
    const json_t *v = member(object, key);
    if (v && !json_is_integer(v)) return wrong_type(what, key, "an integer", e);
    if (v) *value = json_integer_value(v);
    return 0;
}

int kr_json_real(const json_t *object, const char *key, double *value, const char *what,
                 krait_error *e) {
    const json_t *v = member(object, key);
    if (v && !json_is_number(v)) return wrong_type(what, key, "a number", e);
    if (v) *value = json_number_value(v);
    return 0;
}

int kr_json_bool(const json_t *object, const char *key, _Bool *value, const char *what,
                 krait_error *e) {
    const json_t *v = member(object, key);
    if (v && !json_is_boolean(v)) return wrong_type(what, key, "true or false", e);
    if (v) *value = json_is_true(v);
    return 0;
}

int kr_json_string(const json_t *object, const char *key, const char **value, const char *what,
                   krait_error *e) {
    const json_t *v = member(object, key);
    if (v && !json_is_string(v)) return wrong_type(what, key, "a string", e);
    if (v) *value = json_string_value(v);
    return 0;
}
