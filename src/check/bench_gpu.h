/* bench_gpu.h - rows of the GPU's kernels: laid out by hand (bench_gpu.c), or enlarged from the
 * checker's cases (bench_gpu_rows.c). */
#ifndef KR_BENCH_GPU_H
#define KR_BENCH_GPU_H

#include "check/bench_call.h"

/* One row; none where the op has no kernel here, the GPU cannot do the call, or has too little
 * memory. rotate: of kr_bench_call_open. */
int kr_bench_gpu_op(const kr_bench *b, const kr_op *op, const kr_case *k, const char *shape,
                    bool rotate, krait_error *e);
int kr_bench_gpu_rows(const kr_bench *b, krait_error *e);

#endif
