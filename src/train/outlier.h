/* outlier.h - is this step's loss or gradient norm far above those of the last steps?
 *
 *   z = (x - mean) / deviation over the last KR_OUTLIER_WINDOW steps; an outlier has z > threshold
 *
 * for either of the two, once half of the window is filled. Outliers enter the window too, so a new
 * level is accepted in time. */
#ifndef KR_OUTLIER_H
#define KR_OUTLIER_H

#include <stdbool.h>
#include <stdint.h>

#define KR_OUTLIER_WINDOW 128

typedef struct kr_outlier {
    double values[2][KR_OUTLIER_WINDOW]; /* losses, norms */
    double count; /* steps seen; a double so that the whole is one array of f64 */
} kr_outlier;
#define KR_OUTLIER_DOUBLES ((int64_t)(sizeof(kr_outlier) / sizeof(double)))

/* Adds a step; returns true, and the score and what it is of (0 loss, 1 norm), when it is an
 * outlier. threshold 0: never. */
bool kr_outlier_step(kr_outlier *o, double loss, double norm, double threshold, double *z,
                     int *which);

#endif
