/* bench.h - the benchmark's parts: timing, rows, and the ceilings that this machine was measured
 * at. */
#ifndef KR_BENCH_H
#define KR_BENCH_H

#include <krait/scan.h>
#include <krait/train.h>

#include "ops/op.h"

#define KR_BENCH_MOST_RUNS 101

typedef struct kr_bench {
    krait_bench_options o;
    kr_level level;
    /* bytes (on the GPU of a copy, read and written) and operations a second */
    double read_rate, gemm_rate;
    double half_rate;      /* of bf16 matrix products on the GPU; gemm_rate is of f32 */
    double scan_seconds;   /* forward and backward of one layer's scan, for the share of a step */
    int64_t width, layers; /* of o.model */
    /* of a test: gets what the GPU's kernels would be timed on (kr_bench_gpu_op) */
    int (*instead)(void *user, const kr_op *op, const kr_case *k, krait_error *e);
    void *user;
} kr_bench;

/* What is timed. `work` is called once to warm up and then o.runs times; a failure ends the
 * benchmark. */
typedef int kr_bench_work(void *user, krait_error *e);

/* Seconds of each run, sorted; *median among them. */
int kr_bench_time(const kr_bench *b, kr_bench_work *work, void *user,
                  double seconds[KR_BENCH_MOST_RUNS], krait_error *e);
/* A row: amount / seconds in `unit`. scale: what one unit is (1e9). */
typedef struct kr_bench_report {
    const char *name, *unit, *note;
    double amount, scale, ceiling; /* ceiling in amount a second; 0: none */
    double calls;                  /* of a run, for the time of one; 0: no time is reported */
} kr_bench_report;
/* Reports the runs that `seconds`, sorted, are. */
void kr_bench_tell(const kr_bench *b, const kr_bench_report *r, const double *seconds);
/* Times `work` and reports it. Returns the median seconds through *median when it is not NULL. */
int kr_bench_measure(const kr_bench *b, const kr_bench_report *r, kr_bench_work *work, void *user,
                     double *median, krait_error *e);

/* Reports a rate of the machine: amount over each of the sorted seconds. */
void kr_bench_rate(const kr_bench *b, const char *name, const char *unit, double amount,
                   const double *seconds, const char *note);

int kr_bench_machine(kr_bench *b, bool report, krait_error *e);
int kr_bench_ops(kr_bench *b, krait_error *e);
int kr_bench_scan(kr_bench *b, krait_error *e);
/* The same on the GPU (bench_gpu.c). */
int kr_bench_gpu_machine(kr_bench *b, bool report, krait_error *e);
int kr_bench_gpu_ops(kr_bench *b, krait_error *e);
int kr_bench_gpu_scan(kr_bench *b, krait_error *e);
/* The operations a second that a call is held against there: which products are its kernel's? */
double kr_bench_gpu_rate(const kr_bench *b, const kr_op *op, const kr_call *c);
/* The member that the model is made of: Mamba-1 with everything fused, E channels and 16 states
 * each, or Mamba-2, E / 64 heads of 128 states; over B sequences of T tokens; backward: what the
 * gradient takes besides (bench_ops.c). */
void kr_bench_scan_desc(const kr_bench *b, krait_scan_desc *d, int64_t E);
void kr_bench_scan_case(kr_case *k, const krait_scan_desc *d, kr_dtype type, int64_t B, int64_t T);
void kr_bench_scan_backward(kr_case *k);
/* what: "prefill", "decode", "train", or NULL: all three. */
int kr_bench_model(kr_bench *b, const char *what, krait_error *e);

/* The widths of a shape by name ("mamba-130m"); false: no such shape. */
bool kr_bench_shape(const char *name, int64_t *width, int64_t *layers);
/* The mixer of a shape by its name. */
const char *kr_bench_mixer(const char *name);

#endif
