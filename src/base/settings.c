/* settings.c - values read and written by their table; settings.h says how a table looks. */
#include "base/settings.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

/* Settings may lie in plain bytes: they are copied, never pointed to as what they are. */
static void put_bytes(const kr_setting *s, void *values, const void *from, size_t size) {
    memcpy((char *)values + s->at, from, size);
}

static void get_bytes(const kr_setting *s, const void *values, void *to, size_t size) {
    memcpy(to, (const char *)values + s->at, size);
}

static int64_t get_int(const kr_setting *s, const void *values) {
    int64_t x;
    get_bytes(s, values, &x, sizeof x);
    return x;
}

static double get_real(const kr_setting *s, const void *values) {
    double x;
    get_bytes(s, values, &x, sizeof x);
    return x;
}

static bool get_bool(const kr_setting *s, const void *values) {
    bool x;
    get_bytes(s, values, &x, sizeof x);
    return x;
}

static int get_choice(const kr_setting *s, const void *values) {
    int x;
    get_bytes(s, values, &x, sizeof x);
    return x;
}

static const char *get_text(const kr_setting *s, const void *values) {
    return (const char *)values + s->at;
}

/* ---- choices ---- */

/* The place of text among "a|b|c"; -1: it is none of them. */
static int find_choice(const char *choices, const char *text) {
    size_t n = strlen(text);
    int i = 0;
    for (const char *p = choices; p; i++) {
        const char *end = strchr(p, '|');
        size_t size = end ? (size_t)(end - p) : strlen(p);
        if (n == size && memcmp(p, text, n) == 0) return i;
        p = end ? end + 1 : NULL;
    }
    return -1;
}

static int choice_count(const char *choices) {
    int n = 1;
    for (; *choices; choices++) n += *choices == '|';
    return n;
}

static const char *choice_at(const char *choices, int i, int *length) {
    const char *p = choices;
    while (i-- > 0) p = strchr(p, '|') + 1;
    const char *end = strchr(p, '|');
    *length = end ? (int)(end - p) : (int)strlen(p);
    return p;
}

/* ---- setting ---- */

static void put(const kr_setting *s, void *values, double x) {
    int64_t whole = (int64_t)x;
    bool yes = x != 0;
    int n = (int)x;
    switch (s->kind) {
    case KR_SETTING_INT: put_bytes(s, values, &whole, sizeof whole); break;
    case KR_SETTING_REAL: put_bytes(s, values, &x, sizeof x); break;
    case KR_SETTING_BOOL: put_bytes(s, values, &yes, sizeof yes); break;
    case KR_SETTING_CHOICE: put_bytes(s, values, &n, sizeof n); break;
    case KR_SETTING_TEXT: break;
    }
}

/* The fallback of a text: a choice, or nothing. */
static void put_first(const kr_setting *s, void *values) {
    int n = 0;
    const char *name = s->choices ? choice_at(s->choices, (int)s->fallback, &n) : "";
    snprintf((char *)values + s->at, (size_t)s->most, "%.*s", n, name);
}

void kr_settings_default(const kr_setting *table, void *values) {
    for (const kr_setting *s = table; s && s->name; s++)
        if (s->kind == KR_SETTING_TEXT)
            put_first(s, values);
        else
            put(s, values, s->fallback);
}

const kr_setting *kr_settings_find(const kr_setting *table, const char *name, size_t length) {
    for (const kr_setting *s = table; s && s->name; s++)
        if (strlen(s->name) == length && memcmp(s->name, name, length) == 0) return s;
    return NULL;
}

static int refuse(const kr_setting *s, const char *from, const char *found, krait_error *e) {
    static const char *const wanted[] = {"a whole number from ", "a number from ", "true or false",
                                         "one of ", "a text"};
    char range[96];
    bool word = s->kind == KR_SETTING_TEXT, choice = word && s->choices;
    bool bare = s->kind == KR_SETTING_BOOL || (word && !choice);
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s: %s must be %s%s, is %.60s", from, s->name,
                   wanted[choice ? KR_SETTING_CHOICE : s->kind],
                   bare ? "" : kr_setting_range(s, range), found);
}

static int put_number(const kr_setting *s, void *values, double x, const char *from,
                      krait_error *e) {
    char found[32];
    bool whole = s->kind == KR_SETTING_REAL || floor(x) == x;
    snprintf(found, sizeof found, "%.10g", x);
    if (!(x >= s->least && x <= s->most) || !whole) return refuse(s, from, found, e);
    put(s, values, x);
    return 0;
}

static int put_text(const kr_setting *s, void *values, const char *text, const char *from,
                    krait_error *e) {
    if (s->choices && find_choice(s->choices, text) < 0) return refuse(s, from, text, e);
    if (strlen(text) >= (size_t)s->most)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s: %s is longer than %d bytes", from, s->name,
                       (int)s->most - 1);
    put_bytes(s, values, text, strlen(text) + 1);
    return 0;
}

