/* check_run.c - runs one kernel on guarded arrays and compares what came out. */
#include "check/check.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

#include "base/err.h"
#include "base/mem.h"

typedef struct run {
    kr_check_array in[KR_MAX_IN], out[KR_MAX_OUT], scratch;
    bool shared[KR_MAX_OUT]; /* out[i] is in[i]'s memory */
    kr_call call;
} run;

static bool can_share(const kr_check_data *d, int i) {
    const kr_tensor *in = &d->call.in[i], *out = &d->call.out[i];
    return (d->op->inplace >> i & 1) && d->present[i] && i < d->k.n_in && d->in[i] &&
           in->dtype == out->dtype && kr_tensor_same_shape(in, out);
}

static bool accumulates(const kr_check_data *d, int i) {
    return d->present[i] && !(d->op->no_accumulate >> i & 1);
}

static int place_inputs(run *r, const kr_check_data *d, const kr_check_layout *layout,
                        krait_error *e) {
    for (int i = 0; i < d->k.n_in; i++) {
        r->call.in[i].data = NULL;
        if (!d->in[i]) continue;
        KR_TRY(kr_check_array_make(&r->in[i], &d->call.in[i], layout, e));
        kr_check_array_put(&r->in[i], d->in[i]);
        r->call.in[i] = r->in[i].t;
    }
    return 0;
}

static int place_outputs(run *r, const kr_check_data *d, const kr_check_layout *layout,
                         krait_error *e) {
    for (int i = 0; i < d->k.n_out; i++) {
        if (!d->present[i]) continue;
        r->shared[i] = layout->inplace && can_share(d, i);
        if (r->shared[i]) {
            r->call.out[i] = r->in[i].t;
            continue;
        }
        KR_TRY(kr_check_array_make(&r->out[i], &d->call.out[i], layout, e));
        r->call.out[i] = r->out[i].t;
        if (!layout->accumulate || !accumulates(d, i)) continue;
        r->call.accumulate |= 1u << i;
        kr_check_array_put(&r->out[i], d->before[i]);
    }
    return 0;
}

static int place_scratch(run *r, const kr_check_data *d, kr_level level, krait_error *e) {
    size_t bytes = kr_op_scratch(d->op, level, &r->call);
    if (bytes == 0) return 0;
    kr_tensor shape = kr_tensor_make(NULL, KR_U8, 1, (int64_t[]){(int64_t)bytes});
    KR_TRY(kr_check_array_make(&r->scratch, &shape, &(kr_check_layout){0}, e));
    r->call.scratch = r->scratch.t.data;
    return 0;
}

/* ---- on the GPU ---- */

/* Copies the arrays there and makes the call speak of the copies. */
static int send(run *r, const kr_check_data *d, krait_error *e) {
    for (int i = 0; i < d->k.n_in; i++) {
        if (!r->in[i].block) continue;
        KR_TRY(kr_check_array_send(&r->in[i], e));
        r->call.in[i] = kr_check_array_there(&r->in[i]);
    }
    for (int i = 0; i < d->k.n_out; i++) {
        if (r->shared[i]) r->call.out[i] = r->call.in[i];
        if (!r->out[i].block) continue;
        KR_TRY(kr_check_array_send(&r->out[i], e));
        r->call.out[i] = kr_check_array_there(&r->out[i]);
    }
    if (!r->scratch.block) return 0;
    KR_TRY(kr_check_array_send(&r->scratch, e));
    r->call.scratch = kr_check_array_there(&r->scratch).data;
    return 0;
}

static int fetch(run *r, krait_error *e) {
    for (int i = 0; i < KR_MAX_IN; i++)
        if (r->in[i].block) KR_TRY(kr_check_array_fetch(&r->in[i], e));
    for (int i = 0; i < KR_MAX_OUT; i++)
        if (r->out[i].block) KR_TRY(kr_check_array_fetch(&r->out[i], e));
    return r->scratch.block ? kr_check_array_fetch(&r->scratch, e) : 0;
}

/* Once from a recording: a kernel that waits, allocates or looks at its data while it is recorded
 * fails here, as it would in a recorded step. */
static int launch_recorded(const run *r, kr_kernel *kernel, const char *name, krait_error *e) {
    kr_recording *recording = NULL;
    KR_TRY(kr_device_record_begin(KR_LEVEL_CUDA, e));
    kernel(&r->call);
    krait_error unlaunched;
    int launched = kr_device_check(KR_LEVEL_CUDA, name, &unlaunched);
    int rc = kr_device_record_end(KR_LEVEL_CUDA, &recording, e);
    if (launched < 0) *e = unlaunched;
    if (rc == 0) rc = launched;
    if (rc == 0) rc = kr_device_replay(recording, e);
    if (rc == 0) rc = kr_device_wait(KR_LEVEL_CUDA, e);
    kr_recording_free(recording);
    return rc;
}

