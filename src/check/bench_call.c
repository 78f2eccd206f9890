/* bench_call.c - makes the arguments of a kernel that is timed, and runs it. */
#include "check/bench_call.h"

#include <math.h>
#include <omp.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"

/* The drawn numbers are a prime, so that no two rows of a matrix are the same. */
enum { DRAWN = 262139, POOL_BYTES = 1 << 28, RECORDED = 10, MOST_CALLS = 500 };
static const double run_seconds = 2e-3; /* of a timed run on the GPU, at least */

static int failed(krait_error *e) { return kr_fail_memory(e, "the benchmark of a kernel"); }

static void *allocate(kr_bench_call *t, size_t bytes) {
    return t->memory[t->arrays++] = kr_device_alloc(t->level, bytes);
}

/* ---- arguments ---- */

static int64_t drawn_count(const kr_case *k, int i) {
    int64_t n = kr_tensor_count(&k->in[i]);
    return k->fill[i].kind == KR_FILL_INDEX || k->fill[i].kind == KR_FILL_SEQS || n < DRAWN ? n
                                                                                            : DRAWN;
}

static void draw_floats(void *to, kr_dtype type, const kr_case *k, int i, int64_t n, kr_rng *r) {
    double a = k->fill[i].a, b = k->fill[i].b;
    size_t size = kr_dtype_size(type);
    for (int64_t j = 0; j < n; j++) {
        double v = k->fill[i].kind == KR_FILL_NORMAL ? a * kr_rng_normal(r) + b
                                                     : a + (b - a) * kr_rng_uniform(r);
        kr_convert((char *)to + (size_t)j * size, type, &v, KR_F64, 1);
    }
}

static void draw_integers(void *to, kr_dtype type, const kr_case *k, int i, int64_t n, kr_rng *r) {
    int64_t length = k->fill[i].kind == KR_FILL_SEQS ? k->tokens / k->in[i].shape[0] : 0;
    for (int64_t j = 0; j < n; j++) {
        int64_t s = j / 3, seq[3] = {s * length, length, s};
        int64_t v = length ? seq[j % 3] : (int64_t)kr_rng_below(r, (uint64_t)k->fill[i].a);
        if (type == KR_I64)
            ((int64_t *)to)[j] = v;
        else
            ((int32_t *)to)[j] = (int32_t)v;
    }
}

static int fill_input(const kr_bench_call *t, const kr_case *k, int i, char *to, krait_error *e) {
    kr_dtype type = k->in[i].dtype;
    size_t size = kr_dtype_size(type);
    int64_t n = kr_tensor_count(&k->in[i]), done = drawn_count(k, i);
    kr_rng r = kr_rng_make(7, (uint64_t)i);
    void *host = kr_aligned((size_t)done * size);
    if (!host) return failed(e);
    if (type == KR_I64 || type == KR_I32)
        draw_integers(host, type, k, i, done, &r);
    else
        draw_floats(host, type, k, i, done, &r);
    int rc = kr_device_put(t->level, to, host, (size_t)done * size, e);
    if (rc == 0) rc = kr_device_wait(t->level, e);
    kr_free(host);
    while (rc == 0 && done < n) {
        int64_t piece = done < n - done ? done : n - done;
        rc = kr_device_copy(t->level, to + (size_t)done * size, to, (size_t)piece * size, e);
        done += piece;
    }
    return rc;
}

static int open_inputs(kr_bench_call *t, const kr_case *k, krait_error *e) {
    for (int i = 0; i < k->n_in; i++) {
        t->call.in[i] = k->in[i];
        if (k->fill[i].kind == KR_FILL_ABSENT || k->in[i].rank == 0) continue;
        char *data = allocate(t, kr_tensor_bytes(&k->in[i]));
        if (!data) return failed(e);
        t->call.in[i].data = data;
        KR_TRY(fill_input(t, k, i, data, e));
    }
    return 0;
}

static int open_outputs(kr_bench_call *t, const kr_case *k, krait_error *e) {
    kr_tensor derived[KR_MAX_OUT];
    memset(derived, 0, sizeof derived);
    for (int i = 0; i < k->n_out; i++) {
        t->call.out[i] = k->out[i];
        t->call.out[i].data = k->out_absent[i] ? NULL : t; /* only whether it is NULL counts */
    }
    KR_TRY(t->op->shape(&t->call, derived, e));
    for (int i = 0; i < k->n_out; i++) {
        if (derived[i].rank > 0) t->call.out[i] = derived[i];
        t->call.out[i].data = NULL;
        if (k->out_absent[i] || t->call.out[i].rank == 0) continue;
        size_t bytes = kr_tensor_bytes(&t->call.out[i]);
        t->call.out[i].data = allocate(t, bytes);
        if (!t->call.out[i].data) return failed(e);
        KR_TRY(kr_device_fill(t->level, t->call.out[i].data, 0, bytes, e));
    }
    size_t scratch = kr_op_scratch(t->op, t->level, &t->call);
    t->call.scratch = allocate(t, scratch);
    return t->call.scratch ? 0 : failed(e);
}

