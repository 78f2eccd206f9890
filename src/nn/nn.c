/* nn.c - parameters, linear maps and norms, recorded into the graph of a kr_nn. */
#include "nn/nn.h"

#include <math.h>
#include <stdio.h>

#include "ops/cast/cast.h"
#include "ops/add/add.h"
#include "ops/dropout/dropout.h"
#include "ops/fill/fill.h"
#include "ops/head_divide/head_divide.h"
#include "ops/layernorm/layernorm.h"
#include "ops/linear/linear.h"
#include "ops/mamba_step/mamba_step.h"
#include "ops/rmsnorm/rmsnorm.h"
#include "ops/segment_mean/segment_mean.h"

kr_init kr_init_symmetric(double bound) { return (kr_init){KR_INIT_UNIFORM, -bound, bound, 0}; }

kr_init kr_init_fan_in(int64_t fan_in, double scale) {
    return kr_init_symmetric(scale / sqrt((double)fan_in));
}

static kr_value *declare(kr_nn *nn, const char *name, kr_param_kind kind, kr_param_decl d,
                         const int64_t *shape) {
    d.no_decay = kind == KR_PARAM_PLAIN;
    d.recurrent = kind == KR_PARAM_RECURRENT || kind == KR_PARAM_RECURRENT_MATRIX;
    d.matrix = kind == KR_PARAM_MATRIX || kind == KR_PARAM_RECURRENT_MATRIX;
    int length = snprintf(d.name, sizeof d.name, "%s%s", nn->prefix, name);
    if (length < 0 || (size_t)length >= sizeof d.name) return NULL; /* none of ours is */
    for (int i = 0; i < d.rank; i++) d.shape[i] = shape[i];
    return kr_graph_param(nn->g, &d);
}

kr_value *kr_nn_param(kr_nn *nn, const char *name, kr_param_kind kind, kr_init init, int rank,
                      const int64_t *shape) {
    kr_param_decl d = {.rank = rank, .init = {init.kind, init.a, init.b, init.c}};
    return declare(nn, name, kind, d, shape);
}

kr_value *kr_nn_param_drawn(kr_nn *nn, const char *name, kr_param_kind kind,
                            const kr_init_drawn *init, int rank, const int64_t *shape) {
    kr_param_decl d = {.rank = rank,
                       .init = {KR_INIT_DRAWN, init->a, init->b, init->c},
                       .draw = init->draw};
    if (init->like) snprintf(d.like, sizeof d.like, "%s%s", nn->prefix, init->like);
    return declare(nn, name, kind, d, shape);
}

kr_value *kr_nn_param_started(kr_nn *nn, const char *name, kr_param_kind kind,
                              const kr_init_started *init, int rank, const int64_t *shape) {
    kr_param_decl d = {.rank = rank,
                       .init = {KR_INIT_STARTED, init->a, init->b, init->c},
                       .start = init->start};
    return declare(nn, name, kind, d, shape);
}

kr_value *kr_nn_map(kr_nn *nn, kr_function f, kr_value *x) {
    kr_value *y =
        kr_apply1(nn->g, &kr_op_map, &(kr_elementwise_attr){f}, sizeof(kr_elementwise_attr), &x, 1);
    kr_graph_recompute(nn->g, y);
    return y;
}

kr_value *kr_nn_gate(kr_nn *nn, kr_function f, kr_value *a, kr_value *b) {
    kr_value *y = kr_apply1(nn->g, &kr_op_gate, &(kr_elementwise_attr){f},
                            sizeof(kr_elementwise_attr), (kr_value *[]){a, b}, 2);
    kr_graph_recompute(nn->g, y);
    return y;
}

kr_value *kr_nn_dropout(kr_nn *nn, kr_value *x) {
    kr_nn_leaving_out *o = &nn->dropout;
    if (!o->draw) return x;
    kr_dropout_attr attr = {o->share, o->sites++};
    kr_value *y = kr_apply1(nn->g, &kr_op_dropout, &attr, sizeof attr,
                            (kr_value *[]){x, o->draw, o->tied ? nn->seqs : NULL}, 3);
    kr_graph_recompute(nn->g, y);
    return y;
}

kr_value *kr_nn_product(kr_nn *nn, kr_value *x, kr_value *w, kr_value *bias) {
    return kr_apply1(nn->g, &kr_op_linear, NULL, 0,
                     (kr_value *[]){x, w, bias, kr_nn_half_copy(nn, w)}, 4);
}

kr_value *kr_nn_linear(kr_nn *nn, kr_value *x, const char *name, int64_t in, int64_t out, bool bias,
                       kr_init init) {
    char full[64];
    snprintf(full, sizeof full, "%s.weight", name);
    kr_value *w = kr_nn_param(nn, full, KR_PARAM_MATRIX, init, 2, (int64_t[]){out, in});
    kr_value *b = NULL;
    if (bias) {
        snprintf(full, sizeof full, "%s.bias", name);
        b = kr_nn_param(nn, full, KR_PARAM_PLAIN, KR_ZEROS, 1, &out);
    }
    kr_value *ins[4] = {x, w, b, kr_nn_half_copy(nn, w)};
    kr_linear_attr attr = {.early = nn->step_rows > 0 && !ins[3]};
    return kr_apply1(nn->g, &kr_op_linear, &attr, sizeof attr, ins, 4);
}

kr_value *kr_nn_linear_parts(kr_nn *nn, kr_value *x, const char *name, int64_t in, int64_t out,
                             kr_init init) {
    char full[64];
    snprintf(full, sizeof full, "%s.weight", name);
    kr_mamba_step_out_attr attr = {kr_mamba_step_parts(out, in)};
    kr_value *w = kr_nn_param(nn, full, KR_PARAM_MATRIX, init, 2, (int64_t[]){out, in});
    return kr_apply1(nn->g, &kr_op_mamba_step_out, &attr, sizeof attr, (kr_value *[]){x, w}, 2);
}