/* What goes wrong in the kernel is the result's, not this function's failure. */
static int launch(run *r, const kr_check_data *d, const kr_check_layout *layout,
                  kr_check_result *result, krait_error *e) {
    kr_kernel *kernel = kr_op_kernel(d->op, KR_LEVEL_CUDA);
    krait_error trouble;
    int rc;
    KR_TRY(send(r, d, e));
    if (layout->recorded) {
        rc = launch_recorded(r, kernel, d->op->name, &trouble);
    } else {
        kernel(&r->call);
        rc = kr_device_check(KR_LEVEL_CUDA, d->op->name, &trouble);
    }
    if (rc == 0) rc = kr_device_wait(KR_LEVEL_CUDA, &trouble);
    if (rc == 0) return fetch(r, e);
    result->stopped = true;
    snprintf(result->fault, sizeof result->fault, "%.150s", trouble.message);
    return 0;
}

static int inspect_input(const run *r, const kr_check_data *d, int i, kr_check_result *result,
                         krait_error *e) {
    if (!d->in[i] || (i < KR_MAX_OUT && r->shared[i])) return 0;
    if (!kr_check_array_guarded(&r->in[i]))
        snprintf(result->fault, sizeof result->fault, "wrote beside input %d", i);
    size_t bytes = kr_tensor_bytes(&d->call.in[i]);
    void *now = kr_malloc(bytes);
    if (!now) return kr_fail_memory(e, "a checked array");
    kr_check_array_get(&r->in[i], now);
    if (memcmp(now, d->in[i], bytes) != 0)
        snprintf(result->fault, sizeof result->fault, "changed input %d", i);
    kr_free(now);
    return 0;
}

static int collect(const run *r, const kr_check_data *d, kr_check_result *result, krait_error *e) {
    for (int i = 0; i < d->k.n_in; i++) KR_TRY(inspect_input(r, d, i, result, e));
    if (r->scratch.block && !kr_check_array_guarded(&r->scratch))
        snprintf(result->fault, sizeof result->fault, "wrote beside its scratch");
    for (int i = 0; i < d->k.n_out; i++) {
        if (!d->present[i]) continue;
        const kr_check_array *a = r->shared[i] ? &r->in[i] : &r->out[i];
        if (!kr_check_array_guarded(a))
            snprintf(result->fault, sizeof result->fault, "wrote beside output %d", i);
        result->out[i] = kr_malloc(kr_tensor_bytes(&d->call.out[i]));
        if (!result->out[i]) return kr_fail_memory(e, "a checked array");
        kr_check_array_get(a, result->out[i]);
    }
    return 0;
}

int kr_check_run(const kr_check_data *d, kr_level level, const kr_check_layout *layout,
                 kr_check_result *result, krait_error *e) {
    run r = {.call = d->call};
    int rc;
    *result = (kr_check_result){0};
    r.call.threads = layout->threads;
    KR_TRY_GOTO(place_inputs(&r, d, layout, e), done);
    KR_TRY_GOTO(place_outputs(&r, d, layout, e), done);
    KR_TRY_GOTO(place_scratch(&r, d, level, e), done);
    if (level == KR_LEVEL_CUDA)
        KR_TRY_GOTO(launch(&r, d, layout, result, e), done);
    else
        kr_op_kernel(d->op, level)(&r.call);
    if (!result->stopped) rc = collect(&r, d, result, e);
done:
    for (int i = 0; i < KR_MAX_IN; i++) kr_check_array_free(&r.in[i]);
    for (int i = 0; i < KR_MAX_OUT; i++) kr_check_array_free(&r.out[i]);
    kr_check_array_free(&r.scratch);
    return rc;
}

void kr_check_result_free(kr_check_result *r) {
    for (int i = 0; i < KR_MAX_OUT; i++) kr_free(r->out[i]);
    *r = (kr_check_result){0};
}

/* ---- values ---- */

/* Element i of packed data; *written is false where the bytes are still the mark of
 * kr_check_array_make. */
