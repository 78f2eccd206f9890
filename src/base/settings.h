/* settings.h - the settings of a thing of which there are many kinds (a task, a mixer): one table
 * names them, and from the table alone come defaults, reading, checking, writing and help.
 *
 *   static const kr_setting settings[] = {
 *       {"length", KR_SETTING_INT, offsetof(mine, length), 256, 4, 1 << 22, NULL, "tokens"},
 *       {.name = NULL}};
 *
 * A setting lies in the kind's own struct, as an int64_t, a double, a bool, or for a choice as the
 * int that is its place among the choices. */
#ifndef KR_SETTINGS_H
#define KR_SETTINGS_H

#include <jansson.h>
#include <krait/error.h>
#include <stdbool.h>
#include <stddef.h>

typedef enum kr_setting_kind {
    KR_SETTING_INT,
    KR_SETTING_REAL,
    KR_SETTING_BOOL,
    KR_SETTING_CHOICE
} kr_setting_kind;

typedef struct kr_setting {
    const char *name; /* NULL ends the table */
    kr_setting_kind kind;
    size_t at;                    /* offset in the struct */
    double fallback, least, most; /* of a choice, fallback is its place */
    const char *choices;          /* "pool|last|every" */
    const char *help;
} kr_setting;

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

/* Its value for JSON; NULL: no memory. */
json_t *kr_setting_json(const kr_setting *s, const void *values);
bool kr_setting_equal(const kr_setting *s, const void *a, const void *b);
/* Adds all of them to an object: 0, or -1 when memory fails. */
int kr_settings_write(const kr_setting *table, const void *values, json_t *object);
/* A value, and what a setting may be ("4 to 4194304", "pool|last"), as text. */
const char *kr_setting_text(const kr_setting *s, const void *values, char text[64]);
const char *kr_setting_range(const kr_setting *s, char text[96]);

#endif
