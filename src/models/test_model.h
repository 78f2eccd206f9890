/* test_model.h - for tests: small models whose states matter and whose texts wander, and how far
 * their numbers lie apart. */
#ifndef KR_TEST_MODEL_H
#define KR_TEST_MODEL_H

#include <math.h>

#include "base/rng.h"
#include "models/lm.h"
#include "models/model.h"

/* Fresh weights with noise on top, from r: as they are drawn they would do next to nothing. 0 or
 * negative. */
static inline int kr_test_weights(kr_weights *w, const kr_config *c, kr_rng *r) {
    int rc = kr_lm_init_weights(c, 9, w, NULL);
    for (int64_t i = 0; rc == 0 && i < w->count; i++) {
        const kr_tensor *t = &w->items[i].tensor;
        for (int64_t j = 0; j < kr_tensor_count(t); j++)
            ((float *)t->data)[j] += (float)(0.2 * kr_rng_normal(r));
    }
    return rc;
}

/* A model over bytes, 256 its end. */
static inline int kr_test_model_of(krait_model **out, const char *mixer, int64_t width,
                                   int64_t layers) {
    kr_config c;
    kr_weights w = {0};
    krait_tokenizer *t;
    kr_rng r = kr_rng_make(1, 2);
    int rc = kr_config_make(&c, mixer, width, layers, 257, NULL, NULL);
    c.eos = 256;
    if (rc == 0) rc = kr_test_weights(&w, &c, &r);
    if (rc == 0) rc = krait_tokenizer_open(&t, "bytes", NULL);
    return rc < 0 ? rc : kr_model_from_weights(out, &c, &w, t, NULL);
}

static inline int kr_test_model(krait_model **out, int64_t width, int64_t layers) {
    return kr_test_model_of(out, "mamba1", width, layers);
}

/* The largest difference of a [n] and b [n], relative to the largest magnitude of b; infinite
 * where there is a NaN, or nothing but zeros in b. */
static inline double kr_test_difference(const float *a, const float *b, int64_t n) {
    double worst = 0, largest = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) worst = d;
        largest = fmax(largest, fabs((double)b[i]));
    }
    return largest > 0 && !isnan(worst) ? worst / largest : (double)INFINITY;
}

#endif
