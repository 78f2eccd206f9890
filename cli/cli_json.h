/* cli_json.h - JSON lines on stdout. */
#ifndef CLI_JSON_H
#define CLI_JSON_H

#include <jansson.h>
#include <stddef.h>

/* Prints an object on a line of its own and frees it. */
void cli_json(json_t *object);
/* A string whose bytes that are not UTF-8 became U+FFFD. */
json_t *cli_json_text(const char *bytes, size_t n);
/* A number; null for what JSON has no number for. */
json_t *cli_json_real(double x);
/* [ids] */
json_t *cli_json_ids(const int32_t *ids, int64_t n);

#endif
