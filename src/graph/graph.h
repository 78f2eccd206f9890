/* graph.h - ops recorded into a graph, differentiated, planned into one arena, run without malloc.
 *
 *   kr_graph *g = kr_graph_create(&options, e);
 *   kr_value *x = kr_graph_input(g, "ids", KR_I32, KR_DIM0_TOKENS, 1, (int64_t[]){M});
 *   kr_value *w = kr_graph_param(g, &(kr_param_decl){...});
 *   kr_apply(g, &kr_op_linear, NULL, 0, ins, 2, outs, 1);
 *   kr_graph_output(g, "loss", y);
 *   kr_graph_seed(g, y, seed);            // training:
 *   kr_graph_backward(g);                 //   adds the backward ops
 *   kr_graph_plan(g, e);                  // liveness -> offsets in one arena; sizes are known
 *   kr_graph_allocate(g, e);              // the arena (and gradients)
 *   kr_graph_bind(g, value, tensor) ...   // inputs, states, parameters: pointers, no copies
 *   kr_graph_run(g, m_tokens, n_rows, e);
 *
 * Building is sticky: after the first failure every builder call returns NULL (and accepts NULL),
 * and kr_graph_plan reports it. So a mixer is written as straight-line code. */
#ifndef KR_GRAPH_H
#define KR_GRAPH_H

#include <krait/error.h>

#include "ops/op.h"

typedef struct kr_graph kr_graph;

typedef struct kr_graph_options {
    /* activations and parameters in double, reference kernels: for finite differences */
    bool f64;
    bool training; /* parameters are trainable: kr_graph_gradient may be called */
    /* 1: values marked by kr_graph_recompute are computed again in the backward pass, not kept;
     * 2: those marked by kr_graph_recompute_dear too */
    int recompute;
    int threads;    /* 0: kr_device_threads() */
    kr_level level; /* ignored when f64 */
    /* GPU only: activations are bf16, sums, states and the residual stream f32. Matrices are bound
     * in bf16; or, when `cast` or training, in f32, and are cast by the graph */
    bool half, cast;
} kr_graph_options;

kr_graph *kr_graph_create(const kr_graph_options *o, krait_error *e);
void kr_graph_free(kr_graph *g);
bool kr_graph_trains(const kr_graph *g);
/* False, with the reason in *e, once building has failed. */
bool kr_graph_ok(const kr_graph *g, krait_error *e);
kr_dtype kr_graph_real(const kr_graph *g); /* KR_F32, or KR_F64 */
bool kr_graph_half(const kr_graph *g);
kr_level kr_graph_level(const kr_graph *g);

/* ---- values --------------------------------------------------------------------------------- */

typedef enum kr_init_kind {
    KR_INIT_ZERO,
    KR_INIT_ONE,
    KR_INIT_CONSTANT,   /* a */
    KR_INIT_UNIFORM,    /* U(a, b) */
    KR_INIT_NORMAL,     /* N(a, b^2) */
    KR_INIT_LOG_ARANGE, /* [.., n] = ln(n + 1) along the last dimension (S4D-real) */
    /* x = max(exp(U(ln a, ln b)), c), then x + ln(-expm1(-x)): Mamba's dt bias */
    KR_INIT_SOFTPLUS_INV,
    KR_INIT_LOG_UNIFORM, /* ln U(a, b): Mamba-2's decay rates */
    KR_INIT_DRAWN,       /* whatever `draw` makes of random numbers */
    KR_INIT_STARTED      /* what `start` writes; not of a matrix */
} kr_init_kind;

struct kr_rng;
struct kr_param_decl;
/* Element `index` of a fresh parameter, from init.a, b, c and the next random numbers. */
typedef double kr_draw(const struct kr_param_decl *d, int64_t index, struct kr_rng *r);
/* All of a fresh parameter at once, from init.a, b, c: where it needs what is dear to compute. */
typedef int kr_start(const struct kr_param_decl *d, float *values, krait_error *e);