/* A decimal number and nothing else: no blanks, no 0x10, no inf. */
static bool read_number(const char *text, double *x) {
    char *end;
    for (const char *p = text; *p; p++)
        if (!strchr("0123456789+-.eE", *p)) return false;
    *x = strtod(text, &end);
    return end > text && *end == 0;
}

int kr_setting_parse(const kr_setting *s, void *values, const char *text, const char *from,
                     krait_error *e) {
    if (s->kind == KR_SETTING_TEXT) return put_text(s, values, text, from, e);
    if (s->kind == KR_SETTING_CHOICE) {
        int i = find_choice(s->choices, text);
        if (i < 0) return refuse(s, from, text, e);
        put(s, values, i);
        return 0;
    }
    if (s->kind == KR_SETTING_BOOL) {
        bool yes = strcmp(text, "true") == 0 || strcmp(text, "1") == 0;
        if (!yes && strcmp(text, "false") != 0 && strcmp(text, "0") != 0)
            return refuse(s, from, text, e);
        put(s, values, yes);
        return 0;
    }
    double x;
    if (!read_number(text, &x)) return refuse(s, from, text, e);
    return put_number(s, values, x, from, e);
}

int kr_setting_take(const kr_setting *s, void *values, const json_t *value, const char *from,
                    krait_error *e) {
    bool number = s->kind == KR_SETTING_INT || s->kind == KR_SETTING_REAL;
    if (number && json_is_number(value))
        return put_number(s, values, json_number_value(value), from, e);
    if (s->kind == KR_SETTING_BOOL && json_is_boolean(value)) {
        put(s, values, json_is_true(value));
        return 0;
    }
    if ((s->kind == KR_SETTING_CHOICE || s->kind == KR_SETTING_TEXT) && json_is_string(value))
        return kr_setting_parse(s, values, json_string_value(value), from, e);
    return refuse(s, from, "a value of another type", e);
}

static int unknown(const kr_setting *table, const char *name, size_t length, const char *from,
                   const char *of, krait_error *e) {
    char names[256] = "";
    for (const kr_setting *s = table; s && s->name; s++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", s->name);
    }
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s: %s has no setting \"%.*s\"; it has: %s", from, of,
                   (int)(length < 60 ? length : 60), name, *names ? names : "none");
}

int kr_settings_assign(const kr_setting *table, void *values, const char *assignment,
                       const char *from, const char *of, krait_error *e) {
    const char *equals = strchr(assignment, '=');
    if (!equals || equals == assignment)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s %.100s: expected key=value", from, assignment);
    size_t n = (size_t)(equals - assignment);
    const kr_setting *s = kr_settings_find(table, assignment, n);
    if (!s) return unknown(table, assignment, n, from, of, e);
    return kr_setting_parse(s, values, equals + 1, from, e);
}

/* ---- checking ---- */

int kr_settings_count(const kr_setting *table) {
    int n = 0;
    while (table[n].name) n++;
    return n;
}

/* The value as a number in [least, most], where it is one or is a choice. */
static bool is_allowed(const kr_setting *s, const void *values) {
    switch (s->kind) {
    case KR_SETTING_INT:
        return (double)get_int(s, values) >= s->least && (double)get_int(s, values) <= s->most;
    case KR_SETTING_REAL: return get_real(s, values) >= s->least && get_real(s, values) <= s->most;
    case KR_SETTING_CHOICE:
        return get_choice(s, values) >= 0 && get_choice(s, values) < choice_count(s->choices);
    case KR_SETTING_BOOL:
    case KR_SETTING_TEXT: break;
    }
    return true;
}

int kr_settings_check(const kr_setting *table, const void *values, const char *from,
                      krait_error *e) {
    for (const kr_setting *s = table; s && s->name; s++) {
        char found[64] = "none of them";
        if (is_allowed(s, values)) continue;
        if (s->kind != KR_SETTING_CHOICE) kr_setting_text(s, values, found);
        return refuse(s, from, found, e);
    }
    return 0;
}

/* At its default? A text has none to compare with. */
static bool is_usual(const kr_setting *s, const void *values) {
    switch (s->kind) {
    case KR_SETTING_INT: return get_int(s, values) == (int64_t)s->fallback;
    case KR_SETTING_REAL: return get_real(s, values) == s->fallback;
    case KR_SETTING_BOOL: return get_bool(s, values) == (s->fallback != 0);
    case KR_SETTING_CHOICE: return get_choice(s, values) == (int)s->fallback;
    case KR_SETTING_TEXT: break;
    }
    return false;
}

/* Does the first of the pairs in `needs` hold? "name=value", to the next blank. */
static bool holds(const kr_setting *table, const void *values, const char *needs) {
    char text[64];
    size_t name = strcspn(needs, "="), pair = strcspn(needs, " ");
    const kr_setting *s = kr_settings_find(table, needs, name);
    const char *value = needs + name + 1;
    size_t n = pair - name - 1;
    return s && strlen(kr_setting_text(s, values, text)) == n && memcmp(text, value, n) == 0;
}