kr_value *kr_nn_half_copy(kr_nn *nn, kr_value *w) {
    if (!w || !kr_graph_half(nn->g) || kr_value_tensor(w)->dtype != KR_F32) return NULL;
    /* the optimiser writes those of parameters; what is computed from them is cast */
    kr_value *half = kr_graph_trains(nn->g) ? kr_graph_half_of(nn->g, w) : NULL;
    return half ? half : kr_apply1(nn->g, &kr_op_cast, NULL, 0, &w, 1);
}

/* The same where x is a decode step's, in parts. */
static kr_value *norm_parts(kr_nn *nn, kr_value *x, kr_value *residual, kr_value *w, double eps,
                            kr_value **sum) {
    kr_value *outs[2] = {NULL};
    kr_mamba_step_attr attr = {eps, kr_graph_half(nn->g)};
    kr_apply(nn->g, &kr_op_mamba_step_norm, &attr, sizeof attr, (kr_value *[]){x, residual, w}, 3,
             outs, 2);
    if (sum) *sum = outs[1];
    return outs[0];
}

kr_value *kr_nn_rmsnorm(kr_nn *nn, kr_value *x, kr_value *residual, const char *name, int64_t width,
                        double eps, kr_value **sum) {
    char full[64];
    snprintf(full, sizeof full, "%s.weight", name ? name : "");
    kr_value *w = name ? kr_nn_param(nn, full, KR_PARAM_PLAIN, KR_ONES, 1, &width) : NULL;
    if (x && kr_value_tensor(x)->shape[1] != width) return norm_parts(nn, x, residual, w, eps, sum);
    kr_value *outs[3] = {NULL};
    kr_rmsnorm_attr attr = {.eps = eps, .half = kr_graph_half(nn->g), .early = nn->step_rows > 0};
    kr_apply(nn->g, &kr_op_rmsnorm, &attr, sizeof attr, (kr_value *[]){x, residual, w}, 3, outs, 3);
    /* With a residual both addends would have to be kept, so it is made from their sum, which is
     * kept for the gradient. */
    if (residual)
        kr_graph_recompute_dear(nn->g, outs[0], (kr_value *[]){outs[1], NULL, w}, 3);
    else
        kr_graph_recompute(nn->g, outs[0]);
    if (kr_graph_level(nn->g) == KR_LEVEL_CUDA) kr_graph_remake(nn->g, outs[0]);
    if (sum) *sum = residual ? outs[1] : x;
    return outs[0];
}

kr_value *kr_nn_layernorm(kr_nn *nn, kr_value *x, kr_value *residual, const char *name,
                          int64_t width, double eps, kr_value **sum) {
    char full[64];
    snprintf(full, sizeof full, "%s.weight", name);
    kr_value *w = kr_nn_param(nn, full, KR_PARAM_PLAIN, KR_ONES, 1, &width);
    snprintf(full, sizeof full, "%s.bias", name);
    kr_value *b = kr_nn_param(nn, full, KR_PARAM_PLAIN, KR_ZEROS, 1, &width), *outs[4] = {NULL};
    kr_layernorm_attr attr = {.eps = eps, .half = kr_graph_half(nn->g)};
    kr_apply(nn->g, &kr_op_layernorm, &attr, sizeof attr, (kr_value *[]){x, residual, w, b}, 4,
             outs, 4);
    if (residual) /* from the sum, which is kept for the gradient */
        kr_graph_recompute_dear(nn->g, outs[0], (kr_value *[]){outs[1], NULL, w, b}, 4);
    else
        kr_graph_recompute(nn->g, outs[0]);
    if (sum) *sum = residual ? outs[1] : x;
    return outs[0];
}

/* Of each sequence [S,D] <- its rows x. */
static kr_value *sequence_mean(kr_nn *nn, kr_value *x) {
    return kr_apply1(nn->g, &kr_op_segment_mean, NULL, 0, (kr_value *[]){x, nn->seqs}, 2);
}

/* Every row of x has factor v of its sequence: shares of v by shares of a constant. */
static kr_value *on_rows(kr_nn *nn, kr_value *v, double factor, kr_value *x) {
    kr_fill_attr constant = {1 / factor, 1};
    kr_head_divide_attr none = {copysign(1e-30, factor)}; /* for rows of no sequence */
    kr_value *one = kr_apply1(nn->g, &kr_op_fill, &constant, sizeof constant, &v, 1);
    kr_value *share =
        kr_apply1(nn->g, &kr_op_segment_share, NULL, 0, (kr_value *[]){v, nn->seqs, x}, 3);
    kr_value *unit =
        kr_apply1(nn->g, &kr_op_segment_share, NULL, 0, (kr_value *[]){one, nn->seqs, x}, 3);
    return kr_apply1(nn->g, &kr_op_head_divide, &none, sizeof none, (kr_value *[]){share, unit}, 2);
}

kr_value *kr_nn_sequence_norm(kr_nn *nn, kr_value *x, double eps) {
    kr_value *less = on_rows(nn, sequence_mean(nn, x), -1, x);
    kr_value *c = kr_apply1(nn->g, &kr_op_add, NULL, 0, (kr_value *[]){x, less}, 2);
    /* what is above 0 is half of it: the mean is 0 */
    kr_value *above = sequence_mean(nn, kr_nn_map(nn, KR_FUNCTION_RELU, c));
    kr_head_divide_attr attr = {eps};
    return kr_apply1(nn->g, &kr_op_head_divide, &attr, sizeof attr,
                     (kr_value *[]){c, on_rows(nn, above, 2, x)}, 2);
}
