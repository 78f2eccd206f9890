/* sample.c - rules of drawing tokens; sample.h has the contract. */
#include "ops/sample/sample.h"

#include "base/err.h"
#include "ops/case.h"

static int need_type(const kr_tensor *t, const char *arg, kr_dtype type, krait_error *e) {
    if (t->dtype == type || (type == KR_F32 && t->dtype == KR_F64)) return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE, "sample: %s must be %s, is %s", arg, kr_dtype_name(type),
                   kr_dtype_name(t->dtype));
}

static int shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    static const struct {
        const char *name;
        kr_dtype type;
        int rank;
    } want[KR_SAMPLE_INPUTS] = {{"logits", KR_F32, 2},      {"lanes", KR_I64, 1},
                                {"temperature", KR_F32, 1}, {"top_k", KR_I64, 1},
                                {"top_p", KR_F32, 1},       {"min_p", KR_F32, 1},
                                {"penalty", KR_F32, 1},     {"seen", KR_U8, 2},
                                {"random", KR_I64, 2}};
    const kr_tensor *in = c->in;
    int64_t L = in[KR_SAMPLE_TEMPERATURE].shape[0];
    for (int i = 0; i < KR_SAMPLE_INPUTS; i++) {
        if (i == KR_SAMPLE_SEEN && !in[i].data) continue;
        KR_TRY(kr_need_rank("sample", want[i].name, &in[i], want[i].rank, e));
        KR_TRY(need_type(&in[i], want[i].name, want[i].type, e));
        if (i > KR_SAMPLE_TEMPERATURE) KR_TRY(kr_need_dim("sample", want[i].name, &in[i], 0, L, e));
    }
    if (in[0].shape[1] < 1 || in[0].shape[1] > INT32_MAX)
        return kr_fail(e, KRAIT_ERR_SHAPE, "sample: a vocabulary of %lld tokens is impossible",
                       (long long)in[0].shape[1]);
    KR_TRY(kr_need_dim("sample", "lanes", &in[KR_SAMPLE_LANES], 0, in[0].shape[0], e));
    KR_TRY(kr_need_dim("sample", "random", &in[KR_SAMPLE_RANDOM], 1, 2, e));
    if (in[KR_SAMPLE_SEEN].data)
        KR_TRY(kr_need_dim("sample", "seen", &in[KR_SAMPLE_SEEN], 1, in[0].shape[1], e));
    out[0] = kr_tensor_make(NULL, KR_I32, 1, in[0].shape);
    out[0].dim0 = in[0].dim0;
    return 0;
}

/* The reference sorts a row: an (id, logit) pair for each token. */
static size_t scratch(const kr_call *c) { return (size_t)c->in[0].shape[1] * 16; }

static size_t scratch_cuda(const kr_call *c) {
    return (size_t)c->in[0].shape[0] * KR_SAMPLE_PIECES * sizeof(uint64_t);
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    *flops = (double)kr_tensor_count(&c->in[0]);
    *bytes = (double)kr_tensor_bytes(&c->in[0]);
}

/* R V, then the ranges of T, k, p, min p, penalty */
static const struct {
    const char *name;
    int64_t R, V;
    double temperature[2], k, p[2], min_p[2], penalty[2];
} rows[] = {
    {"V=1", 3, 1, {0.5, 1}, 3, {0.5, 1}, {0, 0.1}, {1, 1.5}},
    {"greedy", 5, 1000, {0, 0}, 3, {0.5, 1}, {0, 0.1}, {1, 1}},
    {"greedy, penalty", 5, 50280, {0, 0}, 3, {0.5, 1}, {0, 0.1}, {1, 2}},
    {"temperature", 17, 100, {0.3, 1.5}, 1, {1, 1}, {0, 0}, {1, 1}},
    {"temperature, flat", 7, 5000, {2, 9}, 1, {1, 1}, {0, 0}, {1, 1}},
    {"top k", 17, 1000, {0.3, 1.5}, 60, {1, 1}, {0, 0}, {1, 1}},
    {"top k, of many", 5, 20000, {1, 4}, 20000, {1, 1}, {0, 0}, {1, 1.5}},
    {"top p", 9, 5003, {0.5, 1.5}, 1, {0.3, 1}, {0, 0}, {1, 1}},
    {"top p, flat", 5, 5003, {3, 9}, 1, {0.3, 1}, {0, 0}, {1, 1}},
    {"min p", 9, 5003, {0.5, 2}, 1, {1, 1}, {0, 0.2}, {1, 1}},
    {"all", 33, 2048, {0.3, 2}, 400, {0.5, 1}, {0, 0.05}, {1, 1.5}},
    {"V=262144", 3, 262144, {0.5, 1}, 50, {0.8, 1}, {0, 0.01}, {1, 1.2}},
};

static bool cases(int index, kr_case *k) {
    if (index >= (int)(sizeof rows / sizeof *rows)) return false;
    int64_t R = rows[index].R, L = R + 2, V = rows[index].V;
    const double *t = rows[index].temperature, *p = rows[index].p, *m = rows[index].min_p;
    const double *r = rows[index].penalty;
    k->name = rows[index].name;
    k->n_out = KR_SAMPLE_OUTPUTS;
    k->out_absent[KR_SAMPLE_SEEN_OUT] = k->out_absent[KR_SAMPLE_RANDOM_OUT] = true;
    kr_case_in(k, KR_SAMPLE_LOGITS, KR_F32, 2, (int64_t[]){R, V}, KR_FILL_NORMAL, 3, 0);
    kr_case_in(k, KR_SAMPLE_LANES, KR_I64, 1, &R, KR_FILL_INDEX, (double)L, 0.1);
    kr_case_in(k, KR_SAMPLE_TEMPERATURE, KR_F32, 1, &L, KR_FILL_UNIFORM, t[0], t[1]);
    kr_case_in(k, KR_SAMPLE_TOP_K, KR_I64, 1, &L, KR_FILL_INDEX, rows[index].k, 0.1);
    kr_case_in(k, KR_SAMPLE_TOP_P, KR_F32, 1, &L, KR_FILL_UNIFORM, p[0], p[1]);
    kr_case_in(k, KR_SAMPLE_MIN_P, KR_F32, 1, &L, KR_FILL_UNIFORM, m[0], m[1]);
    kr_case_in(k, KR_SAMPLE_PENALTY, KR_F32, 1, &L, KR_FILL_UNIFORM, r[0], r[1]);
    kr_case_in(k, KR_SAMPLE_SEEN, KR_U8, 2, (int64_t[]){L, V}, KR_FILL_RESET, 0.3, 0);
    kr_case_in(k, KR_SAMPLE_RANDOM, KR_I64, 2, (int64_t[]){L, 2}, KR_FILL_INDEX, 1e9, 0);
    if (r[1] == 1) kr_case_without(k, KR_SAMPLE_SEEN);
    return true;
}

KR_DECLARE_REF_KERNEL(kr_sample);

const kr_op kr_op_sample = {
    .name = "sample",
    .shape = shape,
    .scratch = scratch,
    .scratch_cuda = scratch_cuda,
    .cost = cost,
    .cases = cases,
    .n_in = KR_SAMPLE_INPUTS,
    .n_out = KR_SAMPLE_OUTPUTS,
    .no_accumulate = 7,
    .kernel = KR_REF_KERNELS_GPU(kr_sample),
};
