/* pathfinder.h - the drawing of one Pathfinder picture. Internal to the task. */
#ifndef KR_PATHFINDER_H
#define KR_PATHFINDER_H

#include <krait/error.h>

#include "base/rng.h"

enum { KR_PATH_MOST_SPAN = 10 }; /* of a stroke's window: length + ceil(thickness) + margin */
enum { KR_PATH_WINDOW = 2 * KR_PATH_MOST_SPAN + 1 };

typedef struct kr_path_shape {
    int width;                     /* W */
    int least_margin, most_margin; /* free pixels around a stroke: m, drawn for each picture */
    int padding, length;           /* blocked border; l, pixels of a stroke */
    double thickness, radius;      /* of a stroke, of a marker */
    double continuity;             /* c: 1 bends freely, above: straighter */
    int distance;                  /* s, between the first strokes of the two paths */
    int strokes;                   /* n, of each of the two paths */
    int distractors, distractor;   /* how many other paths, and their strokes */
} kr_path_shape;

/* A stroke of a path: where it lies, how far its tail and head are. */
typedef struct kr_path_stroke {
    double tail[2], head[2]; /* row, column */
} kr_path_stroke;

typedef struct kr_path_facts {
    int starts;      /* times that the two paths were begun */
    int distractors; /* that found a place */
    int margin;
    int marker[2][2];        /* row, column of both markers */
    kr_path_stroke *strokes; /* [2 * n], or NULL: not wanted; path 0's, then path 1's */
    double heaviest;         /* the largest mask + stroke mask that was accepted */
} kr_path_facts;

/* Fills image [W,W] with values in [0,1]: markers on the ends of one path (label 1), or on an end
 * of each (label 0). */
int kr_path_draw(const kr_path_shape *p, int label, kr_rng *r, float *image, kr_path_facts *facts,
                 krait_error *e);

#endif
