/* check_kernel.c - every kernel of an op, on every case, in several layouts, against the reference;
 * and the reference, which is compiled twice, against itself in double. */
#include "check/check.h"

#include <stdio.h>

#include "base/err.h"

enum { MOST_THREADS, ONE_THREAD };

static const struct variant {
    const char *what;
    kr_check_layout layout; /* threads: one of the above */
} variants[] = {
    {"plain", {.threads = MOST_THREADS}},
    {"one thread, same bytes", {.threads = ONE_THREAD}},
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

static int make_expectation(expectation *x, const kr_check_data *d, kr_kernel *reference,
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

/* One row: runs the kernel in variant v and says how far it is off. `plain` keeps the result of the
 * plain variant. */
static int check_variant(kr_check_state *s, const kr_check_data *d, const expectation *x,
                         kr_level level, int v, kr_check_result *plain, krait_error *e) {
    kr_check_layout layout = variants[v].layout;
    layout.threads = layout.threads == ONE_THREAD ? 1 : s->threads;
    kr_check_result mine, *r = v == PLAIN ? plain : &mine;
    KR_TRY(kr_check_run(d, kr_op_kernel(d->op, level), &layout, r, e));
    if (s->options->corrupt && strcmp(s->options->corrupt, d->op->name) == 0)
        kr_check_corrupt(d, r);
    char detail[160] = "", what[80];
    krait_check_row row = {.op = d->op->name, .kase = d->k.name, .level = kr_level_name(level)};
    row.tolerance = d->k.tolerance > 0 ? d->k.tolerance : 2e-6;
    row.error = kr_check_compare(x->data, v == ADDED ? &x->added : &x->plain, d, r, detail);
    row.passed = row.error <= row.tolerance;
    if (row.passed && v == SAME_BYTES) row.passed = kr_check_same_bytes(d, plain, r, detail);
    if (r->fault[0]) row.passed = 0;
    row.detail = r->fault[0] ? r->fault : detail;
    snprintf(what, sizeof what, "%s, against %s", variants[v].what,
             level == KR_LEVEL_REF ? "itself in double" : "the reference");
    row.what = what;
    kr_check_row(s, row);
    if (v != PLAIN) kr_check_result_free(r);
    return 0;
}

static int check_level(kr_check_state *s, const kr_check_data *d, const expectation *x,
                       kr_level level, krait_error *e) {
    kr_check_result plain = {0};
    int rc = 0;
    for (int v = 0; v < VARIANTS && rc == 0; v++)
        if (applies(d, v)) rc = check_variant(s, d, x, level, v, &plain, e);
    kr_check_result_free(&plain);
    return rc;
}

static int check_levels(kr_check_state *s, const kr_check_data *d, const kr_check_data *d64,
                        krait_error *e) {
    expectation x64, x = {0};
    const kr_op *op = d->op;
    int rc = make_expectation(&x64, d64, op->kernel[KR_LEVEL_REF64], e);
    if (rc == 0) rc = check_level(s, d, &x64, KR_LEVEL_REF, e);
    if (rc == 0) rc = make_expectation(&x, d, op->kernel[KR_LEVEL_REF], e);
    for (int level = KR_LEVEL_V1; level < KR_LEVEL_COUNT && rc == 0; level++)
        if (op->kernel[level] && kr_level_supported((kr_level)level))
            rc = check_level(s, d, &x, (kr_level)level, e);
    free_expectation(&x64);
    free_expectation(&x);
    return rc;
}

static int check_case(kr_check_state *s, const kr_op *op, const kr_case *k, krait_error *e) {
    kr_check_data d, d64 = {0};
    int rc = kr_check_data_make(&d, op, k, KR_F32, e);
    if (rc == 0) rc = kr_check_data_make(&d64, op, k, KR_F64, e);
    if (rc == 0) rc = check_levels(s, &d, &d64, e);
    kr_check_data_free(&d);
    kr_check_data_free(&d64);
    return rc;
}

int kr_check_kernels(kr_check_state *s, const kr_op *op, krait_error *e) {
    kr_case k;
    for (int i = 0; memset(&k, 0, sizeof k), op->cases && op->cases(i, &k); i++)
        if (!k.large || s->options->large) KR_TRY(check_case(s, op, &k, e));
    for (int level = KR_LEVEL_V1; level < KR_LEVEL_COUNT; level++)
        if (op->kernel[level] && !kr_level_supported((kr_level)level))
            kr_check_row(s, (krait_check_row){.op = op->name,
                                              .kase = "all",
                                              .level = kr_level_name((kr_level)level),
                                              .what = "this machine lacks the level",
                                              .skipped = 1});
    return 0;
}
