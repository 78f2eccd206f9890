/* scan_chunk_test.c - Mamba-2 as chunks of matrix products: checks 1 to 4 of the sheet mamba2.md,
 * and 6, 9 of linear_recurrence.md, on every level of this machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/test_worst.h"
#include "scan/scan_plan.h"
#include "scan/scan_problem.h"

static const int64_t lengths[] = {16, 17, 31, 63, 64, 65, 127, 128, 129, 256, 300};
enum { LENGTHS = sizeof lengths / sizeof *lengths };

static double *numbers(const kr_tensor *t) {
    double *v = zeros((size_t)kr_tensor_count(t) * sizeof *v);
    for (int64_t i = 0; i < kr_tensor_count(t); i++) v[i] = get(t, i);
    return v;
}

static double off(const kr_tensor *t, const double *want) {
    double most = 0, size = 1e-30;
    for (int64_t i = 0; i < kr_tensor_count(t); i++) {
        most = kr_worst(most, isnan(get(t, i)) ? INFINITY : fabs(get(t, i) - want[i]));
        size = fmax(size, fabs(want[i]));
    }
    return most / size;
}

static double delta_of(const problem *p, int64_t t, int64_t h) {
    double v =
        get(&p->forward.in[KR_SCAN_DT], t * p->d.heads + h) + get(&p->forward.in[KR_SCAN_BIAS], h);
    return v <= 20 ? log1p(exp(v)) : v;
}

/* y of one sequence without a state in front, as section A3 of the sheet writes it: masked
 * attention with scores C.B. */
static double *attention(const problem *p) {
    const krait_scan_desc *d = &p->d;
    const kr_tensor *in = p->forward.in;
    int64_t H = d->heads, P = d->width, N = d->state, G = d->groups;
    double *y = zeros((size_t)(p->M * H * P) * sizeof *y);
    for (int64_t i = 0; i < p->M * H * P; i++) {
        int64_t t = i / (H * P), h = i / P % H, g = h / (H / G);
        double way = 0;
        y[i] = get(&in[KR_SCAN_D], h) * get(&in[KR_SCAN_X], i);
        for (int64_t s = t; s >= 0; s--) {
            double score = 0, delta = delta_of(p, s, h);
            for (int64_t n = 0; n < N; n++)
                score += get(&in[KR_SCAN_C], (t * G + g) * N + n) *
                         get(&in[KR_SCAN_B], (s * G + g) * N + n);
            y[i] += score * exp(way) * delta * get(&in[KR_SCAN_X], s * H * P + i % (H * P));
            way += delta * get(&in[KR_SCAN_A], h);
        }
    }
    return y;
}

static void plain(problem *p, krait_scan_desc d, kr_dtype type, int64_t T) {
    problem_make(p, d, type, T, 1, NULL);
    problem_drop(p, KR_SCAN_RESET);
    problem_drop(p, KR_SCAN_Z);
}

/* mamba2.md check 1, first half: the recurrence is the matrix form of A3, in double; the chunks are
 * the recurrence, last states and gradients too, at every length around the chunk's. */
static void chunked_is_recurrent(void **state) {
    (void)state;
    for (int i = 0; i < LENGTHS; i++) {
        problem p;
        plain(&p, krait_scan_mamba2(4, 9, 18, 2), KR_F64, lengths[i]);
        problem_drop(&p, KR_SCAN_STATE);
        double *want = attention(&p);
        problem_forward(&p, KR_LEVEL_REF64);
        double matrix = off(&p.forward.out[0], want), y = 0, last = 0, grads = 0;
        free(want);
        problem_free(&p);
        plain(&p, krait_scan_mamba2(4, 9, 18, 2), KR_F32, lengths[i]);
        assert_int_equal(kr_scan_pick((p.forward.attr = &p.d, &p.forward), false), KR_SCAN_MATRIX);
        problem_forward(&p, KR_LEVEL_REF);
        problem_backward(&p, KR_LEVEL_REF);
        double *out[2 + KR_SCAN_GRAD_OUTS] = {numbers(&p.forward.out[0]),
                                              numbers(&p.forward.out[1])};
        for (int k = 0; k < KR_SCAN_GRAD_OUTS; k++)
            if (p.backward.out[k].data) out[2 + k] = numbers(&p.backward.out[k]);
        for (kr_level level = KR_LEVEL_V1; level < KR_LEVEL_COUNT; level++) {
            if (!kr_level_supported(level)) continue;
            problem_forward(&p, level);
            problem_backward(&p, level);
            y = fmax(y, off(&p.forward.out[0], out[0]));
            last = fmax(last, off(&p.forward.out[1], out[1]));
            for (int k = 0; k < KR_SCAN_GRAD_OUTS; k++)
                if (out[2 + k]) grads = fmax(grads, off(&p.backward.out[k], out[2 + k]));
        }
        print_message("T %3lld: matrix form %.1e in double; chunks: y %.1e, last state %.1e, "
                      "gradients %.1e\n",
                      (long long)lengths[i], matrix, y, last, grads);
        assert_true(matrix < 1e-12);
        assert_true(y < 1e-5 && last < 1e-5 && grads < 1e-5);
        for (int k = 0; k < 2 + KR_SCAN_GRAD_OUTS; k++) free(out[k]);
        problem_free(&p);
    }
}

