/* schedule.c - learning rate schedules; schedule.h has the equations. */
#include "train/schedule.h"

#include <math.h>
#include <string.h>

static double wsd_share(const kr_recipe *r, int64_t s) {
    int64_t stable = r->steps - r->decay;
    if (s <= stable) return 1;
    double p = (double)(s - stable) / (double)r->decay;
    return strcmp(r->decay_shape, "sqrt") == 0 ? 1 - sqrt(p) : 1 - p;
}

static double cosine_share(const kr_recipe *r, int64_t s) {
    if (r->steps <= r->warmup) return 1;
    double p = (double)(s - r->warmup) / (double)(r->steps - r->warmup);
    return (1 + cos(3.14159265358979323846 * p)) / 2;
}

double kr_learning_rate(const kr_recipe *r, int64_t s) {
    if (s > r->steps) s = r->steps;
    if (s <= r->warmup) return r->learning_rate * (double)s / (double)r->warmup;
    double share = 1;
    if (strcmp(r->schedule, "cosine") == 0) share = cosine_share(r, s);
    if (strcmp(r->schedule, "wsd") == 0) share = wsd_share(r, s);
    return r->min_learning_rate + (r->learning_rate - r->min_learning_rate) * share;
}
