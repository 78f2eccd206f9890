/* sample_test.c - the op draws what the samplers of serve/ draw, on the CPU and on the GPU, over
 * many steps; equal logits, and rows that nothing can be drawn from. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <krait/krait.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "device/test_gpu.h"
#include "ops/sample/sample.h"

enum { L = 8, STEPS = 4, INPUTS = KR_SAMPLE_INPUTS };

/* The op's arrays at a level, filled from the host's. */
typedef struct bench {
    kr_level level;
    kr_call call;
    int64_t V;
    float *logits; /* [L,V] */
} bench;

static void put(bench *b, int i, kr_dtype type, int rank, int64_t width, const void *host) {
    krait_error e;
    int64_t shape[2] = {L, width};
    kr_tensor t = kr_tensor_make(NULL, type, rank, shape);
    if (!b->call.in[i].data) t.data = kr_device_alloc(b->level, kr_tensor_bytes(&t));
    if (b->call.in[i].data) t.data = b->call.in[i].data;
    assert_non_null(t.data);
    assert_int_equal(kr_device_put(b->level, t.data, host, kr_tensor_bytes(&t), &e), 0);
    b->call.in[i] = t;
}

static void make(bench *b, kr_level level, int64_t V, const krait_sampler_options *o) {
    float temperature[L], top_p[L], min_p[L], penalty[L];
    int64_t lanes[L], top_k[L], random[L][2];
    krait_error e;
    *b = (bench){.level = level, .V = V};
    for (int i = 0; i < L; i++) {
        lanes[i] = L - 1 - i;
        temperature[i] = (float)o->temperature;
        top_p[i] = (float)o->top_p;
        min_p[i] = (float)o->min_p;
        penalty[i] = (float)o->repeat_penalty;
        top_k[i] = o->top_k;
        random[i][0] = (int64_t)o->seed + i;
        random[i][1] = 0;
    }
    uint8_t *seen = calloc((size_t)(L * V), 1);
    int32_t ids[L];
    b->logits = calloc((size_t)(L * V), sizeof(float));
    put(b, KR_SAMPLE_LOGITS, KR_F32, 2, V, b->logits);
    put(b, KR_SAMPLE_LANES, KR_I64, 1, 0, lanes);
    put(b, KR_SAMPLE_TEMPERATURE, KR_F32, 1, 0, temperature);
    put(b, KR_SAMPLE_TOP_K, KR_I64, 1, 0, top_k);
    put(b, KR_SAMPLE_TOP_P, KR_F32, 1, 0, top_p);
    put(b, KR_SAMPLE_MIN_P, KR_F32, 1, 0, min_p);
    put(b, KR_SAMPLE_PENALTY, KR_F32, 1, 0, penalty);
    put(b, KR_SAMPLE_SEEN, KR_U8, 2, V, seen);
    put(b, KR_SAMPLE_RANDOM, KR_I64, 2, 2, random);
    free(seen);
    b->call.n_in = INPUTS;
    b->call.n_out = KR_SAMPLE_OUTPUTS;
    b->call.threads = 1;
    kr_tensor out[KR_SAMPLE_OUTPUTS] = {0};
    assert_int_equal(kr_op_sample.shape(&b->call, out, &e), 0);
    b->call.out[0] = out[0];
    b->call.out[0].data = kr_device_alloc(level, sizeof ids);
    b->call.out[KR_SAMPLE_SEEN_OUT] = b->call.in[KR_SAMPLE_SEEN];
    b->call.out[KR_SAMPLE_RANDOM_OUT] = b->call.in[KR_SAMPLE_RANDOM];
    b->call.scratch = kr_device_alloc(level, kr_op_scratch(&kr_op_sample, level, &b->call));
    assert_non_null(b->call.scratch);
}

static void drop(bench *b) {
    for (int i = 0; i < INPUTS; i++) kr_device_free(b->level, b->call.in[i].data);
    kr_device_free(b->level, b->call.out[0].data);
    free(b->logits);
    kr_device_free(b->level, b->call.scratch);
}

/* Draws for all rows from b->logits. */
static void draw(bench *b, int32_t ids[L]) {
    krait_error e;
    put(b, KR_SAMPLE_LOGITS, KR_F32, 2, b->V, b->logits);
    kr_op_kernel(&kr_op_sample, b->level)(&b->call);
    assert_int_equal(kr_device_check(b->level, "sample", &e), 0);
    assert_int_equal(kr_device_get(b->level, ids, b->call.out[0].data, L * sizeof *ids, &e), 0);
}

static const struct {
    double temperature;
    int64_t top_k;
    double top_p, min_p, penalty;
    uint64_t seed;
} settings[] = {
    {0, 40, 0.95, 0, 1, 1},      {0, 40, 0.95, 0, 1.5, 2},  {0.75, 40, 0.9375, 0, 1, 3},
    {0.75, 40, 0.9375, 0, 2, 4}, {1, 0, 1, 0, 1, 5},        {1, 0, 0.5, 0, 1, 6},
    {1, 0, 1, 0.0625, 1, 7},     {2, 0, 1, 0, 1.25, 8},     {8, 0, 0.9375, 0, 1, 9},
    {4, 3000, 0.875, 0, 1, 10},  {1, 1, 0.9, 0.1, 1, 11},   {1, 5, 1, 0, 1, 12},
    {4, 0, 1, 0.03125, 1, 13},   {1.5, 700, 1, 0, 1.5, 14}, {0.125, 0, 0.96875, 0, 1, 15},
};
enum { SETTINGS = sizeof settings / sizeof *settings };
static const int64_t vocabularies[] = {1, 100, 1000, 5003, 20000};

