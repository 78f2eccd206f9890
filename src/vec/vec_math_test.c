/* vec_math_test.c - the vector layer against libm in double: error in units of the last place on
 * every level of the machine. */
#include "vec/vec_probe.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "device/device.h"
#include "tensor/tensor.h"

static const struct {
    kr_level level;
    kr_vec_probe_fn *probe;
    int width;
} levels[] = {
    {KR_LEVEL_V1, kr_vec_probe_v1, 4},
#if defined(__x86_64__)
    {KR_LEVEL_V3, kr_vec_probe_v3, 8},
    {KR_LEVEL_V4, kr_vec_probe_v4, 16},
#endif
};
#define LEVELS (sizeof levels / sizeof *levels)

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double silu(double x) { return x * sigmoid(x); }
static double softplus(double x) { return x <= 20 ? log1p(exp(x)) : x; }

static const struct {
    const char *name;
    kr_probe what;
    double (*exact)(double);
    double bound;
    double least; /* the unit below which errors are not counted: the last denormal */
} functions[] = {
    {"exp", KR_PROBE_EXP, exp, 2, 0x1p-149},
    {"exp2", KR_PROBE_EXP2, exp2, 2, 0x1p-149},
    {"log", KR_PROBE_LOG, log, 2, 0x1p-149},
    {"log1p", KR_PROBE_LOG1P, log1p, 2, 0x1p-149},
    {"sigmoid", KR_PROBE_SIGMOID, sigmoid, 3, 0x1p-149},
    {"silu", KR_PROBE_SILU, silu, 4, 0x1p-142},
    {"softplus", KR_PROBE_SOFTPLUS, softplus, 4, 0x1p-149},
    {"tanh", KR_PROBE_TANH, tanh, 3, 0x1p-149},
};

static float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* |got - exact| in units of the last place of exact, no smaller than `least`; both NaN or both
 * infinite is no error. Past the largest float an infinity counts as 2^128. */
static double ulp_error(float got, double exact, double least) {
    if (isnan(exact) || isnan(got)) return isnan(exact) && isnan(got) ? 0 : INFINITY;
    if (isinf(exact)) return (double)got == exact ? 0 : INFINITY;
    if (fabs(exact) >= 0x1p128) return isinf(got) && (got > 0) == (exact > 0) ? 0 : INFINITY;
    double reached = isinf(got) ? copysign(0x1p128, (double)got) : (double)got;
    double ulp = exact == 0 ? 0 : ldexp(1, ilogb(exact) - 23);
    return fabs(reached - exact) / fmax(ulp, least);
}

enum { CHUNK = 4096 };

/* Every 499th float of all 2^32, and every float near the places where the formulas change. */
static void fill_sweep(float *x, int64_t chunk, int64_t chunks) {
    static const float edges[] = {0.0f,    -0.0f,     1.0f,        -1.0f,       20.0f,    0.625f,
                                  -0.625f, 88.7228f,  -87.3366f,   -103.972f,   128.0f,   -126.0f,
                                  -149.0f, 0x1p-126f, 0.70710678f, 1.41421356f, INFINITY, -INFINITY,
                                  FLT_MAX, -FLT_MAX,  0.41421356f, 9.0f};
    int64_t n_edges = sizeof edges / sizeof *edges;
    for (int64_t i = 0; i < CHUNK; i++) {
        uint32_t bits;
        if (chunk < n_edges) {
            memcpy(&bits, &edges[chunk], sizeof bits);
            bits += (uint32_t)(i - CHUNK / 2);
        } else {
            uint64_t step = ((uint64_t)1 << 32) / (uint64_t)((chunks - n_edges) * CHUNK) | 1;
            bits = (uint32_t)((uint64_t)((chunk - n_edges) * CHUNK + i) * step);
        }
        x[i] = float_of(bits);
    }
}

static void accuracy(void **state) {
    (void)state;
    static float x[CHUNK], y[CHUNK];
    static double exact[CHUNK];
    const int64_t chunks = 2122;
    for (size_t f = 0; f < sizeof functions / sizeof *functions; f++) {
        double worst[LEVELS] = {0};
        float where[LEVELS] = {0};
        for (int64_t c = 0; c < chunks; c++) {
            fill_sweep(x, c, chunks);
            for (int i = 0; i < CHUNK; i++) exact[i] = functions[f].exact((double)x[i]);
            for (size_t l = 0; l < LEVELS; l++) {
                if (!kr_level_supported(levels[l].level)) continue;
                levels[l].probe(functions[f].what, x, y, CHUNK);
                for (int i = 0; i < CHUNK; i++) {
                    double error = ulp_error(y[i], exact[i], functions[f].least);
                    if (error > worst[l]) worst[l] = error, where[l] = x[i];
                }
            }
        }
        for (size_t l = 0; l < LEVELS; l++) {
            if (!kr_level_supported(levels[l].level)) continue;
            print_message("%-8s %s: %.3f ulp at %a\n", functions[f].name,
                          kr_level_name(levels[l].level), worst[l], (double)where[l]);
            assert_true(worst[l] <= functions[f].bound);
        }
    }
}

