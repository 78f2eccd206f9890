/* outlier.c - z-scores of steps; outlier.h has the rule. */
#include "train/outlier.h"

#include <math.h>

static double score(const double *values, int64_t n, double x) {
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < n; i++) mean += values[i] / (double)n;
    for (int64_t i = 0; i < n; i++)
        variance += (values[i] - mean) * (values[i] - mean) / (double)(n - 1);
    return variance > 0 ? (x - mean) / sqrt(variance) : 0;
}

bool kr_outlier_step(kr_outlier *o, double loss, double norm, double threshold, double *z,
                     int *which) {
    const double x[2] = {loss, norm};
    int64_t seen = (int64_t)o->count;
    int64_t n = seen < KR_OUTLIER_WINDOW ? seen : KR_OUTLIER_WINDOW;
    bool out = false;
    for (int k = 0; k < 2 && threshold > 0 && n >= KR_OUTLIER_WINDOW / 2 && !out; k++) {
        *which = k;
        *z = score(o->values[k], n, x[k]);
        out = *z > threshold;
    }
    for (int k = 0; k < 2; k++) o->values[k][seen % KR_OUTLIER_WINDOW] = x[k];
    o->count++;
    return out;
}
