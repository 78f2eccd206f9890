/* scan_plan.h - which plan computes a call, and how the vector plans cut it into pieces of fixed
 * size. Fixed: the pieces depend on the shape alone, never on the number of threads, so sums over
 * pieces always run in one order. */
#ifndef KR_SCAN_PLAN_H
#define KR_SCAN_PLAN_H

#include "scan/scan_cauchy.h"
#include "scan/scan_op.h"

typedef enum kr_scan_plan {
    KR_SCAN_REFERENCE, /* everything: scan_ref.c */
    KR_SCAN_LANES, /* MATRIX decay exp(delta A), real, one input and one read: vectors over channels
                    */
    KR_SCAN_LANES_STEP, /* the same, one row a sequence: vectors over N */
    KR_SCAN_ROWS,       /* no, SCALAR or VECTOR decay, real: vectors over N */
    KR_SCAN_MATRIX,     /* no or SCALAR decay, real: chunks of rows as matrix products (CHUNK) */
    KR_SCAN_COMPLEX,    /* complex lanes (LRU): vectors over lanes */
    KR_SCAN_CONV,       /* nothing varies in time, complex (S4D): a convolution */
    KR_SCAN_MODES,      /* the same, few rows a sequence, forward: vectors over N */
    KR_SCAN_STEPS /* nothing varies in time, complex or of low rank (S4): vectors over channels */
} kr_scan_plan;

kr_scan_plan kr_scan_pick(const kr_call *c, bool backward);
const char *kr_scan_plan_name(kr_scan_plan p);

enum {
    KR_SCAN_GROUP = 64, /* channels that one piece of the forward pass carries through time */
    KR_SCAN_CHUNK = 32, /* rows between stored states in the backward pass */
    KR_SCAN_PARTS = 8,  /* at most so many partial sums over channels, and over sequences */
    KR_SCAN_LINE = 16   /* floats in 64 bytes: every array of scratch starts on such a line */
};

static inline int64_t kr_scan_line(int64_t floats) {
    return (floats + KR_SCAN_LINE - 1) / KR_SCAN_LINE * KR_SCAN_LINE;
}

/* Scratch of the vector plans, in floats. */
size_t kr_scan_vec_scratch(const kr_call *c, bool backward);

/* ---- the member with vectors over channels ----
 *
 * Channels e in [0,E) share b and c by groups of width E / G. The backward pass cuts the sequences
 * into slabs and each group into parts; an item is (slab, group, part). Items write their own rows
 * of dx, ddt and dz, and partial sums: b and c over the part's channels [parts,M,G,2,N], A D
 * dt_bias over the slab's sequences [slabs,E,N+2]. */
typedef struct kr_scan_cut {
    int64_t E, N, G, width; /* width = E / G */
    int64_t parts, lanes;   /* of a group; channels in a part, a whole number of lines (the last may
                               have fewer) */
    int64_t slabs;
    int64_t per_bc, per_A; /* floats of all partial sums */
    int64_t per_thread;    /* floats of a thread's own scratch */
} kr_scan_cut;

/* ---- the members with vectors over N ----
 *
 * As above, with heads instead of channels: an item is (slab, group, part of the group's heads).
 * Partial sums: b and c [parts,M,R+Q,G,N]; D, A, dt_bias [slabs,H,P+N+1]. */
enum {
    KR_SCAN_PRODUCT = 64, /* rows of the chunks of plan CHUNK, times ranks */
    /* Where CHUNK begins to win. One core of an AMD EPYC, AVX-512, H 24 P 64 N 128, forward and
     * backward against ROWS: 0.8 and 1.4 times as fast at 8 rows a sequence, 1.3 and 1.7 at 16, 3.9
     * and 4.4 at 1,024; of 1,024 rows, P 4 N 4: 0.8 and 1.3, P 8 N 8: 1.9 and 1.3. */
    KR_SCAN_CHUNK_LEAST = 16,    /* rows a sequence, on average */
    KR_SCAN_CHUNK_WIDTH = 8,     /* channels of a head */
    KR_SCAN_CHUNK_STATES = 4096, /* numbers of the states of a part, if there are so many */
    KR_SCAN_TILE = 4, /* channels that the backward pass takes through a chunk together */
    KR_SCAN_RANKS = 8 /* inputs, and reads, that ROWS has registers for in the backward pass */
};

typedef struct kr_scan_rows_cut {
    int64_t parts, slabs, per_bc, per_A, per_thread;
} kr_scan_rows_cut;

void kr_scan_cut_rows(const krait_scan_desc *d, int64_t M, kr_scan_rows_cut *s);
int64_t kr_scan_rows_forward(const krait_scan_desc *d); /* floats of a thread's scratch */

