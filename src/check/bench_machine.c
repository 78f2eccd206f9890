/* bench_machine.c - what the machine itself can do: reading memory, copying it, multiplying
 * matrices.
 *
 * Reading is tried over 1 to 8 streams a thread, and the best is the ceiling: one stream alone
 * often falls short. */
#include "check/bench.h"

#include <stdio.h>

#include "base/err.h"
#include "base/mem.h"
#include "device/cpu/cpu_gemm.h"

enum { BYTES = 1 << 29, SIDE = 2048, LINE = 16, MOST_STREAMS = 8 };

typedef struct memory {
    float *data; /* BYTES */
    int threads, streams;
    double sum; /* so that no reading can be left out */
} memory;

/* One thread's part: `streams` places of it, a cache line of each in turn. */
static float read_part(const float *data, int64_t count, int streams) {
    float sum[LINE] = {0};
    int64_t step = count / streams / LINE * LINE;
    for (int64_t i = 0; i < step; i += LINE)
        for (int s = 0; s < streams; s++)
            for (int lane = 0; lane < LINE; lane++) sum[lane] += data[s * step + i + lane];
    float all = 0;
    for (int lane = 0; lane < LINE; lane++) all += sum[lane];
    return all;
}

static int read_all(void *user, krait_error *e) {
    memory *m = user;
    double sum = 0;
    (void)e;
    int64_t part = BYTES / (int64_t)sizeof(float) / m->threads;
#pragma omp parallel for schedule(static, 1) num_threads(m->threads) reduction(+ : sum)
    for (int t = 0; t < m->threads; t++)
        sum += (double)read_part(m->data + t * part, part, m->streams);
    m->sum += sum;
    return 0;
}

static int copy_all(void *user, krait_error *e) {
    memory *m = user;
    (void)e;
    size_t half = BYTES / 2, part = half / (size_t)m->threads;
    char *data = (char *)m->data;
#pragma omp parallel for schedule(static, 1) num_threads(m->threads)
    for (int t = 0; t < m->threads; t++)
        memcpy(data + half + (size_t)t * part, data + (size_t)t * part, part);
    return 0;
}

typedef struct square {
    kr_gemm g;
    int threads;
} square;

static int multiply(void *user, krait_error *e) {
    square *s = user;
    (void)e;
    kr_gemm_run(&s->g, s->threads);
    return 0;
}

/* The best of the stream counts is the machine's read rate. */
static int measure_reading(kr_bench *b, memory *m, bool report, krait_error *e) {
    for (m->streams = 1; m->streams <= MOST_STREAMS; m->streams *= 2) {
        double seconds[KR_BENCH_MOST_RUNS];
        char name[40];
        KR_TRY(kr_bench_time(b, read_all, m, seconds, e));
        double rate = BYTES / seconds[b->o.runs / 2];
        if (rate > b->read_rate) b->read_rate = rate;
        snprintf(name, sizeof name, "read, %d streams a thread", m->streams);
        if (report) kr_bench_rate(b, name, "GB/s", 1e-9 * BYTES, seconds, "");
    }
    return 0;
}

static int measure_memory(kr_bench *b, bool report, krait_error *e) {
    memory m = {.data = kr_aligned(BYTES), .threads = b->o.threads};
    if (!m.data) return kr_fail_memory(e, "the benchmark of the memory");
    memset(m.data, 0, BYTES);
    int rc = measure_reading(b, &m, report, e);
    kr_bench_report copy = {.name = "copy",
                            .unit = "GB/s",
                            .amount = BYTES,
                            .scale = 1e9,
                            .note = "bytes read and bytes written"};
    if (rc == 0 && report) rc = kr_bench_measure(b, &copy, copy_all, &m, NULL, e);
    kr_free(m.data);
    return rc;
}

static int measure_gemm(kr_bench *b, bool report, krait_error *e) {
    float *data = kr_aligned(3 * sizeof(float) * SIDE * SIDE);
    double seconds[KR_BENCH_MOST_RUNS], work = 2.0 * SIDE * SIDE * SIDE;
    if (!data) return kr_fail_memory(e, "the benchmark of the matrix product");
    for (int64_t i = 0; i < 3L * SIDE * SIDE; i++) data[i] = (float)(i % 7) * 0.1F;
    square s = {{.m = SIDE,
                 .n = SIDE,
                 .k = SIDE,
                 .a = data,
                 .b = data + SIDE * SIDE,
                 .c = data + 2 * SIDE * SIDE,
                 .lda = SIDE,
                 .ldb = SIDE,
                 .ldc = SIDE},
                b->o.threads};
    int rc = kr_bench_time(b, multiply, &s, seconds, e);
    kr_free(data);
    if (rc < 0) return rc;
    b->gemm_rate = work / seconds[b->o.runs / 2];
    if (report) kr_bench_rate(b, "sgemm, 2048 x 2048 x 2048", "GFLOP/s", 1e-9 * work, seconds, "");
    return 0;
}

int kr_bench_machine(kr_bench *b, bool report, krait_error *e) {
    KR_TRY(measure_memory(b, report, e));
    return measure_gemm(b, report, e);
}
