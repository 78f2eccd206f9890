/* mamba_layer_rules.h - what the rules of mamba_layer and mamba2_layer share: the inputs that
 * layers of either kind have, their limits, their output, and what the checker gives them. */
#ifndef KR_MAMBA_LAYER_RULES_H
#define KR_MAMBA_LAYER_RULES_H

#include <math.h>
#include <string.h>

#include "base/err.h"
#include "ops/case.h"
#include "ops/mamba_layer/mamba_layer.h"

/* in: rows of in_proj; mixed: channels of the convolution; steps, skips: elements of dt_bias, d;
 * A is of rank a_rank. */
typedef struct kr_layer_shape {
    int64_t M, D, E, N, K, in, mixed, steps, skips, a[2];
    int a_rank;
} kr_layer_shape;

/* The first KR_LAYER_BOTH inputs. */
static inline void kr_layer_needs(const kr_layer_shape *s, kr_need *needs) {
    int64_t D = s->D, E = s->E;
    const kr_need both[KR_LAYER_BOTH] = {
        {"x", 2, {s->M, D}, false},
        {"norm", 1, {D}, false},
        {"in_proj", 2, {s->in, D}, false},
        {"in_bias", 1, {s->in}, true},
        {"conv", 3, {s->mixed, 1, s->K}, false},
        {"conv_bias", 1, {s->mixed}, true},
        {"dt_bias", 1, {s->steps}, false},
        {"a", s->a_rank, {s->a[0], s->a[1]}, false},
        {"d", 1, {s->skips}, false},
        {"out_proj", 2, {D, E}, false},
        {"out_bias", 1, {D}, true},
        {"seqs", 2, {s->M, 3}, false},
        {"window", 3, {-1, s->K - 1, s->mixed}, false},
        {"state", 3, {-1, E, s->N}, false},
    };
    memcpy(needs, both, sizeof both);
}

/* The ranks by which the sizes are read. */
static inline int kr_layer_need_ranks(const char *op, const kr_tensor *in, int a_rank,
                                      krait_error *e) {
    const struct {
        int input, rank;
        const char *name;
    } of[] = {{KR_LAYER_X, 2, "x"},         {KR_LAYER_OUT, 2, "out_proj"},
              {KR_LAYER_STATE, 3, "state"}, {KR_LAYER_A, a_rank, "a"},
              {KR_LAYER_CONV, 3, "conv"},   {KR_LAYER_D, 1, "d"}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        KR_TRY(kr_need_rank(op, of[i].name, &in[of[i].input], of[i].rank, e));
    return 0;
}

/* Input i, called `arg`, is of in_proj's type. */
static inline int kr_layer_need_like_in(const char *op, const char *arg, const kr_tensor *in, int i,
                                        krait_error *e) {
    return kr_need_type(op, arg, &in[i], in[KR_LAYER_IN].dtype, e);
}

static inline void kr_layer_shape_y(const kr_tensor *x, kr_tensor *out) {
    out[KR_LAYER_Y] = kr_tensor_make(NULL, x->dtype, 2, x->shape);
    out[KR_LAYER_Y].dim0 = x->dim0;
}

/* words: numbers of a row that all blocks of the GPU's kernel need in the middle of a layer. */
static inline bool kr_layer_serves(int64_t M, int64_t D, int64_t E, int64_t K, int64_t words) {
    return M <= KR_LAYER_FEW && D <= KR_LAYER_WIDTH && E <= KR_LAYER_INNER &&
           D % KR_LAYER_MULTIPLE == 0 && E % KR_LAYER_MULTIPLE == 0 && K >= 2 &&
           K <= KR_LAYER_TAPS && words <= KR_LAYER_XP_WIDTH && words % 2 == 0;
}

static inline int kr_layer_no_room(const char *op, int64_t M, int64_t E, krait_error *e) {
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                   "%s: %lld rows of %lld do not fit into the GPU's shared memory, or not all "
                   "blocks of the kernel at once on the GPU",
                   op, (long long)M, (long long)E);
}

/* ---- cases ----------------------------------------------------------------------------------- */

static inline void kr_layer_case_matrix(kr_case *k, int i, int64_t rows, int64_t columns) {
    kr_case_in(k, i, KR_F32, 2, (int64_t[]){rows, columns}, KR_FILL_NORMAL,
               1 / sqrt((double)columns), 0);
}

static inline void kr_layer_case(kr_case *k, const kr_layer_shape *s) {
    const int64_t window[] = {s->M + 1, s->K - 1, s->mixed}, state[] = {s->M + 1, s->E, s->N};
    kr_case_normal(k, KR_LAYER_X, 2, (int64_t[]){s->M, s->D});
    kr_case_normal(k, KR_LAYER_NORM, 1, &s->D);
    kr_layer_case_matrix(k, KR_LAYER_IN, s->in, s->D);
    kr_case_normal(k, KR_LAYER_IN_BIAS, 1, &s->in);
    kr_case_in(k, KR_LAYER_CONV, KR_F32, 3, (int64_t[]){s->mixed, 1, s->K}, KR_FILL_NORMAL, 0.5, 0);
    kr_case_normal(k, KR_LAYER_CONV_BIAS, 1, &s->mixed);
    kr_case_normal(k, KR_LAYER_DT_BIAS, 1, &s->steps);
    kr_case_in(k, KR_LAYER_A, KR_F32, s->a_rank, s->a, KR_FILL_UNIFORM, -4, -0.1);
    kr_case_normal(k, KR_LAYER_D, 1, &s->skips);
    kr_layer_case_matrix(k, KR_LAYER_OUT, s->D, s->E);
    kr_case_normal(k, KR_LAYER_OUT_BIAS, 1, &s->D);
    kr_case_in(k, KR_LAYER_SEQS, KR_I64, 2, (int64_t[]){s->M, 3}, KR_FILL_SEQS, 0, 0);
    kr_case_normal(k, KR_LAYER_WINDOW, 3, window);
    kr_case_normal(k, KR_LAYER_STATE, 3, state);
    k->n_out = KR_LAYER_OUTS;
    k->out[KR_LAYER_WINDOW_OUT] = kr_tensor_make(NULL, KR_F32, 3, window);
    k->out[KR_LAYER_STATE_OUT] = kr_tensor_make(NULL, KR_F32, 3, state);
    k->half.tolerance = 2e-2; /* u, z and y (or gate_norm * g) are halves in between */
}

/* Without the biases that a model may lack. */
static inline void kr_layer_case_unbiased(kr_case *k) {
    kr_case_without(k, KR_LAYER_IN_BIAS);
    kr_case_without(k, KR_LAYER_CONV_BIAS);
    kr_case_without(k, KR_LAYER_OUT_BIAS);
}

#endif
