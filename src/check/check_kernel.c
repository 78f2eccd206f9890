/* check_kernel.c - every kernel of an op, on every case, in several layouts, against the reference;
 * and the reference, which is compiled twice, against itself in double. On the GPU each case also
 * with bf16 activations, where the op has that form. */
#include "check/check.h"

#include <math.h>
#include <stdio.h>

#include "base/err.h"

enum { MOST_THREADS, ONE_THREAD };

static const struct variant {
    const char *what;
    kr_check_layout layout; /* threads: one of the above */
} variants[] = {
    {"plain", {.threads = MOST_THREADS}},
    {"one thread, same bytes", {.recorded = true, .threads = ONE_THREAD}},
    {"misaligned, strided", {.offset = 1, .gap = 3, .threads = MOST_THREADS}},
    {"added to", {.offset = 1, .gap = 5, .accumulate = true, .threads = MOST_THREADS}},
    {"in place", {.inplace = true, .threads = MOST_THREADS}},
};
enum { PLAIN, SAME_BYTES, STRIDED, ADDED, INPLACE, VARIANTS };

/* What a level is held against. */
typedef struct expectation {
    const kr_check_data *data;
    kr_check_result plain, added;
} expectation;

static bool any_accumulates(const kr_check_data *d) {
    for (int i = 0; i < d->k.n_out; i++)
        if (d->present[i] && !(d->op->no_accumulate >> i & 1)) return true;
    return false;
}

static bool any_inplace(const kr_check_data *d) {
    for (int i = 0; i < d->k.n_out && i < d->k.n_in; i++)
        if (d->present[i] && d->in[i] && (d->op->inplace >> i & 1)) return true;
    return false;
}

static bool applies(const kr_check_data *d, int v) {
    if (d->k.large) return v == PLAIN;
    return v == ADDED ? any_accumulates(d) : v == INPLACE ? any_inplace(d) : true;
}

static int make_expectation(expectation *x, const kr_check_data *d, kr_level reference,
                            krait_error *e) {
    kr_check_layout plain = {.threads = 1}, added = {.accumulate = true, .threads = 1};
    *x = (expectation){.data = d};
    KR_TRY(kr_check_run(d, reference, &plain, &x->plain, e));
    if (d->k.large || !any_accumulates(d)) return 0;
    return kr_check_run(d, reference, &added, &x->added, e);
}

static void free_expectation(expectation *x) {
    kr_check_result_free(&x->plain);
    kr_check_result_free(&x->added);
}

/* The kernel has bf16 activations; the reference had the same numbers as f32. */
static bool is_half(const expectation *x, const kr_check_data *d, kr_level level) {
    return level == KR_LEVEL_CUDA && x->data != d;
}

static void describe(char what[80], const expectation *x, const kr_check_data *d, kr_level level,
                     int v) {
    bool again = level == KR_LEVEL_CUDA && v == SAME_BYTES;
    snprintf(what, 80, "%s%s, against %s", is_half(x, d, level) ? "bf16, " : "",
             again ? "recorded, same bytes" : variants[v].what,
             level == KR_LEVEL_REF ? "itself in double" : "the reference");
}

/* Of outputs that are f32. Kernels with bf16 activations compute in f32, so the same holds for
 * them as for f32 ones, unless the case says that something is rounded on the way. */
static double tolerance_of(const expectation *x, const kr_check_data *d, kr_level level) {
    double tolerance = d->k.tolerance > 0 ? d->k.tolerance : 2e-6;
    return is_half(x, d, level) ? fmax(tolerance, d->k.half.tolerance) : tolerance;
}

/* Compares and reports what variant v gave. */
static void judge(kr_check_state *s, krait_check_row row, const expectation *x,
                  const kr_check_data *d, int v, const kr_check_result *plain,
                  const kr_check_result *r) {
    char detail[160] = "";
    if (r->stopped) {
        row.error = INFINITY;
    } else {
        kr_check_difference found = kr_check_compare(x->data, v == ADDED ? &x->added : &x->plain, d,
                                                     r, row.tolerance, detail);
        row.error = found.error;
        row.tolerance = found.tolerance;
        row.passed = row.error <= row.tolerance;
        if (row.passed && v == SAME_BYTES) row.passed = kr_check_same_bytes(d, plain, r, detail);
    }
    if (r->fault[0]) row.passed = 0;
    row.detail = r->fault[0] ? r->fault : detail;
    kr_check_row(s, row);
}

/* One row: runs the kernel in variant v and says how far it is off. `plain` keeps the result of the
 * plain variant. */
static int check_variant(kr_check_state *s, const kr_check_data *d, const expectation *x,
                         kr_level level, int v, kr_check_result *plain, krait_error *e) {
    kr_check_layout layout = variants[v].layout;
    layout.threads = layout.threads == ONE_THREAD ? 1 : s->threads;
    kr_check_result mine, *r = v == PLAIN ? plain : &mine;
    KR_TRY(kr_check_run(d, level, &layout, r, e));
    if (s->options->corrupt && strcmp(s->options->corrupt, d->op->name) == 0 && !r->stopped)
        kr_check_corrupt(d, r);
    char what[80];
    krait_check_row row = {.op = d->op->name, .kase = d->k.name, .level = kr_level_name(level)};
    describe(what, x, d, level, v);
    row.what = what;
    row.tolerance = tolerance_of(x, d, level);
    judge(s, row, x, d, v, plain, r);
    if (r->stopped && kr_device_wait(level, e) < 0) s->stopped = d->op->name;
    if (v != PLAIN) kr_check_result_free(r);
    return 0;
}

