/* lm.h - the graph of a model: embedding, layers on a residual stream, norm, head.
 *
 *   res_0 = embedding[ids], or stem . values;   res_{l+1} = layer_l(res_l)         models/block.h
 *   logits = head . norm(res_L), of ids; or of classes, or numbers themselves, from the mean of a
 * sequence's rows, its last row, or every row
 *
 * Tokens are M rows; `seqs` [S,3] (I64: first row, count, state slot) cuts them into sequences: a
 * training batch, packed documents, a ragged prefill and a decode step are all this one form. */
#ifndef KR_LM_H
#define KR_LM_H

#include "formats/weights.h"
#include "graph/graph.h"
#include "models/config.h"

typedef struct kr_lm_options {
    kr_graph_options graph;
    int64_t tokens; /* M: the most rows of a run */
    /* > 0: logits only for picked rows, at most this many (input `rows`); 0: logits of every row */
    int64_t rows;
    /* the caller feeds a model with channels, classes or numbers: without it such a model is
     * refused. One with classes or numbers has a row of logits for each span of rows: `rows` is the
     * most of them */
    bool any_ends;
    int64_t sequences; /* S: the most sequences of a run */
    int64_t slots;     /* rows of the state tensors; 0: stateless (zero states in, none out) */
    bool half_states;  /* in a half graph: states that may be (kr_mixer) are bf16 */
    /* input `reset` [M] U8 marks rows where a document starts: state and conv window begin anew */
    bool reset;
    bool step; /* row r is sequence r, of one token or none: a decode step */
    bool loss; /* adds targets, nll */
    /* with loss: no logits are wanted; on the GPU they are then never all in memory */
    bool no_logits;
    /* training: the share of numbers that each part of a layer leaves out at random; tied: the same
     * columns in all rows of a sequence. 0: none */
    double dropout;
    bool dropout_tied;
    /* training: gradients of the states in, seeds for the gradients of the states out */
    bool state_gradient;
    bool input_gradient; /* training: the gradient of what enters the first layer */
} kr_lm_options;

typedef struct kr_lm {
    kr_graph *g;
    kr_value *ids;     /* input I32 [M]; NULL: the input is values */
    kr_value *values;  /* input real [M,C], or NULL */
    kr_value *entered; /* [M,D]: what enters the first layer */
    kr_value *seqs;    /* input I64 [S,3] */
    kr_value *reset;   /* input U8 [M], or NULL */
    kr_value *rows;    /* input I64 [R]: picked token rows, or NULL */
    kr_value *spans;   /* input I64 [R,3]: as seqs, the rows whose mean is classified; NULL: none */
    /* input I32 [M] (or [R] with rows): the next token, -1: no loss there; NULL without loss */
    kr_value *targets;
    kr_value *wanted; /* input real [R,K] instead, of a head that tells K numbers; else NULL */
    kr_value *seed;   /* input real [M] (or [R]): d loss / d nll, training only */
    kr_value *draw;   /* input I64 [2], training with dropout: the seed, and which run it is */
    kr_value *logits; /* output real [M,V] or [R,V]; NULL with no_logits on the GPU */
    /* output real: -log p(target) in nats, 0 where the target is -1; of numbers the mean square of
     * what they are off; NULL without loss */
    kr_value *nll;
    /* Per layer and mixer state, in layer order. in and out may be bound to the same memory when
     * not training. */
    int n_states;
    kr_value **state_in, **state_out;
    kr_value **state_seed; /* with state_gradient: d loss / d state out, inputs of the state's
                              shape; else NULL entries */
} kr_lm;

/* Refuses a model that reads numbers, or whose head tells classes or numbers. */
int kr_lm_check_next(const kr_config *c, krait_error *e);

/* Records the forward graph (and, when training with loss, the backward one). Not yet planned:
 * weights are bound first. */
int kr_lm_build(kr_lm *lm, const kr_config *c, const kr_lm_options *o, krait_error *e);
void kr_lm_free(kr_lm *lm);

/* Binds every parameter to the tensor of its name. Missing, surplus (except a head equal to a tied
 * embedding) and misshapen tensors are errors that name the tensor. Tensors whose type the graph
 * cannot use are converted once into memory owned by `w`. */
int kr_lm_bind_weights(kr_lm *lm, kr_weights *w, krait_error *e);
/* Fills w with fresh parameters, f32, drawn by each declaration's rule from the seed (one stream a
 * name). */
int kr_lm_init_weights(const kr_config *c, uint64_t seed, kr_weights *w, krait_error *e);
/* For measuring speed: the same with matrices of this type, of which only the first numbers are
 * drawn and the others repeat them. */
int kr_lm_rough_weights(const kr_config *c, kr_dtype matrices, kr_weights *w, krait_error *e);

/* Bytes of the states of one slot, as kr_lm_options.half_states has them, and the total of
 * parameters (tied ones once). */
int64_t kr_lm_state_bytes(const kr_config *c, bool half_states);
int64_t kr_lm_parameter_count(const kr_config *c);

#endif