int kr_settings_check_idle(const kr_setting *table, const void *values, const char *from,
                           krait_error *e) {
    for (const kr_setting *s = table; s && s->name; s++) {
        char needs[200] = "", found[64];
        bool idle = s->needs && !is_usual(s, values);
        for (const char *p = s->needs; p && idle; p = strchr(p, ' ') ? strchr(p, ' ') + 1 : NULL) {
            size_t used = strlen(needs);
            idle = !holds(table, values, p);
            snprintf(needs + used, sizeof needs - used, "%s%.*s", used ? " or " : "",
                     (int)strcspn(p, " "), p);
        }
        if (!idle) continue;
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s: %s (%s) has no effect without %s: leave it out",
                       from, s->name, kr_setting_text(s, values, found), needs);
    }
    return 0;
}

/* ---- near names ---- */

/* Edits that turn a into b (insert, delete, replace), for names under 64 bytes. */
static int edits(const char *a, const char *b) {
    int row[64], n = (int)strlen(b);
    if (n > 63 || strlen(a) > 63) return INT_MAX;
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[n];
}

void kr_settings_near(const kr_setting *table, const char *name, char *near, size_t size) {
    *near = 0;
    for (int distance = 1; distance <= 4; distance++)
        for (const kr_setting *s = table; s && s->name; s++) {
            bool part = strlen(name) > 2 && strstr(s->name, name);
            int d = part ? 1 : edits(name, s->name);
            if (d != distance || d * 2 > (int)strlen(name) + 1) continue;
            size_t used = strlen(near);
            snprintf(near + used, size - used, "%s%s", used ? ", " : "", s->name);
        }
}

/* ---- telling ---- */

json_t *kr_setting_json(const kr_setting *s, const void *values) {
    int n;
    switch (s->kind) {
    case KR_SETTING_INT: return json_integer(get_int(s, values));
    case KR_SETTING_REAL: return json_real(get_real(s, values));
    case KR_SETTING_BOOL: return json_boolean(get_bool(s, values));
    case KR_SETTING_TEXT: return json_string(get_text(s, values));
    case KR_SETTING_CHOICE: break;
    }
    const char *name = choice_at(s->choices, get_choice(s, values), &n);
    return json_stringn(name, (size_t)n);
}

bool kr_setting_equal(const kr_setting *s, const void *a, const void *b) {
    if (s->kind == KR_SETTING_REAL) return get_real(s, a) == get_real(s, b);
    if (s->kind == KR_SETTING_TEXT) return strcmp(get_text(s, a), get_text(s, b)) == 0;
    return kr_setting_bits(s, a) == kr_setting_bits(s, b);
}

uint64_t kr_setting_bits(const kr_setting *s, const void *values) {
    uint64_t bits = 0;
    switch (s->kind) {
    case KR_SETTING_INT:
    case KR_SETTING_REAL: get_bytes(s, values, &bits, sizeof bits); break;
    case KR_SETTING_BOOL: bits = get_bool(s, values); break;
    case KR_SETTING_CHOICE: bits = (uint64_t)get_choice(s, values); break;
    case KR_SETTING_TEXT:
        for (const char *p = get_text(s, values); *p; p++)
            bits = (bits ^ (unsigned char)*p) * 0x100000001B3u;
        break;
    }
    return bits;
}

int kr_settings_write(const kr_setting *table, const void *values, json_t *object) {
    for (const kr_setting *s = table; s && s->name; s++)
        if (json_object_set_new(object, s->name, kr_setting_json(s, values)) != 0) return -1;
    return 0;
}

const char *kr_setting_text(const kr_setting *s, const void *values, char text[64]) {
    int n;
    const char *name;
    switch (s->kind) {
    case KR_SETTING_INT: snprintf(text, 64, "%" PRId64, get_int(s, values)); break;
    case KR_SETTING_REAL: snprintf(text, 64, "%.10g", get_real(s, values)); break;
    case KR_SETTING_BOOL: snprintf(text, 64, "%s", get_bool(s, values) ? "true" : "false"); break;
    case KR_SETTING_TEXT: snprintf(text, 64, "%s", get_text(s, values)); break;
    case KR_SETTING_CHOICE:
        name = choice_at(s->choices, get_choice(s, values), &n);
        snprintf(text, 64, "%.*s", n, name);
        break;
    }
    return text;
}

const char *kr_setting_range(const kr_setting *s, char text[96]) {
    if (s->choices)
        snprintf(text, 96, "%s", s->choices);
    else if (s->kind == KR_SETTING_BOOL)
        snprintf(text, 96, "true|false");
    else if (s->kind == KR_SETTING_TEXT)
        snprintf(text, 96, "at most %d bytes", (int)s->most - 1);
    else
        snprintf(text, 96, "%.10g to %.10g", s->least, s->most);
    return text;
}