static double value_at(const void *packed, kr_dtype type, int64_t i, bool *written) {
    size_t size = kr_dtype_size(type);
    const unsigned char *p = (const unsigned char *)packed + (size_t)i * size;
    *written = false;
    for (size_t b = 0; b < size; b++)
        if (p[b] != 0xff) *written = true;
    double v = 0;
    if (type == KR_I64) return (double)((const int64_t *)packed)[i];
    if (type == KR_I32) return (double)((const int32_t *)packed)[i];
    if (type == KR_U8) return (double)*p;
    kr_convert(&v, KR_F64, p, type, 1);
    return v;
}

/* The largest magnitude of an output and where it is (-1: nothing was written). */
static double largest(const kr_check_data *d, const kr_check_result *r, int out, int64_t *place) {
    const kr_tensor *t = &d->call.out[out];
    double most = 0;
    *place = -1;
    for (int64_t i = 0; i < kr_tensor_count(t); i++) {
        bool written;
        double v = fabs(value_at(r->out[out], t->dtype, i, &written));
        if (!written || !(v >= most)) continue;
        most = v;
        *place = i;
    }
    return most;
}

static bool is_whole(kr_dtype t) { return t == KR_I64 || t == KR_I32 || t == KR_U8; }

static void put_value(void *packed, kr_dtype type, int64_t i, double v) {
    if (type == KR_I64)
        ((int64_t *)packed)[i] = (int64_t)v;
    else if (type == KR_I32)
        ((int32_t *)packed)[i] = (int32_t)v;
    else if (type == KR_U8)
        ((uint8_t *)packed)[i] = (uint8_t)v;
    else
        kr_convert((char *)packed + (size_t)i * kr_dtype_size(type), type, &v, KR_F64, 1);
}

void kr_check_corrupt(const kr_check_data *d, kr_check_result *r) {
    for (int out = 0; out < d->k.n_out; out++) {
        int64_t i;
        if (!d->present[out]) continue;
        double most = largest(d, r, out, &i);
        if (i < 0) continue;
        put_value(r->out[out], d->call.out[out].dtype, i, most * 2 + 1);
        return;
    }
}

/* Relative to the largest; whole numbers must be equal. */
static double compare_output(const kr_check_data *wd, const kr_check_result *want,
                             const kr_check_data *gd, const kr_check_result *got, int out,
                             char detail[160]) {
    int64_t place;
    double worst = 0, scale = largest(wd, want, out, &place);
    if (!(scale > 0)) scale = 1;
    for (int64_t i = 0; i < kr_tensor_count(&wd->call.out[out]); i++) {
        bool wanted, written;
        double w = value_at(want->out[out], wd->call.out[out].dtype, i, &wanted);
        double g = value_at(got->out[out], gd->call.out[out].dtype, i, &written);
        if (!wanted && !written) continue;
        double error = wanted && written ? fabs(g - w) / scale : INFINITY;
        if (!(error <= DBL_MAX) || is_whole(wd->call.out[out].dtype)) error = g == w ? 0 : INFINITY;
        if (error <= worst) continue;
        worst = error;
        snprintf(detail, 160, "output %d [%lld] is %.9g%s, expected %.9g%s", out, (long long)i, g,
                 written ? "" : " (not written)", w, wanted ? "" : " (not written)");
    }
    return worst;
}

kr_check_difference kr_check_compare(const kr_check_data *wd, const kr_check_result *want,
                                     const kr_check_data *gd, const kr_check_result *got,
                                     double tolerance, char detail[160]) {
    kr_check_difference worst = {0, tolerance};
    for (int i = 0; i < wd->k.n_out; i++) {
        char found[160] = "";
        if (!wd->present[i] || !gd->present[i]) continue;
        bool rounded = wd->k.out_rounded >> i & 1 ||
                       (gd->call.out[i].dtype == KR_BF16 && wd->call.out[i].dtype != KR_BF16);
        double limit = rounded ? fmax(tolerance, 1.0 / 128) : tolerance;
        double error = compare_output(wd, want, gd, got, i, found);
        if (error / limit <= worst.error / worst.tolerance) continue;
        worst = (kr_check_difference){error, limit};
        memcpy(detail, found, sizeof found);
    }
    return worst;
}

bool kr_check_same_bytes(const kr_check_data *d, const kr_check_result *a, const kr_check_result *b,
                         char detail[160]) {
    for (int i = 0; i < d->k.n_out; i++) {
        if (!d->present[i]) continue;
        if (memcmp(a->out[i], b->out[i], kr_tensor_bytes(&d->call.out[i])) == 0) continue;
        snprintf(detail, 160, "output %d is not the same again, to the byte", i);
        return false;
    }
    return true;
}