typedef struct kr_param_decl {
    char name[96];   /* the tensor's name in the file */
    kr_draw *draw;   /* of KR_INIT_DRAWN */
    kr_start *start; /* of KR_INIT_STARTED */
    /* Another parameter's name: it draws from the same random numbers; empty: from its own. */
    char like[96];
    int rank;
    int64_t shape[KR_MAX_RANK];
    struct {
        kr_init_kind kind;
        double a, b, c;
    } init;
    bool no_decay; /* weight decay never touches it */
    /* of the recurrence itself: a learning rate of its own, and no weight decay */
    bool recurrent;
    /* may stay f16 / bf16 in memory (linear weights, embeddings); everything else is held in f32 */
    bool matrix;
} kr_param_decl;

/* Declares a parameter; the same name again gives the same value (tied weights), the shapes must
 * agree. Its dtype is kr_graph_real until kr_graph_bind gives it a tensor of another (before
 * kr_graph_plan); a matrix's is bf16 in a half graph that does not cast. */
kr_value *kr_graph_param(kr_graph *g, const kr_param_decl *d);
/* A matrix parameter of a training graph rounded to bf16, in memory of whoever changes the
 * parameter: bound like one, and kept up to date by them (train/optimiser.h). */
kr_value *kr_graph_half_of(kr_graph *g, kr_value *param);
/* What kr_graph_half_of made of parameter i; NULL: nothing. */
kr_value *kr_graph_half_at(const kr_graph *g, int i);
kr_value *kr_graph_input(kr_graph *g, const char *name, kr_dtype t, kr_dim0 dim0, int rank,
                         const int64_t *shape);
/* A state: bound from outside like an input, written by an op as its given output. Leading
 * dimension: slots. */
kr_value *kr_graph_state(kr_graph *g, const char *name, kr_dtype t, bool is_output, int rank,
                         const int64_t *shape);
/* kept until the end of the run */
void kr_graph_output(kr_graph *g, const char *name, kr_value *v);

/* Columns [first, first + count) of the last dimension of a matrix: no copy. Gradients of the parts
 * meet in the whole. */
kr_value *kr_graph_columns(kr_graph *g, kr_value *v, int64_t first, int64_t count);
/* Marks a value as cheap to compute again. */
void kr_graph_recompute(kr_graph *g, kr_value *v);
/* Marks a value that takes some time to compute again; by its op, from `ins` where n_in > 0 instead
 * of from what it reads now. */
void kr_graph_recompute_dear(kr_graph *g, kr_value *v, kr_value *const *ins, int n_in);

/* Records an op. outs[i] non-NULL on entry: a given output (state or input value that the op
 * writes); NULL: a new value comes back in outs[i]. attr is copied. Absent optional inputs are
 * NULL. */
void kr_apply(kr_graph *g, const kr_op *op, const void *attr, size_t attr_size,
              kr_value *const *ins, int n_in, kr_value **outs, int n_out);
/* An op with one output that matters: kr_apply1(g, &kr_op_linear, NULL, 0, (kr_value *[]){x, w},
 * 2). */
kr_value *kr_apply1(kr_graph *g, const kr_op *op, const void *attr, size_t attr_size,
                    kr_value *const *ins, int n_in);

/* Marks a value that the gradient of its op makes again in passing (kr_rule_remade). Where values
 * are computed again at all it is not kept, and gradients of parameters that need it are made
 * behind that op. */
void kr_graph_remake(kr_graph *g, kr_value *v);

/* shape now; data after kr_graph_allocate / bind */
const kr_tensor *kr_value_tensor(const kr_value *v);

/* ---- gradients ------------------------------------------------------------------------------ */

/* Adds the backward ops for d(sum of y * seed): seed has y's shape. Gradients of parameters are
 * ADDED to their buffers, which kr_graph_zero_gradients clears: so micro-batches accumulate. Call
 * once for each y, all before kr_graph_plan; the backward ops of several y are recorded together by
 * kr_graph_backward. */
void kr_graph_seed(kr_graph *g, kr_value *y, kr_value *seed);
void kr_graph_backward(kr_graph *g);
/* The gradient of a parameter, or of an input or state for which kr_graph_want_gradient was called
 * before kr_graph_backward. NULL: nothing depends on it. */
void kr_graph_want_gradient(kr_graph *g, kr_value *v);
kr_value *kr_graph_gradient(kr_graph *g, kr_value *v);
void kr_graph_zero_gradients(kr_graph *g); /* on the GPU: when the next run writes them */

