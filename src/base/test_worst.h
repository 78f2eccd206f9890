/* test_worst.h - for tests: the largest of differences, which a NaN makes infinite. (fmax would
 * leave it out, and a kernel that gives NaN would pass.) */
#ifndef KR_TEST_WORST_H
#define KR_TEST_WORST_H

#include <math.h>

static inline double kr_worst(double worst, double difference) {
    if (isnan(difference)) return INFINITY;
    return difference > worst ? difference : worst;
}

#endif
