/* sample.h - from logits to a token a row, by the rules of serve/sampler.c, where the logits are.
 *
 *   l_i  <- l_i < 0 ? l_i * r : l_i / r     where seen[i]           (repetition penalty r)
 *   keep the k largest l_i                                          (top_k; 0 or less: all)
 *   w_i  =  exp((l_i - max l) / T)                                  (T = 0: the largest l_i)
 *   keep the shortest run of largest w_i whose sum reaches top_p of the sum of all kept
 *   keep w_i >= min_p, and draw: the first of the run at which the sum reaches u of the whole
 *
 * Equal logits are ordered by id. u is the uniform number that kr_rng_make(seed, "sampler") has at
 * `drawn`: a lane of a GPU draws what a krait_sampler of that seed draws from the same logits. */
#ifndef KR_SAMPLE_H
#define KR_SAMPLE_H

#include "ops/op.h"

/* Every row r has a lane, lanes[r] in [0,L): its settings, what it has seen, its numbers. */
enum {
    KR_SAMPLE_LOGITS,      /* f32 [R,V]; V may be less than the model has: the ids to draw from */
    KR_SAMPLE_LANES,       /* I64 [R]; -1: nothing is drawn for this row */
    KR_SAMPLE_TEMPERATURE, /* f32 [L] */
    KR_SAMPLE_TOP_K,       /* I64 [L] */
    KR_SAMPLE_TOP_P,       /* f32 [L] */
    KR_SAMPLE_MIN_P,       /* f32 [L] */
    KR_SAMPLE_PENALTY,     /* f32 [L] */
    KR_SAMPLE_SEEN,        /* U8 [L,V], or absent: no penalties */
    KR_SAMPLE_RANDOM,      /* I64 [L,2]: the seed; numbers drawn so far (two make one u) */
    KR_SAMPLE_INPUTS
};
enum {
    /* I32 [R]: the id; -1 where no lane is, or where a logit is not a number or plus infinity, or
     * all are minus infinity */
    KR_SAMPLE_ID,
    /* Both given, both or none: the inputs of that name, in their memory. Of the row's lane, the
     * byte of the id becomes 1, and `drawn` moves on. */
    KR_SAMPLE_SEEN_OUT,
    KR_SAMPLE_RANDOM_OUT,
    KR_SAMPLE_OUTPUTS
};

/* Into which the GPU cuts a row: its scratch is a number of 64 bits for each. */
enum { KR_SAMPLE_PIECES = 1024 };

extern const kr_op kr_op_sample;

#endif
