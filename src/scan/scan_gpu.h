/* scan_gpu.h - the recurrence on the GPU: which members its kernels do, and how a call is cut.
 * Plain C, so that the plan (scan_op.c) and the kernels (*.cu) agree on the scratch. */
#ifndef KR_SCAN_GPU_H
#define KR_SCAN_GPU_H

#include "scan/scan_op.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    KR_SCAN_GPU_STATES = 16, /* of one channel that one warp holds: more states, more warps */
    KR_SCAN_GPU_STEPS = 8,   /* between the states that the backward pass keeps */
    KR_SCAN_GPU_CHUNK = 128, /* rows of a piece, at least, where time is cut */
    KR_SCAN_GPU_PIECES = 256 /* pieces, at most, besides one for each sequence */
};

/* 0; or KRAIT_ERR_UNSUPPORTED, saying what of this member the GPU's kernels do not do. */
int kr_scan_gpu_check(const kr_call *c, krait_error *e);

/* Which kernels do a call that the check lets pass. */
typedef enum kr_scan_gpu_way {
    KR_SCAN_GPU_LANES,   /* Mamba: scan_seq.cu, scan_back.cu, scan_step.cu */
    KR_SCAN_GPU_MATRIX,  /* one decay a head: scan_matrix*.cu, scan_ssd*.cu */
    KR_SCAN_GPU_COMPLEX, /* complex lanes: scan_complex.cu */
    KR_SCAN_GPU_CONV,    /* nothing varies in time (S4D): scan_conv*.cu */
    KR_SCAN_GPU_ROWS,    /* all others: scan_rows*.cu */
    KR_SCAN_GPU_LOW,     /* a diagonal minus low rank, nothing varies in time (S4): scan_low*.cu */
    KR_SCAN_GPU_DENSE    /* a whole matrix (LSSL): scan_dense*.cu */
} kr_scan_gpu_way;
kr_scan_gpu_way kr_scan_gpu_pick(const kr_call *c);
/* The states in or out are bf16. */
bool kr_scan_half_states(const kr_call *c);

/* How a pass is cut. Piece q of sequence s covers its rows [k chunk, (k+1) chunk), where q = first
 * row / chunk + s + k; so pieces are numbered without a table, with gaps. Steps are numbered
 * likewise: every KR_SCAN_GPU_STEPS rows, from first row / STEPS + s. Offsets in floats. */
typedef struct kr_scan_gpu_cut {
    int64_t E, M, S;
    int blocks;     /* of 16 states, padded */
    int octets;     /* groups of 8 channels in one block of threads */
    int64_t parts;  /* partial sums of db and dc: blocks of threads beside each other */
    int64_t chunk;  /* rows of a piece; more than there are: sequences are not cut */
    int64_t pieces; /* numbers of pieces */
    int64_t starts; /* [steps,E,16 blocks]: states in front of each step */
    int64_t sums;   /* [steps,E]: sums of delta from the piece's first row; -1 behind a reset */
    int64_t ends;   /* [pieces,E,16 blocks]: what a piece adds to the state; then what comes in */
    int64_t backs;  /* the same of the gradient, from the other side */
    int64_t decays; /* the same: product of the decays */
    int64_t bc;     /* [parts,M,2,16 blocks]: db, dc; on the tensor units in bf16 */
    int64_t a;      /* [pieces,E,16 blocks + 2]: dA, dD, ddt_bias */
    int64_t total;
} kr_scan_gpu_cut;

void kr_scan_gpu_plan(const kr_call *c, bool backward, kr_scan_gpu_cut *s);
/* ---- one decay a head, by chunks of matrix products ---- */

enum {
    KR_MATRIX_ROWS = 32,      /* of a chunk, in f32 */
    KR_MATRIX_ROWS_HALF = 64, /* in bf16 */
    KR_MATRIX_P = 64,         /* channels of a head, and its states, at most */
    KR_MATRIX_N = 128,
    KR_MATRIX_INPUTS = 8, /* of a row, at most */
    KR_MATRIX_STEP = 8    /* fewer rows a sequence are taken one by one */
};

/* Channels of a head as 16, 32 or 64, so that a warp's tiles have the same
 * columns. */