/* ---- the members whose chunks are matrix products ----
 *
 * The same items as vectors over N have, but of fewer parts where heads are small. An item takes
 * all heads of its part through a chunk before it goes on to the next, since they share the scores
 * of b and c and sums of their gradients. */
void kr_scan_cut_chunk(const krait_scan_desc *d, int64_t M, kr_scan_rows_cut *s);
int64_t kr_scan_chunk_rows(const krait_scan_desc *d);    /* rows of a chunk */
int64_t kr_scan_chunk_forward(const krait_scan_desc *d); /* floats of a thread's scratch */
int64_t kr_scan_chunk_backward(const krait_scan_desc *d, int64_t M);

void kr_scan_cut_lanes(const krait_scan_desc *d, int64_t M, kr_scan_cut *s);

/* ---- complex lanes ----
 *
 * A piece is a sequence and up to KR_SCAN_GROUP lanes; in the backward pass a slab of the sequences
 * instead of one. Scratch: the decays a [2,E], then sums of dA [slabs,2,E], then each thread's own
 * states. */
static inline int64_t kr_scan_complex_forward(const krait_scan_desc *d) {
    return 2 * kr_scan_line(kr_scan_lanes(d));
}
/* What the backward pass shares: the decays and the sums. */
static inline int64_t kr_scan_complex_sums(const krait_scan_desc *d) {
    return (1 + KR_SCAN_PARTS) * kr_scan_complex_forward(d);
}
static inline int64_t kr_scan_complex_own(int64_t M) { /* of each chunk's start; of one chunk */
    return 2 * KR_SCAN_GROUP * (M / KR_SCAN_CHUNK + 2 + KR_SCAN_CHUNK);
}

/* ---- what is constant in time, as a convolution ----
 *
 * An item is a vector of channels with all its sequences. Scratch: two tables for the largest
 * transform, then each thread's arrays over modes and over time (vec_conv.h). Plan MODES, whose
 * items are lines of channels, needs a state and the a of its channels: far less. */
enum {
    /* With a decay of low rank: rows in the longest sequence's from which making the kernel pays.
     * One core of an AMD EPYC, AVX-512, 192 channels of 32 modes, against STEPS: a number of the
     * kernel costs as much as 3 rows. */
    KR_SCAN_CAUCHY_LEAST = 3,
    KR_SCAN_CONV_LEAST = 8,  /* rows a sequence, on average, from which it pays */
    KR_SCAN_CONV_SIZES = 18, /* sizes of transforms: 1 to 2^17, the longest sequence */
    KR_SCAN_CONV_MODES = 14, /* arrays over modes, of doubles */
    KR_SCAN_CONV_TIMES = 17  /* arrays over time, of floats */
};

static inline int64_t kr_scan_conv_size(int64_t M) { /* numbers of the largest transform */
    int64_t n = 1;
    while (n < M && n < (int64_t)1 << (KR_SCAN_CONV_SIZES - 1)) n *= 2;
    return n;
}
static inline int64_t kr_scan_conv_tables(int64_t M) {
    return kr_scan_line(4 * kr_scan_conv_size(M));
}
static inline int64_t kr_scan_conv_unit(const krait_scan_desc *d, int64_t M) {
    return d->low_rank ? kr_scan_line(2 * kr_cauchy_points(kr_scan_conv_size(M))) : 0;
}
static inline int64_t kr_scan_conv_own(const krait_scan_desc *d, int64_t M) {
    int64_t modes = (d->state + 3) / 4 * 4, size = kr_scan_conv_size(M);
    int64_t points = d->low_rank ? 4 * kr_cauchy_points(size) : 0;
    return KR_SCAN_LINE * ((4 * KR_SCAN_CONV_MODES + 2 + 16 * d->low_rank) * modes +
                           KR_SCAN_CONV_TIMES * size + points);
}

/* ---- what is constant in time, row by row ----
 *
 * An item is a vector of channels with all its sequences (vec_steps.h). A thread's own scratch, in
 * floats: the decay, b, c, the state; backward also their gradients, in doubles too, and states. */
static inline int64_t kr_scan_steps_forward(const krait_scan_desc *d) {
    return KR_SCAN_LINE * ((4 + 2 * d->low_rank) * kr_scan_n(d) + 2 * d->low_rank);
}
static inline int64_t kr_scan_steps_backward(const krait_scan_desc *d, int64_t M) {
    int64_t states = KR_SCAN_CHUNK + M / KR_SCAN_CHUNK + 2;
    return kr_scan_steps_forward(d) +
           KR_SCAN_LINE * kr_scan_n(d) * (3 * (3 + 2 * d->low_rank) + 1 + states);
}

#endif
