/* check_fill.c - draws the inputs of a checker's case, by op.h's fill kinds. */
#include "check/check.h"

#include <math.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"

static bool is_float(kr_dtype t) {
    return t == KR_F32 || t == KR_F64 || t == KR_BF16 || t == KR_F16;
}

static void fill_floats(void *to, const kr_tensor *t, kr_fill kind, double a, double b, bool half,
                        kr_rng *r) {
    size_t size = kr_dtype_size(t->dtype);
    for (int64_t i = 0; i < kr_tensor_count(t); i++) {
        double v =
            kind == KR_FILL_NORMAL ? a * kr_rng_normal(r) + b : a + (b - a) * kr_rng_uniform(r);
        float rounded = (float)v; /* every real type of a case holds a float's values */
        if (half) rounded = kr_bf16_to_f32(kr_f32_to_bf16(rounded));
        kr_convert((char *)to + (size_t)i * size, t->dtype, &rounded, KR_F32, 1);
    }
}

static void put_integer(void *to, kr_dtype type, int64_t i, int64_t value) {
    if (type == KR_I64) ((int64_t *)to)[i] = value;
    if (type == KR_I32) ((int32_t *)to)[i] = (int32_t)value;
    if (type == KR_U8) ((uint8_t *)to)[i] = (uint8_t)value;
}

/* Cuts [0, tokens) at S-1 random places so that no part is empty where that is possible. */
static void fill_sequences(int64_t *seqs, int64_t S, int64_t tokens, kr_rng *r) {
    int64_t first = 0;
    for (int64_t s = 0; s < S; s++) {
        int64_t rest = tokens - first, after = S - 1 - s;
        int64_t most = rest - after > 0 ? rest - after : rest > 0;
        int64_t count = most > 0 ? 1 + (int64_t)kr_rng_below(r, (uint64_t)most) : 0;
        if (s == S - 1) count = rest;
        seqs[3 * s] = first;
        seqs[3 * s + 1] = count;
        seqs[3 * s + 2] = s;
        first += count;
    }
    for (int64_t s = S - 1; s > 0; s--) { /* shuffle the slots */
        int64_t other = (int64_t)kr_rng_below(r, (uint64_t)s + 1), slot = seqs[3 * s + 2];
        seqs[3 * s + 2] = seqs[3 * other + 2];
        seqs[3 * other + 2] = slot;
    }
}

static void fill_integers(void *to, const kr_tensor *t, kr_fill kind, double a, double b,
                          kr_rng *r) {
    for (int64_t i = 0; i < kr_tensor_count(t); i++) {
        bool chosen = kr_rng_uniform(r) < (kind == KR_FILL_RESET ? a : b);
        int64_t index = kind == KR_FILL_RESET ? 1 : -1;
        if (!chosen) index = kind == KR_FILL_RESET ? 0 : (int64_t)kr_rng_below(r, (uint64_t)a);
        put_integer(to, t->dtype, i, index);
    }
}

/* Input i of the case, packed, in the type of t. */
static void fill_input(void *to, const kr_tensor *t, const kr_case *k, int i, bool half,
                       kr_rng *r) {
    double a = k->fill[i].a, b = k->fill[i].b;
    if (k->fill[i].kind == KR_FILL_SEQS)
        fill_sequences(to, t->shape[0], k->tokens, r);
    else if (is_float(t->dtype))
        fill_floats(to, t, k->fill[i].kind, a, b, half, r);
    else
        fill_integers(to, t, k->fill[i].kind, a, b, r);
}

static bool halves(kr_check_form form) { return form == KR_CHECK_HALF || form == KR_CHECK_ROUNDED; }