static inline int64_t kr_matrix_padded(int64_t P) { return P <= 16 ? 16 : P <= 32 ? 32 : 64; }

/* The backward pass: states in front of chunks [M / rows + S,H,P16,N16], in the type of x; so are
 * db [M,R,H,N] and dc [M,K,H,N] of each head, where a group has several; dA, ddt_bias [S,H] and dD
 * [S,H,P] of each sequence. Offsets in bytes.
 */
typedef struct kr_scan_matrix_cut {
    int64_t starts, db, dc, da, dbias, dd, total;
} kr_scan_matrix_cut;

void kr_scan_matrix_plan(const kr_call *c, kr_scan_matrix_cut *s);
kr_kernel kr_scan_matrix_cuda, kr_scan_matrix_step_cuda, kr_scan_matrix_grad_cuda;
/* Whether the shared memory of the GPU that was opened has room for those kernels. */
bool kr_scan_matrix_has_room(const krait_scan_desc *d, kr_dtype type);
bool kr_scan_matrix_grad_has_room(const krait_scan_desc *d, kr_dtype type);

/* ---- the same of Mamba-2's sizes in bf16, all chunks at once (scan_ssd*.cu) ---- */

enum {
    KR_SCAN_SSD_TIMES = 7 * (KR_MATRIX_ROWS_HALF + 4), /* numbers of a chunk and head in `times` */
    KR_SCAN_SSD_BLOCKS = 256,        /* fewer chunks, and the heads of a group are shared out */
    KR_SCAN_SSD_SHARED = 160 * 1024, /* bytes of shared memory that its kernels need, at most */
};

/* Chunks of rows; what a group's heads are shared out to. Offsets in bytes: what time does to each
 * head in each chunk; states in front of chunks, and their gradients behind, [pieces,H,P,N] in
 * bf16; db and dc of each slice [slices,M,G N]; dA, ddt_bias and dD of each chunk [pieces,H]. */
typedef struct kr_scan_ssd_cut {
    int64_t pieces;
    int slices, heads; /* of a slice; the last one may have fewer */
    int64_t times, before, behind, db, dc, da, dbias, dd, total;
} kr_scan_ssd_cut;

/* Whether the member, the type of x and the card are for these kernels; what else they need
 * kr_scan_ssd_takes says at the call: aligned rows. */
bool kr_scan_ssd_has_room(void); /* on the card */
bool kr_scan_ssd_fits(const kr_call *c);
void kr_scan_ssd_plan(const kr_call *c, kr_scan_ssd_cut *s);
bool kr_scan_ssd_takes(const kr_call *c);
kr_kernel kr_scan_ssd_cuda, kr_scan_ssd_grad_cuda;

/* The same of complex lanes (scan_complex.cu): scratch of [pieces,2,E], and states in front of
 * every KR_SCAN_GPU_STEPS-th row. */
typedef struct kr_scan_gpu_lanes {
    int64_t E, M, S, chunk, pieces;
    int64_t ends, decays, backs; /* [pieces,2,E] */
    int64_t marks;               /* [steps,2,E] */
    int64_t da;                  /* [pieces,2,E] */
    int64_t total;
} kr_scan_gpu_lanes;
void kr_scan_gpu_lanes_plan(const kr_call *c, bool backward, kr_scan_gpu_lanes *s);
kr_kernel kr_scan_complex_cuda, kr_scan_complex_grad_cuda;

/* ---- all other members (scan_rows*.cu) ---- */

enum {
    KR_SCAN_ROWS_THREADS = 128, /* of a block; each holds 16 numbers of the state */
    KR_SCAN_ROWS_STATES = 512,  /* numbers of a channel's state, at most: 32 lanes of 16 */
    KR_SCAN_ROWS_CHUNK = 16     /* rows between the states that the backward pass keeps */
};

/* How heads lie in blocks. A unit is `lanes` threads that have all states of `channels` channels. A
 * block is `units` units of each of `heads` heads. */
typedef struct kr_scan_gpu_tiles {
    int channels, lanes, units, heads;
    int64_t parts;       /* blocks beside each other that a head is spread over */
    int64_t group_parts; /* and a group */
    int64_t blocks;      /* of a sequence */
} kr_scan_gpu_tiles;
void kr_scan_gpu_tiles_of(const krait_scan_desc *d, kr_scan_gpu_tiles *s);