/* ---- planning and running ------------------------------------------------------------------- */

typedef struct kr_plan_sizes {
    size_t parameters; /* of bound or owned parameters */
    size_t gradients;
    size_t activations; /* the arena: the largest sum of values alive at once, as laid out */
    size_t scratch;     /* the largest scratch of one op */
    size_t inputs;      /* on the GPU: the places that inputs are copied to; else 0 */
    size_t unshared;    /* what the activations would take without sharing (to print beside it) */
    int64_t n_nodes, n_values;
} kr_plan_sizes;

int kr_graph_plan(kr_graph *g, krait_error *e);
void kr_graph_sizes(const kr_graph *g, kr_plan_sizes *sizes);
int kr_graph_allocate(kr_graph *g, krait_error *e);
/* May g use the memory of `other`? Both planned, at one level. */
bool kr_graph_fits(const kr_graph *g, const kr_graph *other);
/* The same in the arena and scratch of `other`, where g fits: allocated before, freed after. The
 * two take turns, and each overwrites all that the other made: kr_graph_params_changed(g) comes
 * before g's turn. */
int kr_graph_allocate_over(kr_graph *g, const kr_graph *other, krait_error *e);

/* Where the gradients lie in their one block: first those of decayed parameters, then those of
 * parameters without decay, then of recurrent ones, then of what else was wanted; what pads them
 * stays zero. Offsets in bytes, known once planned. */
typedef struct kr_gradient_layout {
    size_t decayed;    /* the first part ends here */
    size_t plain;      /* the second */
    size_t parameters; /* the third */
} kr_gradient_layout;
void kr_graph_gradient_layout(const kr_graph *g, kr_gradient_layout *layout);
size_t kr_graph_gradient_offset(const kr_value *gradient);
void *kr_graph_gradient_block(const kr_graph *g); /* once allocated */

/* Gives a value its memory. Dtype, rank and the fixed dimensions must agree; the first dimension of
 * inputs marked TOKENS or ROWS may be anything up to the planned one, and of seqs and states
 * anything.
 * In a graph on the GPU, parameters and states lie on the GPU; an input (kr_graph_input) lies on
 * the host: each run copies its rows to a place of the graph's own, so what is bound may change
 * from run to run at no cost. */
int kr_graph_bind(kr_graph *g, kr_value *v, const kr_tensor *t, krait_error *e);
/* The same for an input that lies in the memory of the graph's level already, where a kernel of
 * another graph left it. */
int kr_graph_bind_device(kr_graph *g, kr_value *v, const kr_tensor *t, krait_error *e);

/* Runs all nodes in order: m token rows and r picked rows, at most what was planned. Nothing is
 * allocated.
 * On the GPU it queues the work and returns. The first run of some bindings, m and r launches node
 * by node, the second one records that, and from the third on the recording is launched at once;
 * the latest few recordings are kept. */
int kr_graph_run(kr_graph *g, int64_t m, int64_t r, krait_error *e);

/* The contents of a value after a run, this run's rows: where they are on the CPU; from the GPU
 * copied to a place that the graph keeps for this value from its first fetch on. NULL: failed. */
const void *kr_graph_fetch(kr_graph *g, kr_value *v, krait_error *e);

/* Parameters were written to since the last run (a training graph shares them): what depends on
 * them alone runs anew. */
void kr_graph_params_changed(kr_graph *g);

/* Parameters in order of declaration. */
int kr_graph_param_count(const kr_graph *g);
kr_value *kr_graph_param_at(const kr_graph *g, int i, const kr_param_decl **decl);
const kr_param_decl *kr_graph_param_named(const kr_graph *g, const char *name); /* NULL: none */

typedef void kr_run_hook(void *user, const kr_node *n, const kr_op *op, const kr_tensor *outs,
                         int n_out, const char *scope);
/* Calls hook after each node, with the scope ("layers.3.mixer") it was recorded under. NULL
 * switches it off. On the GPU the tensors lie there, and nothing is recorded meanwhile. */
void kr_graph_hook(kr_graph *g, kr_run_hook *hook, void *user);
/* The scope of the ops recorded from now on; copied. */
void kr_graph_scope(kr_graph *g, const char *scope);

#endif
