/* cli_progress.c - the bar on a terminal, plain lines elsewhere, and numbers for people. */
#define _POSIX_C_SOURCE 200809L
#include <langinfo.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

double cli_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bool cli_utf8(void) { return strcmp(nl_langinfo(CODESET), "UTF-8") == 0; }

static const char *scaled(double n, double step, const char *const *units, char text[32]) {
    int i = 0;
    while (n >= step && units[i + 1]) {
        n /= step;
        i++;
    }
    snprintf(text, 32, i == 0 || n >= 100 ? "%.0f%s" : n >= 10 ? "%.1f%s" : "%.2f%s", n, units[i]);
    return text;
}

const char *cli_human_count(double n, char text[32]) {
    static const char *const units[] = {"", " k", " M", " G", " T", NULL};
    return scaled(n, 1000, units, text);
}

const char *cli_human_bytes(double n, char text[32]) {
    static const char *const units[] = {" B", " kB", " MB", " GB", " TB", NULL};
    return scaled(n, 1000, units, text);
}

const char *cli_human_time(double seconds, char text[32]) {
    long s = seconds < 0 ? 0 : seconds > 1e9 ? 1000000000 : (long)(seconds + 0.5);
    if (s < 60)
        snprintf(text, 32, "%ld s", s);
    else if (s < 3600)
        snprintf(text, 32, "%ld min %02ld s", s / 60, s % 60);
    else
        snprintf(text, 32, "%ld h %02ld min", s / 3600, s / 60 % 60);
    return text;
}

void cli_progress_start(cli_progress *p, const char *label) {
    *p = (cli_progress){.label = label, .terminal = isatty(STDERR_FILENO), .start = cli_seconds()};
    p->last = p->start;
}

/* "1.2 k tokens/s, 3 min 12 s left" */
static void rate_text(char text[96], double done, double all, double seconds, const char *unit) {
    char rate[32], left[32];
    double speed = seconds > 0 ? done / seconds : 0;
    snprintf(text, 96, "%s %s/s", cli_human_count(speed, rate), unit);
    if (all <= 0 || speed <= 0) return;
    size_t n = strlen(text);
    snprintf(text + n, 96 - n, ", %s left", cli_human_time((all - done) / speed, left));
}

static void draw(const cli_progress *p, double done, double all, const char *text) {
    enum { CELLS = 24 };
    char bar[CELLS + 1];
    double share = all > 0 ? done / all : 0;
    int full = (int)(share * CELLS);
    if (full > CELLS) full = CELLS;
    memset(bar, '-', CELLS);
    memset(bar, '#', (size_t)full);
    bar[CELLS] = 0;
    if (!p->terminal)
        fprintf(stderr, "%s: ", p->label);
    else
        fprintf(stderr, "\r\033[K%s ", p->label);
    if (p->terminal && all > 0) fprintf(stderr, "[%s] ", bar);
    if (all > 0) fprintf(stderr, "%3.0f%% ", 100 * share);
    fprintf(stderr, "%s%s", text, p->terminal ? "" : "\n");
    fflush(stderr);
}

void cli_progress_update(cli_progress *p, double done, double all, const char *unit,
                         const char *extra) {
    double now = cli_seconds();
    char rate[96] = "", text[256];
    if (now - p->start < 1 || now - p->last < (p->terminal ? 0.1 : 10)) return;
    if (unit) rate_text(rate, done, all, now - p->start, unit);
    snprintf(text, sizeof text, "%s%s%s", rate, unit && *extra ? ", " : "", extra);
    draw(p, done, all, text);
    p->last = now;
    p->drawn = p->terminal;
}

void cli_progress_clear(cli_progress *p) {
    if (p->drawn) fprintf(stderr, "\r\033[K");
    p->drawn = false;
}
