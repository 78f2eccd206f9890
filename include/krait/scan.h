/* scan.h - the engine alone: one linear recurrence, on plain arrays.
 *
 * Every member of the family (Mamba 1 to 3, S4D, LRU, linear attention, RetNet, GLA, ...) is this
 * recurrence, for each sequence and head, over its rows t in visiting order:
 *
 *   delta_t   = clamp(softplus(dt_t + dt_bias))                    (each part optional)
 *   h_t       = a_t (*) h_{t-1} + sum_{r<R} gain_{t,r} x_{t,r} (x) b_{t,r}              h [P,N]
 *   u_{t,q}   = kappa Re(h_t c_{t,q}) + D x_{t,q}                                         q < Q
 *   y_{t,q}   = u_{t,q} * silu(z_{t,q})
 *
 * krait_scan_desc names the member: shapes, how the decay a_t is given, what gain is, which state
 * is read, in which order rows are visited. src/scan/README.md derives the backward pass,
 * docs/references.md names the papers of the members.
 *
 * Layout. Rows are tokens, channels are contiguous; rows may be strided. Per row
 *   x [R,H,P]   b [R,G,N]   c [Q,G,N]   z, y [Q,H,P]   gain [R,H]   dt [H], or [H,P] when decay is
 * MATRIX and head h uses group h / (H/G) of b and c. State [slots,H,P,N]. A by decay: SCALAR [H],
 * VECTOR [H,N], MATRIX [H,P,N]. What is constant in time has the same layout and one row: A
 * (a_constant), b, c, dt likewise; D [H] or [H,P]; dt_bias as dt. A complex vector of N is N real
 * parts followed by N imaginary parts: with `complex` set, N doubles in b, c, A and the state
 * (SCALAR: re, im), while x, y, z, dt, gain, D stay real. A gradient of a complex number is dL/dRe,
 * dL/dIm in the same places.
 *
 * Complex lanes (complex_lanes set): h = a h + v with a complex number a lane and nothing between
 * the lanes. N = 1, and x [2,H,P] is the real parts of v and then the imaginary parts, y likewise
 * of h; A [2,H,P] and the state [slots,2,H,P] are laid out in the same way. There are no b and c.
 *
 * Low rank (low_rank K > 0): the decay is a diagonal minus K outer products,
 *   h_t = a (*) h_{t-1} - sum_k p_k kappa Re(q_k . h_{t-1}) + ...
 * with decay VECTOR and form GIVEN; of each head A holds a, p_1 .. p_K, q_1 .. q_K: [H,1+2K,N]. No
 * power of it may grow.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KRAIT_SCAN_H
#define KRAIT_SCAN_H

#include <krait/error.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum krait_scan_decay {
    KRAIT_DECAY_NONE,   /* a = 1; A is absent */
    KRAIT_DECAY_SCALAR, /* one number a head */
    KRAIT_DECAY_VECTOR, /* over N, the same for every p */
    KRAIT_DECAY_MATRIX  /* over P and N */
} krait_scan_decay;

typedef enum krait_scan_form {
    KRAIT_FORM_GIVEN, /* a = A */
    KRAIT_FORM_LOG,   /* a = exp(A) */
    KRAIT_FORM_DT     /* a = exp(delta A) */
} krait_scan_form;

typedef enum krait_scan_gain {
    KRAIT_GAIN_ONE,  /* 1 */
    KRAIT_GAIN_DT,   /* delta */
    KRAIT_GAIN_GIVEN /* the gain array */
} krait_scan_gain;

typedef enum krait_scan_read {
    KRAIT_READ_AFTER,  /* h_t: what almost every model does */
    KRAIT_READ_BEFORE, /* h_{t-1} (RWKV; its bonus term is added outside) */
    KRAIT_READ_FINAL   /* every row reads the last state of its segment: not causal (MILA) */
} krait_scan_read;

typedef enum krait_scan_order {
    KRAIT_ORDER_FORWARD,
    KRAIT_ORDER_REVERSE, /* last row of the sequence first */
    KRAIT_ORDER_INDEX /* step t visits row first + index[t]; every sequence has as many rows as the
                         table */
} krait_scan_order;

/* All zero is a valid start: set the sizes, then what differs. The constructors below fill it for
 * each model. */
typedef struct krait_scan_desc {
    int64_t heads, width, state, groups; /* H P N G; G divides H */
    int64_t inputs, reads;               /* R Q; D needs Q <= R */
    krait_scan_decay decay;
    krait_scan_form form;
    krait_scan_gain gain;
    krait_scan_read read;
    krait_scan_order order;
    bool complex_state;
    bool complex_lanes; /* with complex_state, decay MATRIX, N 1, R and Q 2, gain ONE */
    double kappa;       /* 1, or 2 when half of the conjugate pairs is stored */
    bool a_constant, b_constant, c_constant, dt_constant;
    bool dt_softplus;      /* log(1 + exp(v)) up to v = 20, v above */
    double dt_min, dt_max; /* delta is clamped to [dt_min, dt_max]; dt_max 0: no upper bound */
    bool skip_per_channel; /* D is [H,P] instead of [H] */
    int64_t low_rank;      /* K */
} krait_scan_desc;

