/* optimiser.h - AdamW over all parameters of a graph: norms, clipping, moments, and which gradients
 * are bad.
 *
 * The step itself is the op `adamw`, the norm the op `sum_squares`; parameters declared no_decay
 * get no weight decay. */
#ifndef KR_OPTIMISER_H
#define KR_OPTIMISER_H

#include "formats/weights.h"
#include "graph/graph.h"
#include "train/recipe.h"

typedef struct kr_optimiser {
    kr_graph *g;
    int n;           /* parameters */
    int64_t total;   /* their elements */
    float *moments;  /* [2, total]: m of every parameter in order of declaration, then v */
    double *scratch; /* of the norm */
    int64_t updates; /* steps applied */
    kr_kernel *adamw, *squares;
    int threads;
} kr_optimiser;

/* For an allocated training graph. */
int kr_optimiser_create(kr_optimiser *o, kr_graph *g, kr_level level, int threads, krait_error *e);
void kr_optimiser_free(kr_optimiser *o);
size_t kr_optimiser_bytes(const kr_graph *g); /* what create will allocate */

/* The norm of all gradients together; not finite when any of them is not. */
double kr_optimiser_norm(const kr_optimiser *o);
/* One update at this rate, gradients multiplied by `scale`. */
void kr_optimiser_step(kr_optimiser *o, const kr_recipe *r, double rate, double scale);

/* Writes the names of the first parameters whose gradient holds a NaN or an infinity; returns how
 * many there are. */
int kr_optimiser_bad_gradients(const kr_optimiser *o, char *names, size_t room);
/* The same of the parameters themselves. */
int kr_optimiser_bad_weights(const kr_optimiser *o, char *names, size_t room);

/* Adds views "m.NAME" and "v.NAME" to w, or fills the moments from them. */
int kr_optimiser_save(const kr_optimiser *o, kr_weights *w, krait_error *e);
int kr_optimiser_load(kr_optimiser *o, const kr_weights *w, krait_error *e);

#endif
