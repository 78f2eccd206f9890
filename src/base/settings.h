/* settings.h - the settings of a thing (a recipe, a model) or of a kind of thing (a mixer, a task):
 * one table names them, and from the table alone come defaults, reading, checking, writing and
 * help.
 *
 *   static const kr_setting settings[] = {
 *       KR_SETTING_INT_OF(mine, length, 256, 4, 1 << 22, "tokens"),
 *       {.name = NULL}};
 *
 * A setting lies in a struct, as an int64_t, a double, a bool, for a choice as the int that is its
 * place among the choices, or as a text in an array of chars. */
#ifndef KR_SETTINGS_H
#define KR_SETTINGS_H

#include <jansson.h>
#include <krait/error.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum kr_setting_kind {
    KR_SETTING_INT,
    KR_SETTING_REAL,
    KR_SETTING_BOOL,
    KR_SETTING_CHOICE,
    KR_SETTING_TEXT /* `most` chars with the last 0; any, or one of the choices */
} kr_setting_kind;

typedef struct kr_setting {
    const char *name; /* NULL ends the table */
    kr_setting_kind kind;
    size_t at; /* offset in the struct */
    /* of a choice, fallback is its place; a text without choices begins empty */
    double fallback, least, most;
    const char *choices; /* "pool|last|every" */
    const char *help;
    bool later; /* 0 is as before there was this setting */
    /* It has an effect only where one of these holds: "input_gate=true decay=selective", of the
     * same table; NULL: always */
    const char *needs;
} kr_setting;

/* Rows of a table: a setting is called as its member is. Behind the help may stand `.later = true`
 * and `.needs = "..."`. */
#define KR_SETTING_OF(type, kind, field, fallback, least, most, choices, ...)                      \
    { #field, kind, offsetof(type, field), fallback, least, most, choices, .help = __VA_ARGS__ }
#define KR_SETTING_INT_OF(type, field, fallback, least, most, ...)                                 \
    KR_SETTING_OF(type, KR_SETTING_INT, field, fallback, least, most, NULL, __VA_ARGS__)
#define KR_SETTING_REAL_OF(type, field, fallback, least, most, ...)                                \
    KR_SETTING_OF(type, KR_SETTING_REAL, field, fallback, least, most, NULL, __VA_ARGS__)
#define KR_SETTING_BOOL_OF(type, field, fallback, ...)                                             \
    KR_SETTING_OF(type, KR_SETTING_BOOL, field, fallback, 0, 1, NULL, __VA_ARGS__)
#define KR_SETTING_CHOICE_OF(type, field, fallback, choices, ...)                                  \
    KR_SETTING_OF(type, KR_SETTING_CHOICE, field, fallback, 0, 0, choices, __VA_ARGS__)
#define KR_SETTING_TEXT_OF(type, field, choices, ...)                                              \
    KR_SETTING_OF(type, KR_SETTING_TEXT, field, 0, 0, sizeof((type *)0)->field, choices,           \
                  __VA_ARGS__)

/* Everything at its default. */
void kr_settings_default(const kr_setting *table, void *values);
/* The setting of that name (its first `length` bytes); NULL: there is none. */
const kr_setting *kr_settings_find(const kr_setting *table, const char *name, size_t length);

/* Sets one; `from` (a file, "--set") begins the message that refuses a value. */
int kr_setting_parse(const kr_setting *s, void *values, const char *text, const char *from,
                     krait_error *e);
int kr_setting_take(const kr_setting *s, void *values, const json_t *value, const char *from,
                    krait_error *e);
/* "key=value"; an unknown key is refused with the names that there are. `of` is what has them:
 * "task listops". */
int kr_settings_assign(const kr_setting *table, void *values, const char *assignment,
                       const char *from, const char *of, krait_error *e);

/* Refuses values outside their range, whoever put them there. */
int kr_settings_check(const kr_setting *table, const void *values, const char *from,
                      krait_error *e);
/* Refuses what was asked for and has no effect: not at its default, and nothing that it needs
 * holds. */
int kr_settings_check_idle(const kr_setting *table, const void *values, const char *from,
                           krait_error *e);
int kr_settings_count(const kr_setting *table);
/* Writes the names of the table that look like `name`, ", " between them. */
void kr_settings_near(const kr_setting *table, const char *name, char *near, size_t size);

/* Its value for JSON; NULL: no memory. */
json_t *kr_setting_json(const kr_setting *s, const void *values);
bool kr_setting_equal(const kr_setting *s, const void *a, const void *b);
/* Adds all of them to an object: 0, or -1 when memory fails. */
int kr_settings_write(const kr_setting *table, const void *values, json_t *object);
/* The bits of a value, for a hash. */
uint64_t kr_setting_bits(const kr_setting *s, const void *values);
/* A value, cut to what fits, and what a setting may be ("4 to 4194304", "pool|last"), as text. */
const char *kr_setting_text(const kr_setting *s, const void *values, char text[64]);
const char *kr_setting_range(const kr_setting *s, char text[96]);

#endif
