/* json_lines.c - a filter for shell tests: fails unless every line of stdin is one JSON object that
 * has all the keys named as arguments, and there is at least one line. */
#include <jansson.h>
#include <stdio.h>

static int check(const char *line, size_t n, int argc, char **argv) {
    json_error_t e;
    json_t *o = json_loadb(line, n, JSON_REJECT_DUPLICATES, &e);
    int rc = 0;
    if (!json_is_object(o)) {
        fprintf(stderr, "no JSON object: %s: %s\n", e.text, line);
        rc = 1;
    }
    for (int i = 1; rc == 0 && i < argc; i++)
        if (!json_object_get(o, argv[i])) {
            fprintf(stderr, "no key %s: %s\n", argv[i], line);
            rc = 1;
        }
    json_decref(o);
    return rc;
}

int main(int argc, char **argv) {
    static char line[1 << 20];
    int lines = 0;
    while (fgets(line, sizeof line, stdin)) {
        size_t n = 0;
        while (line[n] && line[n] != '\n') n++;
        if (check(line, n, argc, argv)) return 1;
        lines++;
    }
    if (lines == 0) fprintf(stderr, "no line at all\n");
    return lines == 0;
}
