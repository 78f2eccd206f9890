/* cli_json.c - JSON lines on stdout. */
#include <math.h>
#include <stdlib.h>

#include "cli.h"
#include "cli_json.h"

void cli_json(json_t *object) {
    char *line = object ? json_dumps(object, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
    if (!line) {
        fprintf(stderr, "krait: not enough memory\n");
        exit(CLI_FAILED);
    }
    puts(line);
    fflush(stdout);
    free(line);
    json_decref(object);
}

json_t *cli_json_text(const char *bytes, size_t n) {
    json_t *whole = json_stringn(bytes, n);
    if (whole) return whole;
    cli_buffer clean = {0};
    for (size_t i = 0; i < n;) {
        size_t length = n - i < 4 ? n - i : 4;
        json_t *part = NULL;
        while (length > 0 && !(part = json_stringn(bytes + i, length))) length--;
        json_decref(part);
        if (length > 0)
            cli_append(&clean, bytes + i, length);
        else
            cli_append(&clean, "\xef\xbf\xbd", 3);
        i += length > 0 ? length : 1;
    }
    whole = json_stringn(clean.bytes, clean.length);
    cli_buffer_free(&clean);
    return whole;
}

json_t *cli_json_real(double x) { return isfinite(x) ? json_real(x) : json_null(); }

json_t *cli_json_ids(const int32_t *ids, int64_t n) {
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++) json_array_append_new(list, json_integer(ids[i]));
    return list;
}
