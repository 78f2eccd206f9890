/* pathfinder_stroke.h - one stroke of a path, drawn finely and scaled down. Internal to the task.
 */
#ifndef KR_PATHFINDER_STROKE_H
#define KR_PATHFINDER_STROKE_H

#include "data/tasks/pathfinder.h"

/* How strokes are drawn: the weights that scale a fine window down to a window. */
typedef struct kr_path_pen {
    int length, margin, thickness; /* thickness: fine pixels */
    int span, side, fine;          /* windows are side = 2*span + 1, fine = 4*span + 1 wide */
    struct {
        int first, count;
        double weight[16];
    } taps[KR_PATH_WINDOW];
} kr_path_pen;

/* A stroke that starts in the middle of its window, and the place that it takes with the free
 * pixels around it; both in [0,1], rows of `side`. */
typedef struct kr_path_print {
    float stroke[KR_PATH_WINDOW * KR_PATH_WINDOW], mask[KR_PATH_WINDOW * KR_PATH_WINDOW];
} kr_path_print;

void kr_path_pen_make(kr_path_pen *pen, int length, int margin, double thickness);
/* A stroke hangs on the fine pixel where its line ends: how many there are, and which one goes in
 * direction o. */
int kr_path_pen_strokes(const kr_path_pen *pen);
int kr_path_pen_stroke(const kr_path_pen *pen, double o);
/* The stroke that goes in direction o: (sin o, cos o) in rows and columns. */
void kr_path_pen_draw(const kr_path_pen *pen, double o, kr_path_print *out);

#endif
