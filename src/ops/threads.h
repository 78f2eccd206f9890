/* threads.h - how many threads a kernel's work is worth, and which part of it is each one's. */
#ifndef KR_THREADS_H
#define KR_THREADS_H

#include <omp.h>

#include "ops/op.h"

/* A parallel region costs a few microseconds: no thread is woken for less than this many bytes of
 * memory traffic. */
#define KR_BYTES_A_THREAD 65536

static inline int kr_threads_for(const kr_call *c, int64_t bytes) {
    int64_t worth = bytes / KR_BYTES_A_THREAD;
    if (worth < 1) return 1;
    return worth < c->threads ? (int)worth : c->threads;
}

typedef struct kr_part {
    int64_t begin, end;
} kr_part;

/* Part `i` of `parts` of [0, total), cut at multiples of `grain`. */
static inline kr_part kr_part_of(int64_t total, int64_t grain, int i, int parts) {
    int64_t units = (total + grain - 1) / grain;
    kr_part p = {units * i / parts * grain, units * (i + 1) / parts * grain};
    if (p.end > total) p.end = total;
    if (p.begin > p.end) p.begin = p.end;
    return p;
}

/* The part of the calling thread of a parallel region. */
static inline kr_part kr_my_part(int64_t total, int64_t grain) {
    return kr_part_of(total, grain, omp_get_thread_num(), omp_get_num_threads());
}

#endif
