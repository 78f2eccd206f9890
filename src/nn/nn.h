/* nn.h - the small vocabulary that mixers and models are written in: parameters with names, linear
 * maps, norms. */
#ifndef KR_NN_H
#define KR_NN_H

#include "graph/graph.h"
#include "ops/elementwise/elementwise.h"

#define KR_MAX_STATES 4

struct kr_config;

/* Dropout, where a graph has it. */
typedef struct kr_nn_leaving_out {
    kr_value *draw; /* I64 [2]: ops/dropout/dropout.h; NULL: nothing is left out */
    double share;
    bool tied;     /* alike in all rows of a sequence */
    int64_t sites; /* so far */
} kr_nn_leaving_out;

/* What a mixer or a model builds with: where it is, and what runs beside the tokens. */
typedef struct kr_nn {
    kr_graph *g;
    const struct kr_config *config;
    char prefix[64]; /* "backbone.layers.3.mixer." */
    kr_value *seqs;  /* I64 [S,3] */
    kr_value *reset; /* U8 [M] or NULL */
    /* > 0: a decode step of at most so many rows: row r is sequence r, of one token or none */
    int64_t step_rows;
    kr_nn_leaving_out dropout;
    kr_value *state_in[KR_MAX_STATES];  /* f32 or bf16 [slots, ...]; NULL: zeros */
    kr_value *state_out[KR_MAX_STATES]; /* given outputs; NULL: not wanted */
} kr_nn;

/* Initial values, as expressions: kr_init_symmetric(0.5). */
typedef struct kr_init {
    kr_init_kind kind;
    double a, b, c;
} kr_init;

#define KR_ONES ((kr_init){KR_INIT_ONE, 0, 0, 0})
#define KR_ZEROS ((kr_init){KR_INIT_ZERO, 0, 0, 0})
/* U(-bound, bound). */
kr_init kr_init_symmetric(double bound);
/* The field's default for a linear weight: U(+-1/sqrt(fan_in)) * scale. */
kr_init kr_init_fan_in(int64_t fan_in, double scale);

typedef enum kr_param_kind {
    KR_PARAM_MATRIX, /* decays; may stay 16 bits wide in memory */
    KR_PARAM_DECAY,  /* decays; held in f32 */
    KR_PARAM_PLAIN,  /* no weight decay (norms, biases, A_log, D); held in f32 */
    /* of the recurrence: the recipe's recurrent_learning_rate and no weight decay; held in f32 */
    KR_PARAM_RECURRENT,
    KR_PARAM_RECURRENT_MATRIX /* the same; may stay 16 bits wide in memory */
} kr_param_kind;

/* Declares "<prefix><name>" with the first `rank` entries of shape. */
kr_value *kr_nn_param(kr_nn *nn, const char *name, kr_param_kind kind, kr_init init, int rank,
                      const int64_t *shape);

/* The same with initial values of the mixer's own: `draw` with a, b and c; from the random numbers
 * of the parameter "<prefix><like>" where two are to fit each other (NULL: from its own). */
typedef struct kr_init_drawn {
    kr_draw *draw;
    double a, b, c;
    const char *like;
} kr_init_drawn;
kr_value *kr_nn_param_drawn(kr_nn *nn, const char *name, kr_param_kind kind,
                            const kr_init_drawn *init, int rank, const int64_t *shape);

/* The same with initial values that `start` writes all at once, from a, b and c. */
typedef struct kr_init_started {
    kr_start *start;
    double a, b, c;
} kr_init_started;
kr_value *kr_nn_param_started(kr_nn *nn, const char *name, kr_param_kind kind,
                              const kr_init_started *init, int rank, const int64_t *shape);

/* y = f(x), and y = a f(b): a function of ops/elementwise/functions.def. */
kr_value *kr_nn_map(kr_nn *nn, kr_function f, kr_value *x);
kr_value *kr_nn_gate(kr_nn *nn, kr_function f, kr_value *a, kr_value *b);

/* x [M,D] with some numbers left out, where the graph trains with dropout; else x itself. */
kr_value *kr_nn_dropout(kr_nn *nn, kr_value *x);

/* x [M,in] -> [M,out] by w [out,in], which may be computed; bias [out] or NULL. */
kr_value *kr_nn_product(kr_nn *nn, kr_value *x, kr_value *w, kr_value *bias);

/* x [M,in] -> [M,out] by "<name>.weight" [out,in] and, when bias, "<name>.bias" [out] (zeros at
 * first). */
kr_value *kr_nn_linear(kr_nn *nn, kr_value *x, const char *name, int64_t in, int64_t out, bool bias,
                       kr_init init);
/* The same without bias for the last product of a layer of a decode step of many rows of halves on
 * the GPU: in parts, which the next norm adds up. */
kr_value *kr_nn_linear_parts(kr_nn *nn, kr_value *x, const char *name, int64_t in, int64_t out,
                             kr_init init);

/* In a half graph, the bf16 copy of a matrix that is f32: what products read in its place (NULL: it
 * needs none). Made anew in each run that trains it, else once. */
kr_value *kr_nn_half_copy(kr_nn *nn, kr_value *w);

/* s = x + residual (residual NULL: x);  returns rmsnorm(s) * weight, *sum = s when asked. name
 * NULL: no weight. */
kr_value *kr_nn_rmsnorm(kr_nn *nn, kr_value *x, kr_value *residual, const char *name, int64_t width,
                        double eps, kr_value **sum);
/* The same with the mean taken away, and a bias. */
kr_value *kr_nn_layernorm(kr_nn *nn, kr_value *x, kr_value *residual, const char *name,
                          int64_t width, double eps, kr_value **sum);

/* x [M,D], whose rows the sequences cover -> the same with each channel's mean over the rows of its
 * sequence taken away, and divided by what it is then away from 0 in the mean, plus eps. */
kr_value *kr_nn_sequence_norm(kr_nn *nn, kr_value *x, double eps);

#endif
