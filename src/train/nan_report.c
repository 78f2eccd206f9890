/* nan_report.c - finds the first value that is not finite. */
#include "train/nan_report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"

typedef struct finding {
    bool found;
    char text[200];
} finding;

static bool row_is_finite(const kr_tensor *t, int64_t row) {
    int64_t width = t->rank > 1 ? t->shape[t->rank - 1] : 1;
    int64_t stride = t->rank > 1 ? t->stride[t->rank - 2] : 1;
    const float *x = (const float *)t->data + row * stride;
    for (int64_t i = 0; i < width; i++)
        if (!isfinite(x[i])) return false;
    return true;
}

static bool is_finite(const kr_tensor *t) {
    if (!t->data || t->dtype != KR_F32) return true;
    int64_t rows = 1;
    for (int i = 0; i + 1 < t->rank; i++) rows *= t->shape[i];
    if (t->rank == 1) rows = t->shape[0];
    for (int64_t row = 0; row < rows; row++)
        if (!row_is_finite(t, row)) return false;
    return true;
}

static void look(void *user, const kr_node *n, const kr_op *op, const kr_tensor *outs, int n_out,
                 const char *scope) {
    finding *f = user;
    (void)n;
    for (int i = 0; i < n_out && !f->found; i++) {
        if (is_finite(&outs[i])) continue;
        f->found = true;
        size_t length = strlen(scope);
        if (length && scope[length - 1] == '.') length--;
        snprintf(f->text, sizeof f->text, "; first in %.*s, output %d of %s", (int)length, scope, i,
                 op->name);
    }
}

int kr_nan_report(const kr_optimiser *o, int64_t m, const char *what, krait_error *e) {
    finding f = {.found = false};
    char weights[120], gradients[120];
    int bad_weights = kr_optimiser_bad_weights(o, weights, sizeof weights);
    int bad_gradients = kr_optimiser_bad_gradients(o, gradients, sizeof gradients);
    kr_graph_zero_gradients(o->g);
    kr_graph_hook(o->g, look, &f);
    int rc = kr_graph_run(o->g, m, 0, e);
    kr_graph_hook(o->g, NULL, NULL);
    if (rc < 0) return rc;
    if (!bad_gradients) bad_gradients = kr_optimiser_bad_gradients(o, gradients, sizeof gradients);
    char more[320] = "";
    if (bad_weights)
        snprintf(more, sizeof more, "; %d weights are not finite: %s", bad_weights, weights);
    else if (bad_gradients)
        snprintf(more, sizeof more, "; %d gradients are not finite: %s", bad_gradients, gradients);
    return kr_fail(e, KRAIT_ERR_NUMERIC, "%s%s%.140s", what, f.text, more);
}