/* Rows [first, first + count) of the whole problem, from the state in out[1] on, into the whole's
 * y. */
static void run_rows(const problem *whole, int64_t first, int64_t count, kr_level level) {
    problem p = *whole;
    int64_t seq[3] = {0, count, 1};
    for (int i = 0; i < KR_SCAN_INS + 1; i++) {
        kr_tensor *t = i < KR_SCAN_INS ? &p.forward.in[i] : &p.forward.out[0];
        if (!t->data || t->rank != 2 || t->shape[0] != whole->M) continue;
        t->data = (char *)t->data + first * t->stride[0] * 4;
        t->shape[0] = count;
    }
    p.scratch = NULL;
    p.forward.in[KR_SCAN_SEQS] = kr_tensor_make(seq, KR_I64, 2, (int64_t[]){1, 3});
    p.forward.in[KR_SCAN_STATE] = p.forward.out[1];
    problem_forward(&p, level);
    kr_free(p.scratch);
}

/* mamba2.md check 1, second half, and 2: chunks of 1, 2, 16, 64, 256, T, more than T; a state
 * passed on continues a longer sequence; a prefill and then steps are the whole. */
static void any_chunk(void **state) {
    (void)state;
    static const int64_t pieces[][2] = {{1, 1},     {2, 2},     {16, 16},     {64, 64},
                                        {256, 256}, {290, 290}, {1000, 1000}, {200, 1}};
    for (kr_level level = KR_LEVEL_V1; level < KR_LEVEL_COUNT; level++) {
        if (!kr_level_supported(level)) continue;
        for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
            problem p;
            plain(&p, krait_scan_mamba2(4, 9, 18, 2), KR_F32, 290);
            problem_forward(&p, KR_LEVEL_REF);
            double *y = numbers(&p.forward.out[0]), *last = numbers(&p.forward.out[1]);
            memcpy(p.forward.out[1].data, p.forward.in[KR_SCAN_STATE].data,
                   kr_tensor_bytes(&p.forward.out[1]));
            for (int64_t at = 0, n; at < p.M; at += n) {
                n = pieces[i][at > 0];
                if (n > p.M - at) n = p.M - at;
                run_rows(&p, at, n, level);
            }
            int64_t own = kr_tensor_count(&p.forward.out[1]) / 2; /* slot 0 is nobody's */
            for (int64_t k = 0; k < own; k++) last[k] = get(&p.forward.out[1], k);
            double of_y = off(&p.forward.out[0], y), of_last = off(&p.forward.out[1], last);
            print_message("%s, %lld rows, then %lld at once: y %.1e, last state %.1e\n",
                          kr_level_name(level), (long long)pieces[i][0], (long long)pieces[i][1],
                          of_y, of_last);
            assert_true(of_y < 1e-5 && of_last < 1e-5);
            free(y);
            free(last);
            problem_free(&p);
        }
    }
}

static void fill(const kr_tensor *t, double v) {
    for (int64_t i = 0; i < problem_count(t); i++) set(t, i, v);
}

/* mamba2.md check 4: without decay it is causal linear attention with values dt x; with dt = 0 only
 * the skip is left; heads of a group share the gradients of b and c. */
