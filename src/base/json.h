/* json.h - JSON through jansson, within the house's limits.
 *
 * Foreign text is bounded in size and nesting and may not repeat a key. The library leaves
 * jansson's process-wide allocator alone (it belongs to the host); the tests point it at kr_malloc
 * to fail its allocations too. */
#ifndef KR_JSON_H
#define KR_JSON_H

#include <jansson.h>
#include <krait/error.h>
#include <stdint.h>

#define KR_JSON_MAX_DEPTH 64

/* Parses text[0..size). A bare Infinity, as Python writes it, is 1e308. `what` is the file, for
 * messages. The caller drops *out by json_decref. */
int kr_json_parse(json_t **out, const char *text, size_t size, const char *what, krait_error *e);
/* A whole file of at most max_size bytes. */
int kr_json_load(json_t **out, const char *path, size_t max_size, krait_error *e);
/* Indented, numbers in the fewest digits that read back the same, the file whole or not at all. */
int kr_json_write(const json_t *json, const char *path, krait_error *e);

/* An object's member of a wanted type. An absent or null member leaves *value; a member of another
 * type is an error that names the file and the key. An integer is accepted where a real is wanted.
 */
int kr_json_int(const json_t *object, const char *key, int64_t *value, const char *what,
                krait_error *e);
int kr_json_real(const json_t *object, const char *key, double *value, const char *what,
                 krait_error *e);
int kr_json_bool(const json_t *object, const char *key, _Bool *value, const char *what,
                 krait_error *e);
int kr_json_string(const json_t *object, const char *key, const char **value, const char *what,
                   krait_error *e); /* *value lives as long as the object */

#endif
