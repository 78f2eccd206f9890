/* mamba_reference_test.c - logits, loss and every gradient of the models in tests/data/mamba_*,
 * mamba2_* and mamba3_* against those that transformers, or the official formulas, computed
 * (tests/reference/make_mamba_fixtures.py, make_mamba2_fixtures.py and make_mamba3_fixtures.py),
 * and the same logits read one token at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "formats/weights.h"
#include "models/test_model.h"

#define TOLERANCE 1e-4 /* of the tensor's largest magnitude */

static krait_error error;
#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) < 0) fail_msg("%s", error.message);                                             \
    } while (0)

typedef struct fixture {
    krait_model *model;
    kr_weights expected;
    const int32_t *ids; /* [B,T] */
    int64_t B, T, V;
} fixture;

static const kr_tensor *expected(const fixture *f, const char *name) {
    const kr_tensor *t = kr_weights_find(&f->expected, name);
    if (!t) fail_msg("expected.safetensors has no %s", name);
    return t;
}

static void open_fixture(fixture *f, const char *name) {
    char path[500];
    krait_model_options options = KRAIT_MODEL_OPTIONS_INIT;
    options.without_tokenizer = 1;
    *f = (fixture){0};
    snprintf(path, sizeof path, KR_TEST_DATA "/%s", name);
    OK(krait_model_open(&f->model, path, &options, &error));
    snprintf(path, sizeof path, KR_TEST_DATA "/%s/expected.safetensors", name);
    OK(kr_safetensors_read(&f->expected, path, &error));
    kr_weights_sort(&f->expected);
    const kr_tensor *ids = expected(f, "ids");
    f->ids = ids->data;
    f->B = ids->shape[0];
    f->T = ids->shape[1];
    f->V = expected(f, "logits")->shape[2];
    assert_int_equal(f->V, f->model->config.vocabulary);
}

static void close_fixture(fixture *f) {
    krait_model_close(&f->model);
    kr_weights_free(&f->expected);
}

/* A graph over the whole batch, one sequence a row, that has run. */
typedef struct batch {
    kr_lm lm;
    int64_t *seqs;    /* [B,3] */
    int32_t *targets; /* [B*T] */
    float *seed;      /* [B*T]: of the mean next-token loss */
} batch;

static void bind(kr_lm *lm, kr_value *v, void *data, kr_dtype dtype, int rank,
                 const int64_t *shape) {
    kr_tensor t = kr_tensor_make(data, dtype, rank, shape);
    OK(kr_graph_bind(lm->g, v, &t, &error));
}

static void make_inputs(batch *b, const fixture *f) {
    int64_t n = f->B * (f->T - 1);
    b->seqs = kr_calloc((size_t)(3 * f->B), sizeof *b->seqs);
    b->targets = kr_calloc((size_t)(f->B * f->T), sizeof *b->targets);
    b->seed = kr_calloc((size_t)(f->B * f->T), sizeof *b->seed);
    for (int64_t i = 0; i < f->B; i++) {
        b->seqs[3 * i] = i * f->T;
        b->seqs[3 * i + 1] = f->T;
        b->seqs[3 * i + 2] = i;
    }
    for (int64_t m = 0; m < f->B * f->T; m++) {
        bool last = m % f->T == f->T - 1;
        b->targets[m] = last ? -1 : f->ids[m + 1];
        b->seed[m] = last ? 0 : (float)(1 / (double)n);
    }
}

static void run_batch(batch *b, fixture *f, bool training) {
    int64_t M = f->B * f->T;
    kr_lm_options o = {.tokens = M, .sequences = f->B, .loss = training};
    o.graph.training = training;
    OK(kr_device_level(&o.graph.level, &error));
    OK(kr_lm_build(&b->lm, &f->model->config, &o, &error));
    OK(kr_lm_bind_weights(&b->lm, &f->model->weights, &error));
    OK(kr_graph_plan(b->lm.g, &error));
    OK(kr_graph_allocate(b->lm.g, &error));
    make_inputs(b, f);
    bind(&b->lm, b->lm.ids, (void *)(uintptr_t)f->ids, KR_I32, 1, &M);
    bind(&b->lm, b->lm.seqs, b->seqs, KR_I64, 2, (int64_t[]){f->B, 3});
    if (training) {
        bind(&b->lm, b->lm.targets, b->targets, KR_I32, 1, &M);
        bind(&b->lm, b->lm.seed, b->seed, KR_F32, 1, &M);
        kr_graph_zero_gradients(b->lm.g);
    }
    OK(kr_graph_run(b->lm.g, M, 0, &error));
}

static void free_batch(batch *b) {
    kr_lm_free(&b->lm);
    kr_free(b->seqs);
    kr_free(b->targets);
    kr_free(b->seed);
    *b = (batch){0};
}

static double check_logits(fixture *f) {
    batch b = {0};
    run_batch(&b, f, false);
    const float *got = kr_value_tensor(b.lm.logits)->data;
    double worst = kr_test_difference(got, expected(f, "logits")->data, f->B * f->T * f->V);
    free_batch(&b);
    return worst;
}

