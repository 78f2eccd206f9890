/* rope_rows.h - which angle a row has; shared by the kernels of rope.h. */
#ifndef KR_ROPE_ROWS_H
#define KR_ROPE_ROWS_H

#include <math.h>

#include "ops/rope/rope.h"

/* theta_n */
static inline double kr_rope_theta(const kr_rope_attr *a, int64_t n) {
    return pow(a->base, -2 * (double)n / (double)a->width);
}

/* Into [-pi, pi). */
static inline double kr_rope_wrap(double phi) {
    const double turn = 6.283185307179586476925286766559;
    return phi - turn * floor(phi / turn + 0.5);
}

/* The row in [first, end] where the segment of row `end` starts; *fresh: at a start, not at the
 * state. */
static inline int64_t kr_rope_segment(const uint8_t *reset, int64_t first, int64_t end,
                                      bool *fresh) {
    *fresh = false;
    if (!reset) return first;
    for (int64_t t = end; t >= first; t--)
        if (reset[t]) {
            *fresh = true;
            return t;
        }
    return first;
}

#endif
