/* optimiser.h - AdamW over all parameters of a graph: norms, clipping, moments, and which gradients
 * are bad.
 *
 * The step itself is the op `adamw`, the norm the op `sum_squares`; parameters declared no_decay
 * get no weight decay, recurrent ones neither that nor the common rate.
 *
 * On the CPU each parameter is a vector of its own. On the GPU weights and moments lie as the
 * graph's gradients do, so that all decayed parameters are one vector, the recurrent ones another
 * and all others a third: a launch each, and one for the norm. A graph of bf16 activations reads
 * its matrices rounded to bf16: these lie beside the parameters and are written by the same step,
 * never saved. */
#ifndef KR_OPTIMISER_H
#define KR_OPTIMISER_H

#include "formats/weights.h"
#include "graph/graph.h"
#include "train/recipe.h"

typedef struct kr_optimiser {
    kr_graph *g;
    kr_level level;
    int n;            /* parameters */
    int64_t total;    /* elements of one kind of moment */
    float *moments;   /* [2, total]: m of every parameter, then v; where the level's memory is */
    float *weights;   /* on the GPU: [total], the parameters themselves; on the CPU NULL */
    uint16_t *halves; /* [total] bf16, where the graph's products take halves: the same rounded */
    void *scratch;    /* of the norm */
    double *squares_out; /* on the GPU: [1], where the norm arrives */
    int64_t updates;     /* steps applied */
    kr_kernel *adamw, *squares;
    int threads;
} kr_optimiser;

/* For an allocated training graph. On the GPU it holds the parameters too: they are copied there
 * from `weights` (by name) and bound. */
int kr_optimiser_create(kr_optimiser *o, kr_graph *g, const kr_weights *weights, int threads,
                        krait_error *e);
void kr_optimiser_free(kr_optimiser *o);
size_t kr_optimiser_bytes(const kr_graph *g); /* what create will allocate */

/* On the GPU: copies the parameters back to their tensors on the host. */
int kr_optimiser_fetch_weights(const kr_optimiser *o, const kr_weights *to, krait_error *e);
/* Adds views of the parameters where the graph has them, for another graph that shares them. */
int kr_optimiser_view_weights(const kr_optimiser *o, kr_weights *to, krait_error *e);

/* The norm of all gradients together; not finite when any of them is not. */
int kr_optimiser_norm(const kr_optimiser *o, double *norm, krait_error *e);
/* One update at this rate, gradients multiplied by `scale`. */
int kr_optimiser_step(kr_optimiser *o, const kr_recipe *r, double rate, double scale,
                      krait_error *e);

/* Writes the names of the first parameters whose gradient holds a NaN or an infinity; returns how
 * many there are. */
int kr_optimiser_bad_gradients(const kr_optimiser *o, char *names, size_t room);
/* The same of the parameters themselves. */
int kr_optimiser_bad_weights(const kr_optimiser *o, char *names, size_t room);

/* Adds "m.NAME" and "v.NAME" to w, views or copies from the GPU, or fills the moments from them. */
int kr_optimiser_save(const kr_optimiser *o, kr_weights *w, krait_error *e);
int kr_optimiser_load(kr_optimiser *o, const kr_weights *w, krait_error *e);

#endif
