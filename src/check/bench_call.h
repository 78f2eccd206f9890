/* bench_call.h - one kernel with its arguments, on any device, to be timed. */
#ifndef KR_BENCH_CALL_H
#define KR_BENCH_CALL_H

#include "check/bench.h"

/* The arguments are drawn as a case says (sequences of equal length), the first part of an array by
 * a generator and the rest as its copies: a million tokens are ready in a moment. */
typedef struct kr_bench_call {
    const kr_op *op;
    kr_level level;
    kr_call call;
    kr_recording *recording; /* on the GPU: of `calls` calls */
    int calls, repeats;      /* of one timed run: calls, times repeats */
    void *memory[KR_MAX_IN + KR_MAX_OUT + 1], *pool;
    int arrays;
    size_t weight; /* bytes of one in the pool; 0: no pool */
    bool refused;  /* the op said that it cannot run this on a GPU */
} kr_bench_call;

/* `rotate`: in[1] lies in a pool and each call takes the next, as the layers of a model do, so that
 * weights come from memory and not from the cache. */
int kr_bench_call_open(kr_bench_call *t, const kr_bench *b, const kr_op *op, const kr_case *k,
                       bool rotate, krait_error *e);
void kr_bench_call_close(kr_bench_call *t);
/* A timed run, for kr_bench_measure. */
int kr_bench_call_run(void *user, krait_error *e);
/* Operations of one call (0: unknown), and its bytes: every array once. */
void kr_bench_call_cost(const kr_bench_call *t, double *flops, double *bytes);

#endif