static int make_input(kr_check_data *d, int i, kr_check_form form, krait_error *e) {
    kr_tensor *t = &d->call.in[i];
    *t = d->k.in[i];
    bool half = halves(form) && (d->op->half_in & ~d->k.half.wide) >> i & 1 && t->dtype == KR_F32;
    if (half && form == KR_CHECK_HALF) t->dtype = KR_BF16;
    if (d->k.fill[i].kind == KR_FILL_ABSENT) return 0;
    kr_rng r = kr_rng_make(kr_hash_string(d->k.name), (uint64_t)i);
    int64_t n = kr_tensor_count(t);
    d->in[i] = kr_aligned((size_t)n * sizeof(double));
    if (!d->in[i]) return kr_fail_memory(e, "the inputs of a checked kernel");
    bool rounded = half || (halves(form) && d->k.half.rounded >> i & 1);
    fill_input(d->in[i], t, &d->k, i, rounded, &r);
    if (form == KR_CHECK_DOUBLE && is_float(t->dtype)) {
        void *wide = kr_aligned((size_t)n * sizeof(double));
        if (!wide) return kr_fail_memory(e, "the inputs of a checked kernel");
        kr_convert(wide, KR_F64, d->in[i], t->dtype, n);
        kr_free(d->in[i]);
        d->in[i] = wide;
        t->dtype = KR_F64;
    }
    t->data = d->in[i];
    return 0;
}

/* Pulls the rows of a matrix so far apart that the last one starts past 2^31 elements. */
static void spread(kr_tensor *t) {
    if (t->rank == 2 && t->shape[0] > 1)
        t->stride[0] = ((int64_t)1 << 31) / (t->shape[0] - 1) + t->shape[1];
}

/* Output shapes: by the op's rule, or the case's own where the rule derives none. */
static int make_outputs(kr_check_data *d, kr_check_form form, krait_error *e) {
    kr_tensor derived[KR_MAX_OUT];
    memset(derived, 0, sizeof derived);
    for (int i = 0; i < d->k.n_out; i++) {
        d->call.out[i] = d->k.out[i];
        if (form == KR_CHECK_DOUBLE && d->k.out[i].rank > 0 && is_float(d->k.out[i].dtype))
            d->call.out[i].dtype = KR_F64;
        if (form == KR_CHECK_HALF && d->k.half.out >> i & 1) d->call.out[i].dtype = KR_BF16;
        d->call.out[i].data = d->k.out_absent[i] ? NULL : d; /* only whether it is NULL counts */
    }
    KR_TRY(d->op->shape(&d->call, derived, e));
    for (int i = 0; i < d->k.n_out; i++) {
        if (derived[i].rank > 0) d->call.out[i] = derived[i];
        d->call.out[i].data = NULL;
        if (d->k.large) spread(&d->call.out[i]);
        d->present[i] = !d->k.out_absent[i] && d->call.out[i].rank > 0;
        if (!d->present[i]) continue;
        const kr_tensor *t = &d->call.out[i];
        kr_rng r = kr_rng_make(kr_hash_string(d->k.name), 1000 + (uint64_t)i);
        d->before[i] = kr_calloc((size_t)kr_tensor_count(t) + 1, sizeof(double));
        if (!d->before[i]) return kr_fail_memory(e, "the outputs of a checked kernel");
        if (is_float(t->dtype))
            fill_floats(d->before[i], t, KR_FILL_NORMAL, 1, 0, halves(form), &r);
    }
    return 0;
}

int kr_check_data_make(kr_check_data *d, const kr_op *op, const kr_case *k, kr_check_form form,
                       krait_error *e) {
    *d = (kr_check_data){.op = op, .k = *k};
    d->call.n_in = k->n_in;
    d->call.n_out = k->n_out;
    d->call.attr = form == KR_CHECK_HALF && k->half.attr ? k->half.attr : k->attr;
    d->call.threads = 1;
    for (int i = 0; i < k->n_in; i++) KR_TRY(make_input(d, i, form, e));
    int rc = make_outputs(d, form, e);
    if (rc < 0 && rc != KRAIT_ERR_MEMORY)
        return kr_fail_prefix(e, "case \"%s\" of op %s", k->name, op->name);
    return rc;
}

void kr_check_data_free(kr_check_data *d) {
    for (int i = 0; i < KR_MAX_IN; i++) kr_free(d->in[i]);
    for (int i = 0; i < KR_MAX_OUT; i++) kr_free(d->before[i]);
    *d = (kr_check_data){0};
}
