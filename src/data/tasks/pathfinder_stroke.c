/* pathfinder_stroke.c - strokes on a canvas twice as fine, scaled down by Lanczos' kernel.
 *
 *   fine line: from the middle to (ceil(n sin o), ceil(n cos o)), n = 2 length
 *   mask:      the fine line dilated by a disc of radius 2m, scaled down in the same way
 *   y_i = sum_k w((k + 1/2 - c_i) / q) x_k / sum_k w,  c_i = (i + 1/2) q,  q = fine / side,
 *   w(t) = sinc(t) sinc(t/3) for |t| < 3
 *
 * Lines are drawn, and levels rounded to 256 after each axis, as the picture library of the source
 * does (Pillow): how often two paths find room hangs on single fine pixels. Source: the picture
 * generator of Linsley et al. 2018 (Pathfinder), as described for the Long Range Arena. */
#include "data/tasks/pathfinder_stroke.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

enum { FINE = 4 * KR_PATH_MOST_SPAN + 1, SCALE = 2 };
static const double pi = 3.14159265358979323846;

static double sinc(double t) { return t == 0 ? 1 : sin(pi * t) / (pi * t); }
static double lanczos(double t) { return fabs(t) < 3 ? sinc(t) * sinc(t / 3) : 0; }

void kr_path_pen_make(kr_path_pen *pen, int length, int margin, double thickness) {
    int span = length + (int)ceil(thickness) + margin;
    *pen = (kr_path_pen){.length = length,
                         .margin = margin,
                         .thickness = (int)(thickness * SCALE + 0.5),
                         .span = span,
                         .side = 2 * span + 1,
                         .fine = 2 * span * SCALE + 1};
    double q = (double)pen->fine / pen->side;
    for (int i = 0; i < pen->side; i++) {
        double c = (i + 0.5) * q, sum = 0;
        int first = (int)fmax(c - 3 * q + 0.5, 0), end = (int)fmin(c + 3 * q + 0.5, pen->fine);
        for (int k = first; k < end; k++) sum += lanczos((k + 0.5 - c) / q);
        for (int k = first; k < end; k++)
            pen->taps[i].weight[k - first] = lanczos((k + 0.5 - c) / q) / sum;
        pen->taps[i].first = first;
        pen->taps[i].count = end - first;
    }
}

static double to_level(double x) { return x < 0 ? 0 : x > 255 ? 255 : floor(x + 0.5); }

/* One axis: out[i][j] = sum_k taps_j x[i][k]. */
static void scale_rows(const kr_path_pen *pen, int rows, int from_stride, const double *x,
                       double *out) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < pen->side; j++) {
            const double *in = x + i * from_stride + pen->taps[j].first;
            double sum = 0;
            for (int k = 0; k < pen->taps[j].count; k++) sum += pen->taps[j].weight[k] * in[k];
            out[j * FINE + i] = to_level(sum); /* turned, for the other axis */
        }
}

static void scale_down(const kr_path_pen *pen, const double *fine, float *out) {
    static const double levels = 255;
    double turned[KR_PATH_WINDOW * FINE], small[KR_PATH_WINDOW * FINE];
    scale_rows(pen, pen->fine, FINE, fine, turned);
    scale_rows(pen, pen->side, FINE, turned, small);
    for (int i = 0; i < pen->side; i++)
        for (int j = 0; j < pen->side; j++)
            out[i * pen->side + j] = (float)(small[i * FINE + j] / levels);
}

/* The line of one pixel from the middle by (dy, dx): half a pixel aside goes on with the line. */
static void draw_thin(const kr_path_pen *pen, int dy, int dx, double *fine) {
    int centre = pen->span * SCALE, steps = abs(dy) > abs(dx) ? abs(dy) : abs(dx);
    for (int i = 0; i <= steps; i++) {
        int y = steps ? (2 * abs(dy) * i + steps) / (2 * steps) : 0;
        int x = steps ? (2 * abs(dx) * i + steps) / (2 * steps) : 0;
        fine[(centre + (dy < 0 ? -y : y)) * FINE + centre + (dx < 0 ? -x : x)] = 255;
    }
}

/* The four corners of a wider line are whole pixels: (thickness - 1)/2 to its two sides, rounded
 * up on one and down on the other. Of each row the pixels nearest to what lies inside are filled.
 */
static void draw_wide(const kr_path_pen *pen, int dy, int dx, double *fine) {
    double length = hypot(dy, dx), centre = pen->span * SCALE;
    double less = (pen->thickness - 1) / 2 / length, more = pen->thickness / 2 / length;
    double y0 = (double)lround(more * dx), x0 = -(double)lround(less * dy);
    double y1 = -(double)lround(less * dx), x1 = (double)lround(more * dy);
    const double y[] = {y0, dy + y0, dy + y1, y1, y0}, x[] = {x0, dx + x0, dx + x1, x1, x0};
    for (int row = -pen->span * SCALE; row <= pen->span * SCALE; row++) {
        double low = FINE, high = -FINE;
        for (int i = 0; i < 4; i++) {
            double rise = y[i + 1] - y[i], at = rise == 0 ? 0 : (row - y[i]) / rise;
            if (at < 0 || at > 1 || (rise == 0 && row != (int)y[i])) continue;
            low = fmin(low, x[i] + at * (x[i + 1] - x[i]));
            high = fmax(high, x[i] + at * (x[i + 1] - x[i]));
        }
        for (double k = floor(centre + low + 0.5); k <= ceil(centre + high - 0.5); k++)
            fine[(row + (int)centre) * FINE + (int)k] = 255;
    }
}

static void dilate(const kr_path_pen *pen, const double *from, double *to) {
    int n = pen->margin * SCALE;
    for (int i = 0; i < pen->fine; i++)
        for (int j = 0; j < pen->fine; j++) {
            if (from[i * FINE + j] == 0) continue;
            for (int y = -n; y <= n; y++)
                for (int x = -n; x <= n; x++)
                    if (x * x + y * y <= n * n) to[(i + y) * FINE + j + x] = 255;
        }
}

/* Where the line ends, from the middle. */
static void end_of(const kr_path_pen *pen, double o, int *dy, int *dx) {
    int centre = pen->span * SCALE, n = pen->length * SCALE;
    *dy = (int)ceil(centre + n * sin(o)) - centre;
    *dx = (int)ceil(centre + n * cos(o)) - centre;
}

int kr_path_pen_strokes(const kr_path_pen *pen) {
    int side = 2 * pen->length * SCALE + 1;
    return side * side;
}

int kr_path_pen_stroke(const kr_path_pen *pen, double o) {
    int dy, dx, n = pen->length * SCALE;
    end_of(pen, o, &dy, &dx);
    return (dy + n) * (2 * n + 1) + dx + n;
}

void kr_path_pen_draw(const kr_path_pen *pen, double o, kr_path_print *out) {
    double fine[FINE * FINE] = {0}, wide[FINE * FINE] = {0};
    int dy, dx;
    end_of(pen, o, &dy, &dx);
    if (pen->thickness > 1)
        draw_wide(pen, dy, dx, fine);
    else
        draw_thin(pen, dy, dx, fine);
    dilate(pen, fine, wide);
    scale_down(pen, fine, out->stroke);
    scale_down(pen, wide, out->mask);
}
