/* pathfinder_stroke.c - strokes on a canvas twice as fine, scaled down by Lanczos' kernel.
 *
 *   fine line: along its longer axis, the pixels within thickness/2 of it
 *   mask:      the fine line dilated by a disc of radius 2m, scaled down in the same way
 *   y_i = sum_k w((k + 1/2 - c_i) / q) x_k / sum_k w,  c_i = (i + 1/2) q,  q = fine / side,
 *   w(t) = sinc(t) sinc(t/3) for |t| < 3
 *
 * rounded to 256 levels after each axis, as picture libraries do. Source: the picture generator of
 * Linsley et al. 2018 (Pathfinder), as described for the Long Range Arena. */
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

/* From the middle by whole pixels (dy, dx). */
static void draw_line(const kr_path_pen *pen, int dy, int dx, double *fine) {
    int centre = pen->span * SCALE, steps = abs(dy) > abs(dx) ? abs(dy) : abs(dx);
    bool steep = abs(dy) > abs(dx);
    double half = pen->thickness / 2.0;
    if (pen->thickness > 1 && steps) half *= hypot(dy, dx) / steps;
    for (int i = 0; i <= steps; i++) {
        int major = centre + (steps ? (steep ? dy : dx) / steps * i : 0);
        double minor = centre + (steps ? (double)(steep ? dx : dy) * i / steps : 0);
        for (int k = (int)floor(minor - half) + 1; k <= (int)floor(minor + half); k++)
            fine[steep ? major * FINE + k : k * FINE + major] = 255;
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

void kr_path_pen_draw(const kr_path_pen *pen, double o, kr_path_print *out) {
    double fine[FINE * FINE] = {0}, wide[FINE * FINE] = {0}, n = pen->length * SCALE;
    int centre = pen->span * SCALE;
    draw_line(pen, (int)(centre + n * sin(o)) - centre, (int)(centre + n * cos(o)) - centre, fine);
    dilate(pen, fine, wide);
    scale_down(pen, fine, out->stroke);
    scale_down(pen, wide, out->mask);
}
