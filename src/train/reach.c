/* reach.c - krait_reach: how much of the loss of a token hangs on the tokens that stand before it.
 *
 *   size[k] = sqrt( mean over windows of |d loss_T / d x_{T-k}|^2 )
 *
 * loss_T is the loss of what follows the last row T of a window, x_t the embedding that entered at
 * row t, and each window begins with a state of zeros. The gradient is that of training, by the
 * same graph with one row of logits. A product of T Jacobians vanishes or grows with their spectral
 * radius: Bengio et al. 1994. */
#include <inttypes.h>
#include <krait/train.h>
#include <math.h>
#include <string.h>

#include "base/err.h"
#include "base/options.h"
#include "models/lm.h"
#include "models/model.h"

typedef struct reach {
    kr_lm lm;
    kr_weights weights;
    int64_t length, width;
} reach;

static int build(reach *r, const krait_model *model, int threads, krait_error *e) {
    kr_lm_options o = {.graph = {.training = true, .threads = threads},
                       .tokens = r->length,
                       .rows = 1,
                       .sequences = 1,
                       .loss = true,
                       .input_gradient = true};
    KR_TRY(kr_device_level(&o.graph.level, e));
    KR_TRY(kr_weights_copy_f32(&r->weights, &model->weights, e));
    KR_TRY(kr_lm_build(&r->lm, &model->config, &o, e));
    KR_TRY(kr_lm_bind_weights(&r->lm, &r->weights, e));
    KR_TRY(kr_graph_plan(r->lm.g, e));
    return kr_graph_allocate(r->lm.g, e);
}

static void release(reach *r) {
    if (r->lm.g) kr_lm_free(&r->lm);
    kr_weights_free(&r->weights);
}

static int bind(reach *r, kr_value *v, const void *data, kr_dtype type, int64_t rows,
                krait_error *e) {
    int64_t shape[2] = {rows, 3};
    int rank = v == r->lm.seqs ? 2 : 1;
    kr_tensor t = kr_tensor_make((void *)(uintptr_t)data, type, rank, shape);
    return kr_graph_bind(r->lm.g, v, &t, e);
}

/* Adds the squares of one window, ids [length + 1], to squares [length]. */
static int add_window(reach *r, const int32_t *ids, double *squares, krait_error *e) {
    const int64_t seqs[3] = {0, r->length, 0}, last = r->length - 1;
    const float one = 1;
    KR_TRY(bind(r, r->lm.ids, ids, KR_I32, r->length, e));
    KR_TRY(bind(r, r->lm.seqs, seqs, KR_I64, 1, e));
    KR_TRY(bind(r, r->lm.rows, &last, KR_I64, 1, e));
    KR_TRY(bind(r, r->lm.targets, ids + r->length, KR_I32, 1, e));
    KR_TRY(bind(r, r->lm.seed, &one, KR_F32, 1, e));
    kr_graph_zero_gradients(r->lm.g);
    KR_TRY(kr_graph_run(r->lm.g, r->length, 1, e));
    const float *gradient = kr_value_tensor(kr_graph_gradient(r->lm.g, r->lm.entered))->data;
    for (int64_t k = 0; k < r->length; k++)
        for (int64_t i = 0; i < r->width; i++) {
            double g = (double)gradient[(last - k) * r->width + i];
            squares[k] += g * g;
        }
    for (int64_t k = 0; k < r->length; k++)
        if (!isfinite(squares[k]))
            return kr_fail(e, KRAIT_ERR_NUMERIC,
                           "reach: the gradient %" PRId64 " tokens back is no finite number", k);
    return 0;
}

static int check(int64_t count, const krait_reach_options *o, krait_error *e) {
    int64_t length = o->length;
    if (length < 1 || length > INT32_MAX || o->windows < 1)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "reach: %" PRId64 " windows of %" PRId64 " tokens: both must be above 0",
                       o->windows, length);
    if (count <= length)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "reach: a window of %" PRId64
                       " tokens and the one that follows need %" PRId64
                       " tokens, there are %" PRId64,
                       length, length + 1, count);
    return 0;
}

static int check_ids(const krait_model *model, const int32_t *ids, int64_t count, krait_error *e) {
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= model->config.vocabulary)
            return kr_fail(e, KRAIT_ERR_ARGUMENT,
                           "reach: id %d is outside the vocabulary of %" PRId64, ids[i],
                           model->config.vocabulary);
    return 0;
}

int64_t krait_reach(const krait_model *model, const int32_t *ids, int64_t count,
                    const krait_reach_options *options, double *sizes, krait_error *e) {
    krait_reach_options o = KRAIT_REACH_OPTIONS_INIT;
    if (!model || !ids || !sizes) return kr_fail_null(e, "krait_reach");
    KR_TRY(kr_options_read(&o, sizeof o, options, "krait_reach_options", e));
    KR_TRY(check(count, &o, e));
    reach r = {.length = o.length, .width = model->config.width};
    int64_t n = (count - 1) / o.length;
    if (n > o.windows) n = o.windows;
    memset(sizes, 0, (size_t)o.length * sizeof *sizes);
    int rc = build(&r, model, o.threads, e); /* says what a model without a next token is */
    if (rc == 0) rc = check_ids(model, ids, n * o.length + 1, e);
    for (int64_t i = 0; rc == 0 && i < n; i++) rc = add_window(&r, ids + i * o.length, sizes, e);
    release(&r);
    for (int64_t k = 0; k < o.length; k++) sizes[k] = sqrt(sizes[k] / (double)n);
    return rc < 0 ? rc : n;
}