/* Numbers of one set of options and one vocabulary that the op drew otherwise. */
static int compare(kr_level level, int64_t V, const krait_sampler_options *o) {
    krait_sampler *s[L];
    krait_error e;
    bench b;
    int wrong = 0;
    kr_rng r = kr_rng_make(o->seed, (uint64_t)V);
    make(&b, level, V, o);
    for (int i = 0; i < L; i++) {
        krait_sampler_options mine = *o;
        mine.seed += (uint64_t)i;
        assert_int_equal(krait_sampler_create(&s[i], V, &mine, &e), 0);
    }
    for (int step = 0; step < STEPS; step++) {
        int32_t ids[L];
        for (int64_t i = 0; i < L * V; i++) b.logits[i] = (float)(3 * kr_rng_normal(&r));
        draw(&b, ids);
        for (int i = 0; i < L; i++) {
            int32_t want = krait_sampler_draw(s[L - 1 - i], b.logits + i * V, &e);
            wrong += ids[i] != want;
        }
    }
    for (int i = 0; i < L; i++) krait_sampler_close(&s[i]);
    drop(&b);
    return wrong;
}

static void as_the_samplers_do(kr_level level) {
    int wrong = 0, drawn = 0;
    for (int k = 0; k < SETTINGS; k++) {
        krait_sampler_options o = KRAIT_SAMPLER_OPTIONS_INIT;
        o.temperature = settings[k].temperature;
        o.top_k = settings[k].top_k;
        o.top_p = settings[k].top_p;
        o.min_p = settings[k].min_p;
        o.repeat_penalty = settings[k].penalty;
        o.seed = settings[k].seed;
        for (size_t v = 0; v < sizeof vocabularies / sizeof *vocabularies; v++) {
            int here = compare(level, vocabularies[v], &o);
            if (here)
                print_message("settings %d, V=%lld: %d of %d differ\n", k,
                              (long long)vocabularies[v], here, L * STEPS);
            wrong += here;
            drawn += L * STEPS;
        }
    }
    print_message("%s: %d of %d drawn tokens differ from the samplers'\n", kr_level_name(level),
                  wrong, drawn);
    assert_int_equal(wrong, 0);
}

static void odd_rows(kr_level level) {
    enum { V = 3000 };
    int32_t ids[L], want[L] = {7, -1, -1, -1, 2999, 0, 41, 7};
    krait_sampler_options o = KRAIT_SAMPLER_OPTIONS_INIT;
    bench b;
    o.temperature = 0;
    make(&b, level, V, &o);
    for (int64_t i = 0; i < V; i++) {
        b.logits[0 * V + i] = i % 100 == 7 ? 5.0f : 1.0f; /* the lowest of equal ones */
        b.logits[1 * V + i] = i == 2999 ? NAN : (float)i;
        b.logits[2 * V + i] = i == 1 ? INFINITY : 0;
        b.logits[3 * V + i] = -INFINITY;
        b.logits[4 * V + i] = i == 2999 ? -3.0f : -INFINITY;
        b.logits[5 * V + i] = i % 2 ? 0.0f : -0.0f;
        b.logits[6 * V + i] = i < 41 ? -2.0f : -1.0f;
        b.logits[7 * V + i] = i % 100 == 7 ? -5.0f : -1e30f;
    }
    draw(&b, ids);
    for (int i = 0; i < L; i++) assert_int_equal(ids[i], want[i]);
    drop(&b);
    o.temperature = 1;
    o.top_k = 0;
    make(&b, level, V, &o); /* all equal, and two of many: sampled, not only the largest */
    for (int64_t i = 0; i < L * V; i++) b.logits[i] = i / V < 4 ? 0 : i % V < 2 ? 1.0f : -INFINITY;
    draw(&b, ids);
    for (int i = 0; i < L; i++) {
        krait_sampler *s;
        krait_error e;
        o.seed = (uint64_t)(L - 1 - i);
        assert_int_equal(krait_sampler_create(&s, V, &o, &e), 0);
        assert_int_equal(krait_sampler_draw(s, b.logits + i * V, &e), ids[i]);
        krait_sampler_close(&s);
    }
    drop(&b);
}

static void draws_on_the_cpu(void **state) {
    (void)state;
    as_the_samplers_do(KR_LEVEL_REF);
    odd_rows(KR_LEVEL_REF);
}

static void draws_on_the_gpu(void **state) {
    (void)state;
    if (!kr_test_gpu()) skip();
    as_the_samplers_do(KR_LEVEL_CUDA);
    odd_rows(KR_LEVEL_CUDA);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(draws_on_the_cpu),
                                       cmocka_unit_test(draws_on_the_gpu)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
