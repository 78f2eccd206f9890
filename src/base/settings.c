/* settings.c - values read and written by their table; settings.h says how a table looks. */
#include "base/settings.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

static void *place(const kr_setting *s, const void *values) {
    return (char *)(uintptr_t)values + s->at;
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

static const char *choice_at(const char *choices, int i, int *length) {
    const char *p = choices;
    while (i-- > 0) p = strchr(p, '|') + 1;
    const char *end = strchr(p, '|');
    *length = end ? (int)(end - p) : (int)strlen(p);
    return p;
}

/* ---- setting ---- */

static void put(const kr_setting *s, void *values, double x) {
    switch (s->kind) {
    case KR_SETTING_INT: *(int64_t *)place(s, values) = (int64_t)x; break;
    case KR_SETTING_REAL: *(double *)place(s, values) = x; break;
    case KR_SETTING_BOOL: *(bool *)place(s, values) = x != 0; break;
    case KR_SETTING_CHOICE: *(int *)place(s, values) = (int)x; break;
    }
}

void kr_settings_default(const kr_setting *table, void *values) {
    for (const kr_setting *s = table; s && s->name; s++) put(s, values, s->fallback);
}

const kr_setting *kr_settings_find(const kr_setting *table, const char *name, size_t length) {
    for (const kr_setting *s = table; s && s->name; s++)
        if (strlen(s->name) == length && memcmp(s->name, name, length) == 0) return s;
    return NULL;
}

static int refuse(const kr_setting *s, const char *from, const char *found, krait_error *e) {
    static const char *const wanted[] = {"a whole number", "a number", "true or false", "one of"};
    char range[96];
    bool bare = s->kind == KR_SETTING_BOOL;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s: %s must be %s%s%s, is %.60s", from, s->name,
                   wanted[s->kind],
                   bare                           ? ""
                   : s->kind == KR_SETTING_CHOICE ? " "
                                                  : " from ",
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

int kr_setting_parse(const kr_setting *s, void *values, const char *text, const char *from,
                     krait_error *e) {
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
    char *end;
    double x = strtod(text, &end);
    if (end == text || *end) return refuse(s, from, text, e);
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
    if (s->kind == KR_SETTING_CHOICE && json_is_string(value))
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

/* ---- telling ---- */

json_t *kr_setting_json(const kr_setting *s, const void *values) {
    int n;
    switch (s->kind) {
    case KR_SETTING_INT: return json_integer(*(const int64_t *)place(s, values));
    case KR_SETTING_REAL: return json_real(*(const double *)place(s, values));
    case KR_SETTING_BOOL: return json_boolean(*(const bool *)place(s, values));
    case KR_SETTING_CHOICE: break;
    }
    const char *name = choice_at(s->choices, *(const int *)place(s, values), &n);
    return json_stringn(name, (size_t)n);
}

bool kr_setting_equal(const kr_setting *s, const void *a, const void *b) {
    const void *x = place(s, a), *y = place(s, b);
    switch (s->kind) {
    case KR_SETTING_INT: return *(const int64_t *)x == *(const int64_t *)y;
    case KR_SETTING_REAL: return *(const double *)x == *(const double *)y;
    case KR_SETTING_BOOL: return *(const bool *)x == *(const bool *)y;
    case KR_SETTING_CHOICE: return *(const int *)x == *(const int *)y;
    }
    return false;
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
    case KR_SETTING_INT:
        snprintf(text, 64, "%lld", (long long)*(const int64_t *)place(s, values));
        break;
    case KR_SETTING_REAL: snprintf(text, 64, "%.10g", *(const double *)place(s, values)); break;
    case KR_SETTING_BOOL:
        snprintf(text, 64, "%s", *(const bool *)place(s, values) ? "true" : "false");
        break;
    case KR_SETTING_CHOICE:
        name = choice_at(s->choices, *(const int *)place(s, values), &n);
        snprintf(text, 64, "%.*s", n, name);
        break;
    }
    return text;
}

const char *kr_setting_range(const kr_setting *s, char text[96]) {
    if (s->kind == KR_SETTING_CHOICE)
        snprintf(text, 96, "%s", s->choices);
    else if (s->kind == KR_SETTING_BOOL)
        snprintf(text, 96, "true|false");
    else
        snprintf(text, 96, "%.10g to %.10g", s->least, s->most);
    return text;
}