/* Mamba (decay MATRIX, exp(delta A), gain delta, one head of E channels): A [E,N] (negative), dt
 * [M,E], b c [M,N], D [E]. */
KRAIT_API krait_scan_desc krait_scan_mamba1(int64_t E, int64_t N);
/* Mamba-2 (decay SCALAR, exp(delta A), gain delta): A [H], dt [M,H], b c [M,G,N], D [H]. */
KRAIT_API krait_scan_desc krait_scan_mamba2(int64_t H, int64_t P, int64_t N, int64_t G);
/* Mamba-3 of rank R: inputs 0..R-1 are this token's, R..2R-1 the previous token's: x [2R,H,P] with
 * gain gamma_t and beta_t, b [2R,H,N] rotated as that paper says, c [R,H,N]; A [M,H] = A_t delta_t
 * is the logarithm of the decay; D [H]. */
KRAIT_API krait_scan_desc krait_scan_mamba3(int64_t H, int64_t P, int64_t N, int64_t R);
/* S4D with N stored complex modes a channel: one head a channel, A [H,N] = lambda with dt [H]
 * constant, b, c [H,N] constant, y twice the real part, D [H]. b is the discretised one. */
KRAIT_API krait_scan_desc krait_scan_s4d(int64_t channels, int64_t N);
/* S4: the same, with a decay of a diagonal minus `rank` outer products, given: A [H,1+2 rank,N] of
 * complex numbers, constant, of each channel a, p_1 .. p_rank, q_1 .. q_rank (Low rank, above); no
 * dt. */
KRAIT_API krait_scan_desc krait_scan_s4(int64_t channels, int64_t N, int64_t rank);
/* LSSL: a whole real matrix [N,N] a channel as its decay: A [H,1+2 N,N] holds a diagonal of zeros,
 * p_k = -e_k, q_k its row k. */
KRAIT_API krait_scan_desc krait_scan_lssl(int64_t channels, int64_t N);
/* LRU: complex lanes, a = exp(A) with A [2,lanes] = (-exp(nu_log), exp(theta_log)) constant; x
 * [M,2,lanes] is B u, y the states. */
KRAIT_API krait_scan_desc krait_scan_lru(int64_t lanes);
/* Linear attention: no decay. For the normaliser add a column of ones to x (width P + 1) and divide
 * by that column of y. */
KRAIT_API krait_scan_desc krait_scan_linear_attention(int64_t H, int64_t P, int64_t N);
/* RetNet: A [H] = gamma constant, b and c rotated outside. */
KRAIT_API krait_scan_desc krait_scan_retnet(int64_t H, int64_t P, int64_t N);
/* Gated linear attention: A [M,H,N] = log alpha, negative. */
KRAIT_API krait_scan_desc krait_scan_gla(int64_t H, int64_t P, int64_t N);

/* 0, or KRAIT_ERR_ARGUMENT with the field that is wrong. */
KRAIT_API int krait_scan_check(const krait_scan_desc *d, krait_error *e);

/* The arrays of one call: f32, contiguous, laid out as above. NULL: the member has no such array,
 * or it is optional and absent. */
typedef struct krait_scan_arrays {
    int64_t rows, sequences, slots;
    /* [sequences,3]: first row, rows, state slot, which is no other sequence's; in order, together
     * every row once. NULL: all rows are one sequence with slot 0. */
    const int64_t *seqs;
    const unsigned char *reset; /* [rows]: 1 where a segment starts; no state passes into it */
    const int32_t *index;       /* [index_count]: order INDEX only */
    int64_t index_count;
    const float *x, *dt, *a, *b, *c, *d, *z, *dt_bias, *gain;
    float *state; /* [slots,H,P,N]: where the sequences start, then where they end. NULL: zeros */
    float *y;
} krait_scan_arrays;

/* Computes y, and the state behind the last rows. threads 0: all cores. */
KRAIT_API int krait_scan_run(const krait_scan_desc *d, const krait_scan_arrays *arrays, int threads,
                             krait_error *e);

/* Gradients: each in the layout of what it belongs to. NULL: not given, not wanted. Without slots
 * there are no states, and dstate_out and dstate_in are to be NULL. */
typedef struct krait_scan_gradients {
    const float *dy, *dstate_out;                                /* given */
    float *dx, *ddt, *da, *db, *dc, *dd, *dz, *ddt_bias, *dgain; /* overwritten */
    float *dstate_in;
} krait_scan_gradients;

/* The backward pass of krait_scan_run. arrays->state holds the states in front of the first rows
 * (as they were before krait_scan_run) and stays; arrays->y is not read. */
KRAIT_API int krait_scan_gradient(const krait_scan_desc *d, const krait_scan_arrays *arrays,
                                  const krait_scan_gradients *gradients, int threads,
                                  krait_error *e);

#ifdef __cplusplus
}
#endif
#endif
