/* cli_plot.c - curves in a terminal: braille dots (2 x 4 a character) where the locale is UTF-8,
 * stars elsewhere. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

void cli_series_add(cli_series *s, double x, double y) {
    if (isnan(y) || isinf(y)) return;
    if (s->n == s->capacity) {
        s->capacity = s->capacity ? 2 * s->capacity : 64;
        s->x = cli_resize(s->x, s->capacity * sizeof *s->x);
        s->y = cli_resize(s->y, s->capacity * sizeof *s->y);
    }
    s->x[s->n] = x;
    s->y[s->n++] = y;
}

void cli_series_free(cli_series *s) {
    free(s->x);
    free(s->y);
    *s = (cli_series){0};
}

typedef struct canvas {
    int columns, rows, across, down; /* characters, and dots in each */
    unsigned char *dots;             /* [rows, columns] bits */
    char *marks;                     /* [rows, columns] 1: a mark */
    double x0, x1, y0, y1;
} canvas;

static void widen(canvas *c, const cli_series *s) {
    for (size_t i = 0; i < s->n; i++) {
        c->x0 = fmin(c->x0, s->x[i]);
        c->x1 = fmax(c->x1, s->x[i]);
        c->y0 = fmin(c->y0, s->y[i]);
        c->y1 = fmax(c->y1, s->y[i]);
    }
}

static int place(double v, double low, double high, int count) {
    int i = (int)((v - low) / (high - low) * (count - 1) + 0.5);
    return i < 0 ? 0 : i >= count ? count - 1 : i;
}

/* Bit of a dot within its character: Unicode numbers the braille dots by column, the fourth row
 * last. */
static const unsigned char braille[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};

static void set_dot(canvas *c, int x, int y) {
    int row = c->rows - 1 - y / c->down, cell = row * c->columns + x / c->across;
    unsigned char bit = c->down == 4 ? braille[3 - y % 4][x % 2] : 1;
    c->dots[cell] = (unsigned char)(c->dots[cell] | bit);
}

/* Joins the columns from last_x to x by a straight line, without gaps. */
static void join(canvas *c, int last_x, int last_y, int x, int y) {
    for (int i = last_x + 1; i <= x; i++) {
        int from = last_y + (y - last_y) * (i - 1 - last_x) / (x - last_x);
        int to = last_y + (y - last_y) * (i - last_x) / (x - last_x);
        int step = to < from ? -1 : 1;
        for (int k = from; k != to; k += step) set_dot(c, i, k);
        set_dot(c, i, to);
    }
}

/* The mean of what falls on each column of dots, joined. */
static void draw_line(canvas *c, const cli_series *s) {
    int width = c->columns * c->across, height = c->rows * c->down, last_x = -1, last_y = 0;
    for (size_t i = 0; i < s->n;) {
        int x = place(s->x[i], c->x0, c->x1, width);
        double sum = 0;
        size_t first = i;
        while (i < s->n && place(s->x[i], c->x0, c->x1, width) == x) sum += s->y[i++];
        int y = place(sum / (double)(i - first), c->y0, c->y1, height);
        set_dot(c, x, y);
        if (last_x >= 0) join(c, last_x, last_y, x, y);
        last_x = x;
        last_y = y;
    }
}

static void print_row(FILE *f, const canvas *c, int row, bool utf8) {
    for (int i = 0; i < c->columns; i++) {
        unsigned char bits = c->dots[row * c->columns + i];
        if (c->marks[row * c->columns + i])
            fputs(utf8 ? "\xe2\x97\x8f" : "o", f);
        else if (!utf8 || !bits)
            fputc(bits ? '*' : ' ', f);
        else /* U+2800 + bits */
            fprintf(f, "\xe2%c%c", 0xa0 + (bits >> 6), 0x80 + (bits & 0x3f));
    }
    fputc('\n', f);
}

static void print_canvas(FILE *f, const canvas *c, bool utf8) {
    for (int row = 0; row < c->rows; row++) {
        double y = c->y1 - (c->y1 - c->y0) * row / (c->rows - 1);
        bool labelled = row % 4 == 0 || row == c->rows - 1;
        if (labelled)
            fprintf(f, "%8.3f %s", y, utf8 ? "\xe2\x94\xa4" : "+");
        else
            fprintf(f, "%8s %s", "", utf8 ? "\xe2\x94\x82" : "|");
        print_row(f, c, row, utf8);
    }
    fprintf(f, "%9s%s", "", utf8 ? "\xe2\x94\x94" : "+");
    for (int i = 0; i < c->columns; i++) fputs(utf8 ? "\xe2\x94\x80" : "-", f);
    fprintf(f, "\n%10s%-*.0f%*.0f\n", "", c->columns / 2, c->x0, c->columns - c->columns / 2,
            c->x1);
}

void cli_plot(FILE *f, const cli_series *line, const cli_series *marks, int columns, int rows,
              bool utf8) {
    canvas c = {.columns = columns < 20 ? 20 : columns, .rows = rows < 4 ? 4 : rows};
    c.across = utf8 ? 2 : 1;
    c.down = utf8 ? 4 : 1;
    c.x0 = c.y0 = INFINITY;
    c.x1 = c.y1 = -INFINITY;
    widen(&c, line);
    widen(&c, marks);
    if (line->n < 2 || c.x1 <= c.x0) return;
    if (c.y1 <= c.y0) c.y1 = c.y0 + 1;
    c.dots = cli_alloc((size_t)(c.columns * c.rows));
    c.marks = cli_alloc((size_t)(c.columns * c.rows));
    draw_line(&c, line);
    for (size_t i = 0; i < marks->n; i++) {
        int row = c.rows - 1 - place(marks->y[i], c.y0, c.y1, c.rows * c.down) / c.down;
        c.marks[row * c.columns + place(marks->x[i], c.x0, c.x1, c.columns)] = 1;
    }
    print_canvas(f, &c, utf8);
    free(c.dots);
    free(c.marks);
}
