/* nan_report.c - finds the first value that is not finite. */
#include "train/nan_report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"

typedef struct finding {
    kr_level level;
    bool found;
    char text[200];
} finding;

static bool row_is_finite(const kr_tensor *t, int64_t row) {
    int64_t width = t->rank > 1 ? t->shape[t->rank - 1] : 1;
    int64_t stride = t->rank > 1 ? t->stride[t->rank - 2] : 1;
    const float *x = (const float *)t->data + row * stride;
    const uint16_t *half = (const uint16_t *)t->data + row * stride;
    for (int64_t i = 0; i < width; i++)
        if (!isfinite(t->dtype == KR_BF16 ? kr_bf16_to_f32(half[i]) : x[i])) return false;
    return true;
}

static int64_t rows_of(const kr_tensor *t) {
    int64_t rows = 1;
    for (int i = 0; i + 1 < t->rank; i++) rows *= t->shape[i];
    return t->rank == 1 ? t->shape[0] : rows;
}

static bool rows_are_finite(const kr_tensor *t) {
    int64_t rows = rows_of(t);
    for (int64_t row = 0; row < rows; row++)
        if (!row_is_finite(t, row)) return false;
    return true;
}

/* A tensor on the GPU is looked at in a copy, gaps between its rows included; one that finds no
 * memory is passed over. */
static bool is_finite(kr_level level, const kr_tensor *t) {
    int64_t rows = rows_of(t), width = t->rank > 1 ? t->shape[t->rank - 1] : 1;
    if (!t->data || (t->dtype != KR_F32 && t->dtype != KR_BF16) || rows == 0) return true;
    if (level != KR_LEVEL_CUDA) return rows_are_finite(t);
    kr_tensor copy = *t;
    int64_t span = t->rank > 1 ? (rows - 1) * t->stride[t->rank - 2] + width : rows;
    size_t bytes = (size_t)span * kr_dtype_size(t->dtype);
    copy.data = kr_malloc(bytes);
    bool good = !copy.data || kr_device_get(level, copy.data, t->data, bytes, NULL) < 0 ||
                rows_are_finite(&copy);
    kr_free(copy.data);
    return good;
}

static void look(void *user, const kr_node *n, const kr_op *op, const kr_tensor *outs, int n_out,
                 const char *scope) {
    finding *f = user;
    (void)n;
    for (int i = 0; i < n_out && !f->found; i++) {
        if (is_finite(f->level, &outs[i])) continue;
        f->found = true;
        size_t length = strlen(scope);
        if (length && scope[length - 1] == '.') length--;
        snprintf(f->text, sizeof f->text, "; first in %.*s, output %d of %s", (int)length, scope, i,
                 op->name);
    }
}

int kr_nan_report(const kr_optimiser *o, int64_t m, int64_t r, const char *what, krait_error *e) {
    finding f = {.level = kr_graph_level(o->g)};
    char weights[120], gradients[120];
    int bad_weights = kr_optimiser_bad_weights(o, weights, sizeof weights);
    int bad_gradients = kr_optimiser_bad_gradients(o, gradients, sizeof gradients);
    kr_graph_zero_gradients(o->g);
    kr_graph_hook(o->g, look, &f);
    int rc = kr_graph_run(o->g, m, r, e);
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