static int open_pool(kr_bench_call *t, krait_error *e) {
    size_t bytes = kr_tensor_bytes(&t->call.in[1]);
    t->weight = (bytes + 255) / 256 * 256;
    t->calls = (int)(POOL_BYTES / t->weight);
    if (t->calls < 1) t->calls = 1;
    if (t->calls > MOST_CALLS) t->calls = MOST_CALLS;
    t->pool = kr_device_alloc(t->level, t->weight * (size_t)t->calls);
    if (!t->pool) return failed(e);
    for (int i = 0; i < t->calls; i++)
        KR_TRY(kr_device_copy(t->level, (char *)t->pool + (size_t)i * t->weight, t->call.in[1].data,
                              bytes, e));
    return 0;
}

/* ---- running ---- */

static void call_all(kr_bench_call *t) {
    for (int i = 0; i < t->calls; i++) {
        if (t->weight) t->call.in[1].data = (char *)t->pool + (size_t)i * t->weight;
        kr_op_kernel(t->op, t->level)(&t->call);
    }
}

int kr_bench_call_run(void *user, krait_error *e) {
    kr_bench_call *t = user;
    if (!t->recording) {
        call_all(t);
        return 0;
    }
    for (int i = 0; i < t->repeats; i++) KR_TRY(kr_device_replay(t->recording, e));
    return kr_device_wait(t->level, e);
}

/* Calls are recorded, so that the time is the kernel's and not that of its launch; the recording is
 * repeated until it takes long enough to be measured. */
static int record(kr_bench_call *t, krait_error *e) {
    int calls = t->calls;
    t->calls = 1;
    call_all(t);
    KR_TRY(kr_device_check(t->level, t->op->name, e));
    KR_TRY(kr_device_wait(t->level, e));
    double start = omp_get_wtime();
    call_all(t);
    KR_TRY(kr_device_wait(t->level, e));
    double seconds = omp_get_wtime() - start;
    t->calls = calls > 1 ? calls : seconds < run_seconds ? RECORDED : 1;
    t->repeats = 1 + (int)fmin(run_seconds / (seconds * t->calls), 100);
    KR_TRY(kr_device_record_begin(t->level, e));
    call_all(t);
    return kr_device_record_end(t->level, &t->recording, e);
}

int kr_bench_call_open(kr_bench_call *t, const kr_bench *b, const kr_op *op, const kr_case *k,
                       bool rotate, krait_error *e) {
    *t = (kr_bench_call){.op = op, .level = b->level, .calls = 1, .repeats = 1};
    t->call =
        (kr_call){.n_in = k->n_in, .n_out = k->n_out, .attr = k->attr, .threads = b->o.threads};
    KR_TRY(open_inputs(t, k, e));
    KR_TRY(open_outputs(t, k, e));
    t->refused = b->level == KR_LEVEL_CUDA && op->check_cuda && op->check_cuda(&t->call, e) < 0;
    if (t->refused) return kr_code(e);
    if (rotate) KR_TRY(open_pool(t, e));
    return kr_device_records(t->level) ? record(t, e) : 0;
}

void kr_bench_call_close(kr_bench_call *t) {
    kr_recording_free(t->recording);
    for (int i = 0; i < t->arrays; i++) kr_device_free(t->level, t->memory[i]);
    kr_device_free(t->level, t->pool);
    *t = (kr_bench_call){0};
}

void kr_bench_call_cost(const kr_bench_call *t, double *flops, double *bytes) {
    double all = 0, least = INFINITY;
    *flops = 0;
    if (t->op->cost) t->op->cost(&t->call, flops, &least);
    for (int i = 0; i < t->call.n_in; i++)
        if (t->call.in[i].data) all += (double)kr_tensor_bytes(&t->call.in[i]);
    for (int i = 0; i < t->call.n_out; i++)
        if (t->call.out[i].data) all += (double)kr_tensor_bytes(&t->call.out[i]);
    *bytes = fmin(all, least); /* less where only some rows are read; the op may not know of bf16 */
}