static void special_cases(kr_level level) {
    enum { H = 4, P = 9, N = 18, T = 150 };
    problem p, q;
    plain(&p, krait_scan_mamba2(H, P, N, 2), KR_F32, T);
    plain(&q, krait_scan_linear_attention(H, P, N), KR_F32, T);
    problem_drop(&p, KR_SCAN_STATE);
    problem_drop(&q, KR_SCAN_STATE);
    problem_drop(&q, KR_SCAN_D);
    problem_drop(&p, KR_SCAN_D);
    fill(&p.forward.in[KR_SCAN_A], 0);
    for (int64_t i = 0; i < T * H * P; i++)
        set(&q.forward.in[KR_SCAN_X], i,
            get(&p.forward.in[KR_SCAN_X], i) * delta_of(&p, i / (H * P), i / P % H));
    for (int64_t i = 0; i < T * H * N; i++)
        for (int k = KR_SCAN_B; k <= KR_SCAN_C; k++)
            set(&q.forward.in[k], i,
                get(&p.forward.in[k], (i / (H * N) * 2 + i / N % H / 2) * N + i % N));
    memcpy(q.backward.in[KR_SCAN_DY].data, p.backward.in[KR_SCAN_DY].data, T * H * P * 4);
    free(p.backward.in[KR_SCAN_DSTATE].data);
    problem_drop(&p, KR_SCAN_DSTATE);
    free(q.backward.in[KR_SCAN_DSTATE].data);
    problem_drop(&q, KR_SCAN_DSTATE);
    problem_forward(&p, level);
    problem_forward(&q, level);
    double y = distance(&p.forward.out[0], &q.forward.out[0]);
    problem_backward(&p, level);
    problem_backward(&q, level);
    double groups = 0;
    for (int k = KR_SCAN_DB; k <= KR_SCAN_DC; k++) {
        double *sum = zeros(sizeof(double) * T * 2 * N);
        for (int64_t i = 0; i < T * H * N; i++)
            sum[(i / (H * N) * 2 + i / N % H / 2) * N + i % N] += get(&q.backward.out[k], i);
        groups = fmax(groups, off(&p.backward.out[k], sum));
        free(sum);
    }
    print_message("%s: A = 0 is linear attention %.1e; gradients of a group's b, c %.1e\n",
                  kr_level_name(level), y, groups);
    assert_true(y < 1e-5 && groups < 1e-5);
    problem_free(&p);
    problem_free(&q);
    plain(&p, krait_scan_mamba2(H, P, N, 2), KR_F32, T);
    problem_drop(&p, KR_SCAN_STATE);
    p.d.dt_softplus = false;
    fill(&p.forward.in[KR_SCAN_DT], 0);
    fill(&p.forward.in[KR_SCAN_BIAS], 0);
    problem_forward(&p, level);
    for (int64_t i = 0; i < T * H * P; i++)
        assert_true(get(&p.forward.out[0], i) ==
                    (double)((float)get(&p.forward.in[KR_SCAN_D], i / P % H) *
                             (float)get(&p.forward.in[KR_SCAN_X], i)));
    problem_free(&p);
}

/* linear_recurrence.md checks 6 and 9: decays of e^-80 and of 0 now and then, all rows kept, or all
 * forgotten: no NaN, and the reference's values; a changed row changes nothing in front of it. */
static void edges(kr_level level) {
    static const double decays[][2] = {{0, 0},         {-0.3, -0.01}, {-80, 0},
                                       {-1e38, -0.01}, {-1, -1e38},   {-80, -80}};
    double worst = 0;
    for (size_t k = 0; k < sizeof decays / sizeof *decays; k++) {
        problem p;
        krait_scan_desc d = krait_scan_mamba3(2, 9, 18, 1);
        problem_make(&p, d, KR_F32, 150, 1, NULL);
        for (int64_t i = 0; i < 300; i++)
            set(&p.forward.in[KR_SCAN_A], i, decays[k][(i / 2 % 7 == 3) ^ 1]);
        problem_forward(&p, KR_LEVEL_REF);
        problem_backward(&p, KR_LEVEL_REF);
        double *y = numbers(&p.forward.out[0]), *da = numbers(&p.backward.out[KR_SCAN_DA]);
        problem_forward(&p, level);
        problem_backward(&p, level);
        worst =
            kr_worst(worst, fmax(off(&p.forward.out[0], y), off(&p.backward.out[KR_SCAN_DA], da)));
        free(y);
        free(da);
        y = numbers(&p.forward.out[0]);
        set(&p.forward.in[KR_SCAN_X], 100 * 2 * 18 + 5, 40);
        problem_forward(&p, level);
        for (int64_t i = 0; i < 100 * 18; i++) assert_true(y[i] == get(&p.forward.out[0], i));
        free(y);
        problem_free(&p);
    }
    print_message("%s: edges of decays %.1e\n", kr_level_name(level), worst);
    assert_true(worst < 1e-5);
}

static void on_every_level(void **state) {
    (void)state;
    for (kr_level level = KR_LEVEL_REF; level < KR_LEVEL_COUNT; level++) {
        if (!kr_level_supported(level)) continue;
        special_cases(level);
        edges(level);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(chunked_is_recurrent),
                                       cmocka_unit_test(any_chunk),
                                       cmocka_unit_test(on_every_level)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