static double loss_of(const batch *b, const fixture *f) {
    const float *nll = kr_value_tensor(b->lm.nll)->data;
    double sum = 0;
    for (int64_t m = 0; m < f->B * f->T; m++) sum += (double)nll[m] * (double)b->seed[m];
    return sum;
}

/* Every gradient of the file against the graph's; and none in one place only. */
static double check_gradients(const batch *b, const fixture *f) {
    double worst = 0;
    int64_t in_file = 0, count = kr_graph_param_count(b->lm.g);
    for (int64_t i = 0; i < f->expected.count; i++)
        in_file += strncmp(f->expected.items[i].name, "grad.", 5) == 0;
    assert_int_equal(in_file, count);
    for (int i = 0; i < count; i++) {
        const kr_param_decl *d;
        kr_value *p = kr_graph_param_at(b->lm.g, i, &d);
        char name[128];
        snprintf(name, sizeof name, "grad.%s", d->name);
        const kr_tensor *want = expected(f, name);
        const kr_tensor *got = kr_value_tensor(kr_graph_gradient(b->lm.g, p));
        assert_int_equal(kr_tensor_count(got), kr_tensor_count(want));
        double error_here = kr_test_difference(got->data, want->data, kr_tensor_count(want));
        if (!(error_here <= TOLERANCE)) print_message("  %s: %.2e\n", d->name, error_here);
        if (!(error_here <= worst)) worst = error_here;
    }
    return worst;
}

/* The logits of each row read token by token through a session. */
static double check_steps(const fixture *f) {
    krait_session *s;
    krait_session_options o = KRAIT_SESSION_OPTIONS_INIT;
    o.lanes = f->B;
    OK(krait_session_create(&s, f->model, &o, &error));
    const float *want = expected(f, "logits")->data;
    float *got = kr_calloc((size_t)(f->B * f->V), sizeof *got);
    krait_span *spans = kr_calloc((size_t)f->B, sizeof *spans);
    double worst = 0;
    for (int64_t t = 0; t < f->T; t++) {
        for (int64_t b = 0; b < f->B; b++)
            spans[b] = (krait_span){b, f->ids + b * f->T + t, 1, KRAIT_WANT_LAST};
        OK(krait_session_forward(s, spans, f->B, got, &error));
        for (int64_t b = 0; b < f->B; b++) {
            double d = kr_test_difference(got + b * f->V, want + (b * f->T + t) * f->V, f->V);
            if (!(d <= worst)) worst = d;
        }
    }
    kr_free(spans);
    kr_free(got);
    krait_session_close(&s);
    return worst;
}

static void check(void **state) {
    fixture f;
    batch b = {0};
    open_fixture(&f, *state);
    double logit_error = check_logits(&f);
    run_batch(&b, &f, true);
    double want = (double)*(const float *)expected(&f, "loss")->data;
    double loss_error = fabs(loss_of(&b, &f) - want) / want;
    double gradient_error = check_gradients(&b, &f), step_error = check_steps(&f);
    print_message("%-18s relative errors: logits %.1e, loss %.1e, gradients %.1e (%d tensors), "
                  "step by step %.1e\n",
                  (const char *)*state, logit_error, loss_error, gradient_error,
                  kr_graph_param_count(b.lm.g), step_error);
    assert_true(logit_error <= TOLERANCE);
    assert_true(loss_error <= TOLERANCE);
    assert_true(gradient_error <= TOLERANCE);
    assert_true(step_error <= TOLERANCE);
    free_batch(&b);
    close_fixture(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        {"odd sizes", check, NULL, NULL, (void *)(uintptr_t) "mamba_odd"},
        {"biases, untied head", check, NULL, NULL, (void *)(uintptr_t) "mamba_bias"},
        {"FalconMamba, in shards", check, NULL, NULL, (void *)(uintptr_t) "mamba_falcon"},
        {"Mamba-2, odd sizes", check, NULL, NULL, (void *)(uintptr_t) "mamba2_odd"},
        {"Mamba-2, groups, limits", check, NULL, NULL, (void *)(uintptr_t) "mamba2_bias"},
        {"Mamba-2, official", check, NULL, NULL, (void *)(uintptr_t) "mamba2_official"},
        {"Mamba-2, norm first", check, NULL, NULL, (void *)(uintptr_t) "mamba2_before"},
        {"Mamba-2, part of it", check, NULL, NULL, (void *)(uintptr_t) "mamba2_part"},
        {"state-spaces layout", check, NULL, NULL, (void *)(uintptr_t) "mamba_statespaces"},
        {"Mamba-3", check, NULL, NULL, (void *)(uintptr_t) "mamba3_siso"},
        {"Mamba-3, norm in front of the gate", check, NULL, NULL,
         (void *)(uintptr_t) "mamba3_siso_norm"},
        {"Mamba-3, MIMO", check, NULL, NULL, (void *)(uintptr_t) "mamba3_mimo"},
        {"Mamba-3, MIMO, groups, norm, MLP", check, NULL, NULL,
         (void *)(uintptr_t) "mamba3_mimo_norm"},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