static int check_level(kr_check_state *s, const kr_check_data *d, const expectation *x,
                       kr_level level, krait_error *e) {
    kr_check_result plain = {0};
    int rc = 0;
    for (int v = 0; v < VARIANTS && rc == 0 && !s->stopped; v++) {
        if (v == SAME_BYTES && plain.stopped) continue;
        if (applies(d, v)) rc = check_variant(s, d, x, level, v, &plain, e);
    }
    kr_check_result_free(&plain);
    return rc;
}

static int check_levels(kr_check_state *s, const kr_check_data *d, const kr_check_data *d64,
                        krait_error *e) {
    expectation x64, x = {0};
    const kr_op *op = d->op;
    int rc = make_expectation(&x64, d64, KR_LEVEL_REF64, e);
    if (rc == 0) rc = check_level(s, d, &x64, KR_LEVEL_REF, e);
    if (rc == 0) rc = make_expectation(&x, d, KR_LEVEL_REF, e);
    for (int level = KR_LEVEL_V1; level < KR_LEVEL_COUNT && rc == 0; level++)
        if (op->kernel[level] && kr_level_supported((kr_level)level))
            rc = check_level(s, d, &x, (kr_level)level, e);
    free_expectation(&x64);
    free_expectation(&x);
    return rc;
}

static int check_case(kr_check_state *s, const kr_op *op, const kr_case *k, krait_error *e) {
    kr_check_data d, d64 = {0};
    int rc = kr_check_data_make(&d, op, k, KR_CHECK_PLAIN, e);
    if (rc == 0) rc = kr_check_data_make(&d64, op, k, KR_CHECK_DOUBLE, e);
    if (rc == 0) rc = check_levels(s, &d, &d64, e);
    kr_check_data_free(&d);
    kr_check_data_free(&d64);
    return rc;
}

static void skip(kr_check_state *s, const kr_op *op, const char *kase, kr_level level,
                 const char *why, const char *detail) {
    kr_check_row(s, (krait_check_row){.op = op->name,
                                      .kase = kase,
                                      .level = kr_level_name(level),
                                      .what = why,
                                      .skipped = 1,
                                      .detail = detail});
}

static int check_cpu(kr_check_state *s, const kr_op *op, krait_error *e) {
    kr_case k;
    for (int i = 0; memset(&k, 0, sizeof k), op->cases && op->cases(i, &k); i++)
        if ((!k.large || s->options->large) && kr_check_mine(s)) KR_TRY(check_case(s, op, &k, e));
    for (int level = KR_LEVEL_V1; level < KR_LEVEL_COUNT; level++)
        if (op->kernel[level] && !kr_level_supported((kr_level)level) && kr_check_mine(s))
            skip(s, op, "all", (kr_level)level, "this machine lacks the level", NULL);
    return 0;
}

/* ---- on the GPU ---- */

/* The kernel on one case, all f32 or with bf16 activations. */
static int check_form(kr_check_state *s, const kr_op *op, const kr_case *k, bool half,
                      krait_error *e) {
    kr_check_data d, d16 = {0};
    expectation x = {0};
    int rc = kr_check_data_make(&d, op, k, half ? KR_CHECK_ROUNDED : KR_CHECK_PLAIN, e);
    if (rc == 0 && half) rc = kr_check_data_make(&d16, op, k, KR_CHECK_HALF, e);
    if (rc == 0) rc = make_expectation(&x, &d, KR_LEVEL_REF, e);
    if (rc == 0) rc = check_level(s, half ? &d16 : &d, &x, KR_LEVEL_CUDA, e);
    free_expectation(&x);
    kr_check_data_free(&d);
    kr_check_data_free(&d16);
    if (rc != KRAIT_ERR_MEMORY || !k->large) return rc;
    skip(s, op, k->name, KR_LEVEL_CUDA, "the GPU's memory is too small", e->message);
    return 0;
}

static int check_gpu_case(kr_check_state *s, const kr_op *op, const kr_case *k, krait_error *e) {
    krait_error why = {0};
    kr_call c = {.n_in = k->n_in, .n_out = k->n_out, .attr = k->attr};
    memcpy(c.in, k->in, sizeof c.in);
    for (int i = 0; i < k->n_in; i++) /* what is there is not NULL */
        if (k->fill[i].kind != KR_FILL_ABSENT) c.in[i].data = &c;
    if (op->check_cuda && op->check_cuda(&c, &why) < 0) {
        skip(s, op, k->name, KR_LEVEL_CUDA, "refused on the GPU", why.message);
        return 0;
    }
    KR_TRY(check_form(s, op, k, false, e));
    return op->half_in && !k->half.none ? check_form(s, op, k, true, e) : 0;
}

static int check_gpu(kr_check_state *s, const kr_op *op, krait_error *e) {
    char why[80];
    kr_case k;
    if (!op->kernel[KR_LEVEL_CUDA]) {
        if (!kr_check_mine(s)) return 0;
        skip(s, op, "all", KR_LEVEL_CUDA, "the op has no kernel at this level", NULL);
        return 0;
    }
    for (int i = 0; memset(&k, 0, sizeof k), !s->stopped && op->cases && op->cases(i, &k); i++)
        if ((!k.large || s->options->large) && kr_check_mine(s))
            KR_TRY(check_gpu_case(s, op, &k, e));
    if (!s->stopped) return 0;
    snprintf(why, sizeof why, "%s left the GPU unusable", s->stopped);
    skip(s, op, "the rest", KR_LEVEL_CUDA, why, NULL);
    return 0;
}

int kr_check_kernels(kr_check_state *s, const kr_op *op, krait_error *e) {
    return s->level == KR_LEVEL_CUDA ? check_gpu(s, op, e) : check_cpu(s, op, e);
}