/* sin and cos over every angle below 2^14 in steps, and near the turns: absolute errors, since a
 * float near a multiple of pi has few places left. */
static void angles(void **state) {
    (void)state;
    static float x[CHUNK], y[CHUNK];
    double worst = 0;
    for (int c = 0; c < 512; c++) {
        for (int i = 0; i < CHUNK; i++)
            x[i] = c % 2 ? (float)((c * CHUNK + i) * 0.0078124) - 8192
                         : (float)((c / 2 - 128) * 1.5707963267948966 + (i - CHUNK / 2) * 1e-6);
        for (size_t l = 0; l < LEVELS; l++)
            for (int cosine = 0; kr_level_supported(levels[l].level) && cosine < 2; cosine++) {
                levels[l].probe(cosine ? KR_PROBE_COS : KR_PROBE_SIN, x, y, CHUNK);
                for (int i = 0; i < CHUNK; i++) {
                    double exact = cosine ? cos((double)x[i]) : sin((double)x[i]);
                    double error = fabs((double)y[i] - exact);
                    worst = error >= worst || isnan(error) ? error : worst;
                }
            }
    }
    print_message("sin, cos: off by 2^%.2f\n", log2(worst));
    assert_true(worst <= 0x1p-23);
}

/* All 65536 halves of both kinds. */
static void halves(void **state) {
    (void)state;
    static uint16_t h[65536];
    static float y[65536];
    for (int i = 0; i < 65536; i++) h[i] = (uint16_t)i;
    for (size_t l = 0; l < LEVELS; l++) {
        if (!kr_level_supported(levels[l].level)) continue;
        levels[l].probe(KR_PROBE_BF16, h, y, 65536);
        for (int i = 0; i < 65536; i++) {
            float want = kr_bf16_to_f32(h[i]);
            assert_memory_equal(&y[i], &want, sizeof want);
        }
        levels[l].probe(KR_PROBE_F16, h, y, 65536);
        for (int i = 0; i < 65536; i++) {
            float want = kr_f16_to_f32(h[i]);
            if (isnan(want))
                assert_true(isnan(y[i]));
            else
                assert_memory_equal(&y[i], &want, sizeof want);
        }
    }
}

/* Parts of 1 to 2 vectors, in blocks of exactly that size (a sanitizer sees a read past the end),
 * guards around the output. */
static void tails(void **state) {
    (void)state;
    for (size_t l = 0; l < LEVELS; l++) {
        if (!kr_level_supported(levels[l].level)) continue;
        for (int n = 1; n <= 2 * levels[l].width; n++) {
            float *x = malloc(sizeof(float) * (size_t)n), y[40], sum = 0;
            uint16_t *h = malloc(sizeof(uint16_t) * (size_t)n);
            assert_true(x && h);
            for (int i = 0; i < n; i++) x[i] = (float)(i + 1), h[i] = kr_f32_to_bf16(x[i]);
            for (int i = 0; i < 40; i++) y[i] = -7;
            levels[l].probe(KR_PROBE_COPY, x, y + 1, n);
            for (int i = 0; i < 40; i++) assert_true(y[i] == (i >= 1 && i <= n ? (float)i : -7));
            for (int i = 0; i < 40; i++) y[i] = -7;
            levels[l].probe(KR_PROBE_BF16, h, y + 1, n);
            for (int i = 0; i < 40; i++) assert_true(y[i] == (i >= 1 && i <= n ? (float)i : -7));
            for (int i = 0; i < n; i++) h[i] = kr_f32_to_f16(x[i]);
            levels[l].probe(KR_PROBE_F16, h, y + 1, n);
            for (int i = 0; i < 40; i++) assert_true(y[i] == (i >= 1 && i <= n ? (float)i : -7));
            int lanes = n < levels[l].width ? n : levels[l].width;
            for (int i = 0; i < lanes; i++) sum += x[i];
            levels[l].probe(KR_PROBE_SUM, x, y, n);
            assert_true(y[0] == sum);
            levels[l].probe(KR_PROBE_MAX, x, y, n);
            assert_true(y[0] == x[lanes - 1]);
            free(x);
            free(h);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(accuracy), cmocka_unit_test(angles),
                                       cmocka_unit_test(halves), cmocka_unit_test(tails)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