/* The backward pass, in floats: the states in front of chunks, a tile a thread; partial sums of
 * rows [parts,M,columns]; of what is constant in time, a share for each sequence and unit. */
typedef struct kr_scan_rows_scratch {
    int64_t marks, b, c, A, dt, gain, one_A, one_b, one_c, one_D, one_dt, total;
} kr_scan_rows_scratch;
void kr_scan_rows_scratch_plan(const kr_call *c, kr_scan_rows_scratch *s);
kr_kernel kr_scan_rows_cuda, kr_scan_rows_grad_cuda;

/* ---- what is constant in time, as a convolution (scan_conv*.cu) ---- */

enum {
    KR_SCAN_CONV_ROWS = 16384, /* of the largest transform, on a card that has room for it */
    KR_SCAN_CONV_BLOCKS = 160, /* that take channels in turn, at most: one a multiprocessor */
    KR_SCAN_CONV_STATES = 128, /* complex numbers of a channel's state, at most */
    KR_SCAN_CONV_FEWEST = 8    /* rows a sequence, on average, from which it pays */
};

/* Offsets in floats. Of all blocks: x, and dy, as lines [H,M]; then each block's `room`, at
 * `blocks`. Places in that: K and dK [n]; transforms of K, and sums of those of dK, of every size;
 * what is added to a span's rows [n]; a transform; states in front of pieces. */
typedef struct kr_scan_gpu_conv {
    int64_t x, dy, blocks, count, room, total;
    int64_t kernel, held, spectrum, gradient, more, work, states;
} kr_scan_gpu_conv;
void kr_scan_gpu_conv_plan(const kr_call *c, bool backward, kr_scan_gpu_conv *s);
kr_kernel kr_scan_conv_cuda, kr_scan_conv_grad_cuda;

/* ---- the same where the decay is a diagonal minus low rank (scan_low*.cu) ---- */

enum {
    KR_SCAN_LOW_THREADS = 64, /* of a block */
    KR_SCAN_LOW_MODES = 4,    /* complex numbers of a thread; up to 32 threads have a channel */
    KR_SCAN_LOW_RANKS = 2,    /* at most */
    KR_SCAN_LOW_CHUNK = 16    /* rows between the states that the backward pass keeps */
};

/* Threads that have the state of a channel. */
static inline int kr_scan_low_lanes(const krait_scan_desc *d) {
    int lanes = 1;
    while (lanes * KR_SCAN_LOW_MODES < d->state) lanes *= 2;
    return lanes;
}
/* Blocks of a sequence. */
static inline int64_t kr_scan_low_blocks(const krait_scan_desc *d) {
    int64_t channels = KR_SCAN_LOW_THREADS / kr_scan_low_lanes(d);
    return (d->heads + channels - 1) / channels;
}

/* The backward pass, in floats: the states in front of chunks; of what is constant in time, a share
 * for each sequence. */
typedef struct kr_scan_shares {
    int64_t marks, one_A, one_b, one_c, one_D, total;
} kr_scan_shares;
void kr_scan_low_plan(const kr_call *c, kr_scan_shares *s);
kr_kernel kr_scan_low_cuda, kr_scan_low_grad_cuda;

/* ---- the same where it is a whole real matrix (scan_dense*.cu) ---- */

enum {
    KR_SCAN_DENSE_STATES = 64, /* numbers of a channel's state, at most */
    KR_SCAN_DENSE_CHUNK = 16,  /* rows between the states that the backward pass keeps */
    KR_SCAN_DENSE_FEWEST = 8   /* rows a sequence, on average, from which making the matrix pays */
};
void kr_scan_dense_plan(const kr_call *c, kr_scan_shares *s);
kr_kernel kr_scan_dense_cuda, kr_scan_dense_grad_cuda;

size_t kr_scan_gpu_scratch(const kr_call *c); /* forward */
size_t kr_scan_gpu_scratch_grad(const kr_call *c);

#ifdef __cplusplus
}
#endif

#endif
