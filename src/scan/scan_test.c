/* scan_test.c - the contract of the recurrence, proven on its reference in double, and what must
 * hold of it on every level: checks 3 to 6 of linear_recurrence.md, 1, 3, 5, 6, 11 and 12 of
 * mamba.md and 6 of mamba2.md, each named where it is tested. Members against their own definitions
 * are scan_member_test.c, the forms against each other scan_forms_test.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/test_worst.h"
#include "scan/scan_problem.h"

/* ---- gradients against finite differences ---- */

static const int grad_of[KR_SCAN_GRAD_OUTS] = {KR_SCAN_X,     KR_SCAN_DT,  KR_SCAN_A, KR_SCAN_B,
                                               KR_SCAN_C,     KR_SCAN_D,   KR_SCAN_Z, KR_SCAN_BIAS,
                                               KR_SCAN_STATE, KR_SCAN_GAIN};

/* sum(y * dy) + sum(h_T * dh_T) over the slots that are named. */
static double loss(problem *p) {
    problem_forward(p, KR_LEVEL_REF64);
    double sum = 0;
    for (int i = 0; i < KR_SCAN_OUTS; i++)
        for (int64_t j = 0; j < problem_count(&p->forward.out[i]); j++)
            sum += get(&p->forward.out[i], j) * get(&p->backward.in[KR_SCAN_DY + i], j);
    return sum;
}

/* Central differences of fourth order, for up to 60 elements of every input. */
static double gradient_error(problem *p, int i) {
    const kr_tensor *x = &p->forward.in[grad_of[i]], *g = &p->backward.out[i];
    int64_t count = problem_count(x), every = count / 60 + 1;
    double most = 0, size = 1e-3;
    for (int64_t j = 0; j < count; j += every) {
        double at = get(x, j), step = 1e-3, f[4];
        for (int k = 0; k < 4; k++) {
            set(x, j, at + step * (double[]){-2, -1, 1, 2}[k]);
            f[k] = loss(p);
        }
        set(x, j, at);
        double slope = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step);
        most = kr_worst(most, fabs(slope - get(g, j)));
        size = fmax(size, fabs(slope));
    }
    return most / size;
}

static void gradients(const char *what, problem *p) {
    double worst = 0;
    problem_backward(p, KR_LEVEL_REF64);
    for (int i = 0; i < KR_SCAN_GRAD_OUTS; i++) {
        double error = gradient_error(p, i);
        if (error > 1e-6) print_message("%s: gradient %d is off by %.1e\n", what, i, error);
        worst = kr_worst(worst, error);
    }
    print_message("%-40s worst gradient %.1e\n", what, worst);
    assert_true(worst < 1e-6);
    problem_free(p);
}

static void gradients_of(const char *what, krait_scan_desc d) {
    problem p;
    problem_make(&p, d, KR_F64, 11, d.order == KRAIT_ORDER_INDEX ? 1 : 2, NULL);
    if (d.order == KRAIT_ORDER_INDEX) {
        static const int32_t path[11] = {3, 7, 0, 10, 4, 1, 9, 2, 8, 6, 5};
        kr_tensor *index = &p.forward.in[KR_SCAN_INDEX];
        *index = new_tensor(KR_I32, 1, (int64_t[]){11});
        memcpy(index->data, path, sizeof path);
        p.backward.in[KR_SCAN_INDEX] = *index;
    }
    if (d.dt_softplus && !d.dt_constant) {
        set(&p.forward.in[KR_SCAN_DT], 4, 25);  /* past the threshold of the softplus */
        set(&p.forward.in[KR_SCAN_DT], 7, -35); /* where it vanishes */
    }
    gradients(what, &p);
}

static krait_scan_desc ordered(krait_scan_desc d, krait_scan_order order) {
    d.order = order;
    return d;
}

static krait_scan_desc reading(krait_scan_desc d, krait_scan_read read) {
    d.read = read;
    return d;
}

/* linear_recurrence.md check 4: x, b, c, A, h_0 and through the last state; real and complex, kappa
 * 1 and 2. mamba.md check 6, mamba2.md check 6: delta's rows past 20, far below 0 and clamped. */
static void gradients_of_members(void **state) {
    (void)state;
    gradients_of("Mamba", krait_scan_mamba1(3, 4));
    gradients_of("Mamba-2", krait_scan_mamba2(4, 3, 2, 2));
    krait_scan_desc d = krait_scan_mamba2(2, 2, 3, 1);
    d.dt_min = 0.3;
    d.dt_max = 1.2;
    gradients_of("Mamba-2, delta clamped", d);
    gradients_of("Mamba-3", krait_scan_mamba3(2, 3, 4, 1));
    gradients_of("Mamba-3 of rank 2", krait_scan_mamba3(2, 3, 4, 2));
    gradients_of("S4D", krait_scan_s4d(3, 4));
    gradients_of("S4", krait_scan_s4(3, 4, 1));
    gradients_of("S4 of rank 2", krait_scan_s4(3, 4, 2));
    gradients_of("LSSL", krait_scan_lssl(2, 3));
    gradients_of("LRU", krait_scan_lru(3));
    gradients_of("linear attention", krait_scan_linear_attention(2, 3, 4));
    gradients_of("RetNet", krait_scan_retnet(2, 3, 4));
    gradients_of("GLA", krait_scan_gla(2, 3, 4));
    d = krait_scan_mamba3(2, 3, 4, 1);
    d.complex_state = true;
    d.kappa = 2;
    d.decay = KRAIT_DECAY_VECTOR;
    gradients_of("complex, decay varying in time", d);
    d.decay = KRAIT_DECAY_MATRIX;
    d.form = KRAIT_FORM_DT;
    d.gain = KRAIT_GAIN_DT;
    gradients_of("complex, full decay varying in time", d);
    d.form = KRAIT_FORM_GIVEN;
    d.gain = KRAIT_GAIN_ONE;
    gradients_of("complex, full decay given", d);
}

static void gradients_of_orders(void **state) {
    (void)state;
    krait_scan_desc mamba = krait_scan_mamba1(3, 2), gla = krait_scan_gla(2, 2, 3);
    krait_scan_desc s4d = krait_scan_s4d(3, 2), two = krait_scan_mamba2(2, 2, 3, 1);
    gradients_of("Mamba, reverse", ordered(mamba, KRAIT_ORDER_REVERSE));
    gradients_of("Mamba, by index", ordered(mamba, KRAIT_ORDER_INDEX));
    gradients_of("S4D, reverse", ordered(s4d, KRAIT_ORDER_REVERSE));
    gradients_of("Mamba-2, by index", ordered(two, KRAIT_ORDER_INDEX));
    gradients_of("GLA, read before", reading(gla, KRAIT_READ_BEFORE));
    gradients_of("S4D, read before", reading(s4d, KRAIT_READ_BEFORE));
    gradients_of("GLA, read at the end", reading(gla, KRAIT_READ_FINAL));
    gradients_of("Mamba, read at the end, reverse",
                 ordered(reading(mamba, KRAIT_READ_FINAL), KRAIT_ORDER_REVERSE));
    gradients_of("S4D, read at the end", reading(s4d, KRAIT_READ_FINAL));
}

/* ---- states, resets, orders ---- */

static void copy_tensor(kr_tensor *to, const kr_tensor *from) {
    *to = new_tensor(from->dtype, from->rank, from->shape);
    memcpy(to->data, from->data, kr_tensor_bytes(from));
}

/* Rows [first, first + count) of one sequence, with state_out of the part before as state_in. */
static void run_part(problem *p, const problem *whole, int64_t first, int64_t count,
                     kr_level level) {
    int64_t *seq = p->forward.in[KR_SCAN_SEQS].data;
    for (int i = 0; i < KR_SCAN_INS; i++) {
        kr_tensor *t = &p->forward.in[i];
        *t = whole->forward.in[i];
        if (!t->data || t->shape[0] != whole->M || i == KR_SCAN_STATE) continue;
        t->data = (char *)t->data + first * t->stride[0] * (int64_t)kr_dtype_size(t->dtype);
        t->shape[0] = count;
    }
    kr_tensor *y = &p->forward.out[KR_SCAN_OUT_Y];
    *y = whole->forward.out[KR_SCAN_OUT_Y];
    y->data = (char *)y->data + first * y->stride[0] * (int64_t)kr_dtype_size(y->dtype);
    y->shape[0] = count;
    p->forward.in[KR_SCAN_SEQS].data = seq;
    seq[0] = 0;
    seq[1] = count;
    p->forward.in[KR_SCAN_STATE] = p->forward.out[KR_SCAN_OUT_STATE]; /* in place */
    problem_forward(p, level);
}

/* One sequence whole and in pieces of `piece` rows: the distance of y and of the last state. */
static double split(krait_scan_desc d, kr_dtype type, kr_level level, int64_t piece) {
    problem p, part;
    kr_tensor y, state;
    problem_make(&p, d, type, 67, 1, NULL);
    problem_forward(&p, level);
    copy_tensor(&y, &p.forward.out[KR_SCAN_OUT_Y]);
    copy_tensor(&state, &p.forward.out[KR_SCAN_OUT_STATE]);
    part = p;
    part.scratch = NULL;
    part.forward.in[KR_SCAN_SEQS] = new_tensor(KR_I64, 2, (int64_t[]){1, 3});
    void *seq = part.forward.in[KR_SCAN_SEQS].data;
    ((int64_t *)seq)[2] = 1;
    memcpy(p.forward.out[KR_SCAN_OUT_STATE].data, p.forward.in[KR_SCAN_STATE].data,
           kr_tensor_bytes(&state));
    for (int64_t at = 0; at < p.M; at += piece) {
        part.forward.in[KR_SCAN_SEQS].data = seq;
        run_part(&part, &p, at, p.M - at < piece ? p.M - at : piece, level);
    }
    /* slot 0 is nobody's: it went in through the copy above */
    set(&state, 0, get(&p.forward.out[KR_SCAN_OUT_STATE], 0));
    int64_t slot = kr_tensor_count(&state) / 2;
    memcpy(state.data, p.forward.out[KR_SCAN_OUT_STATE].data, (size_t)slot * kr_dtype_size(type));
    double far = fmax(distance(&y, &p.forward.out[KR_SCAN_OUT_Y]),
                      distance(&state, &p.forward.out[KR_SCAN_OUT_STATE]));
    free(seq);
    free(y.data);
    free(state.data);
    kr_free(part.scratch);
    problem_free(&p);
    return far;
}

/* linear_recurrence.md checks 2 and 3, mamba.md check 12. */
static void splitting(void **state) {
    (void)state;
    const struct {
        const char *name;
        krait_scan_desc d;
    } members[] = {{"Mamba", krait_scan_mamba1(9, 5)},
                   {"Mamba-2", krait_scan_mamba2(4, 6, 18, 2)},
                   {"Mamba-2, P 9", krait_scan_mamba2(4, 9, 18, 2)},
                   {"Mamba-3", krait_scan_mamba3(2, 3, 4, 2)},
                   {"S4D", krait_scan_s4d(3, 4)},
                   {"S4", krait_scan_s4(5, 4, 1)},
                   {"LRU", krait_scan_lru(4)},
                   {"GLA", krait_scan_gla(2, 3, 4)}};
    static const int64_t pieces[] = {1, 2, 7, 16, 64};
    for (size_t m = 0; m < sizeof members / sizeof *members; m++) {
        double of_double = 0, of_float = 0;
        for (int i = 0; i < 5; i++) {
            of_double = fmax(of_double, split(members[m].d, KR_F64, KR_LEVEL_REF64, pieces[i]));
            for (kr_level level = KR_LEVEL_REF; level < KR_LEVEL_COUNT; level++)
                if (kr_level_supported(level))
                    of_float = fmax(of_float, split(members[m].d, KR_F32, level, pieces[i]));
        }
        print_message("%-12s in pieces: off by %.1e in double, %.1e in float\n", members[m].name,
                      of_double, of_float);
        assert_true(of_double < 1e-13);
        assert_true(of_float < 1e-6);
    }
}

/* A reset in front of row m is the same as a sequence of its own from there, whichever way it is
 * read. */
static void resets(void **state) {
    (void)state;
    for (int reverse = 0; reverse < 2; reverse++) {
        problem packed, apart;
        krait_scan_desc d =
            ordered(krait_scan_mamba1(4, 3), reverse ? KRAIT_ORDER_REVERSE : KRAIT_ORDER_FORWARD);
        problem_make(&packed, d, KR_F64, 20, 1, NULL);
        problem_make(&apart, d, KR_F64, 20, 2, (int64_t[]){8, 12});
        problem_drop(&packed, KR_SCAN_STATE);
        problem_drop(&apart, KR_SCAN_STATE);
        problem_drop(&apart, KR_SCAN_RESET);
        uint8_t *reset = packed.forward.in[KR_SCAN_RESET].data;
        for (int m = 0; m < 20; m++) reset[m] = m == 8;
        for (int i = 0; i < KR_SCAN_SEQS; i++)
            memcpy(apart.forward.in[i].data, packed.forward.in[i].data,
                   kr_tensor_bytes(&apart.forward.in[i]));
        problem_forward(&packed, KR_LEVEL_REF64);
        problem_forward(&apart, KR_LEVEL_REF64);
        double far = distance(&packed.forward.out[0], &apart.forward.out[0]);
        print_message("packed is apart%s: off by %.1e\n", reverse ? ", reverse" : "", far);
        assert_true(far == 0);
        problem_free(&packed);
        problem_free(&apart);
    }
}

/* ---- what must hold of the recurrence, on every level ---- */

static double at(const problem *p, int64_t i) { return get(&p->forward.out[KR_SCAN_OUT_Y], i); }

/* mamba.md checks 5 and 11. Mamba at its edges: delta -> 0, A = 0, B = 0, z = 0, and scaling delta,
 * A, B together.
 */
static void degenerate(kr_level level) {
    enum { E = 21, N = 16, M = 40 };
    problem p;
    const kr_tensor *in = p.forward.in;
    problem_make(&p, krait_scan_mamba1(E, N), KR_F32, M, 1, NULL);
    problem_drop(&p, KR_SCAN_STATE);
    problem_drop(&p, KR_SCAN_RESET);
    problem_backward(&p, level);
    kr_tensor z = p.forward.in[KR_SCAN_Z];
    memset(z.data, 0, kr_tensor_bytes(&z));
    problem_forward(&p, level);
    problem_backward(&p, level);
    assert_true(at(&p, 7) == 0);
    kr_tensor dz;
    copy_tensor(&dz, &p.backward.out[KR_SCAN_DZ]);
    problem_drop(&p, KR_SCAN_Z);
    problem_forward(&p, level);
    for (int64_t i = 0; i < M * E; i++) {
        double want = get(&p.backward.in[KR_SCAN_DY], i) * at(&p, i) / 2;
        assert_true(fabs(get(&dz, i) - want) < 1e-5 * fmax(1, fabs(want)));
    }
    kr_tensor y;
    copy_tensor(&y, &p.forward.out[KR_SCAN_OUT_Y]);
    p.d.dt_softplus = false;
    for (int64_t i = 0; i < M * E; i++) set(&in[KR_SCAN_DT], i, 0.25);
    for (int64_t i = 0; i < E; i++) set(&in[KR_SCAN_BIAS], i, 0);
    problem_forward(&p, level);
    copy_tensor(&z, &p.forward.out[KR_SCAN_OUT_Y]);
    for (int64_t i = 0; i < M * E; i++) set(&in[KR_SCAN_DT], i, 0.5);
    for (int64_t i = 0; i < E * N; i++) set(&in[KR_SCAN_A], i, get(&in[KR_SCAN_A], i) / 2);
    for (int64_t i = 0; i < M * N; i++) set(&in[KR_SCAN_B], i, get(&in[KR_SCAN_B], i) / 2);
    problem_forward(&p, level);
    assert_true(distance(&p.forward.out[KR_SCAN_OUT_Y], &z) < 1e-6);
    for (int64_t i = 0; i < M * E; i++) set(&in[KR_SCAN_DT], i, 0);
    problem_forward(&p, level);
    for (int64_t i = 0; i < M * E; i++)
        assert_true(at(&p, i) ==
                    (double)((float)get(&in[KR_SCAN_D], i % E) * (float)get(&in[KR_SCAN_X], i)));
    free(z.data);
    free(dz.data);
    free(y.data);
    problem_free(&p);
}

/* linear_recurrence.md check 6. Decays at their edges: a = 1 is a running sum, a = 0 forgets at
 * once, and decays of e^-80 leave no NaN. */
static void extreme(kr_level level) {
    enum { E = 19, N = 16, M = 50 };
    problem p;
    const kr_tensor *in = p.forward.in;
    krait_scan_desc d = krait_scan_mamba1(E, N);
    d.dt_softplus = false;
    problem_make(&p, d, KR_F32, M, 1, NULL);
    problem_drop(&p, KR_SCAN_RESET);
    problem_drop(&p, KR_SCAN_Z);
    problem_drop(&p, KR_SCAN_D);
    problem_drop(&p, KR_SCAN_BIAS);
    for (int64_t i = 0; i < E * N; i++)
        set(&in[KR_SCAN_A], i, i / N % 3 ? i / N % 3 == 1 ? 0 : -1e37 : -80);
    for (int64_t i = 0; i < M * E; i++) set(&in[KR_SCAN_DT], i, 1);
    problem_forward(&p, level);
    problem_backward(&p, level);
    for (int64_t e = 1; e < E; e++) {
        double h[N];
        for (int n = 0; n < N; n++) h[n] = get(&in[KR_SCAN_STATE], (E + e) * N + n);
        for (int64_t t = 0; e % 3 && t < M; t++) {
            double y = 0;
            for (int n = 0; n < N; n++) {
                double x = get(&in[KR_SCAN_X], t * E + e) * get(&in[KR_SCAN_B], t * N + n);
                h[n] = (e % 3 == 1 ? h[n] : 0) + x;
                y += get(&in[KR_SCAN_C], t * N + n) * h[n];
            }
            assert_true(fabs(at(&p, t * E + e) - y) < 1e-4);
        }
    }
    for (int i = 0; i < KR_SCAN_GRAD_OUTS; i++)
        for (int64_t j = 0; j < problem_count(&p.backward.out[i]); j++)
            assert_true(isfinite(get(&p.backward.out[i], j)));
    problem_free(&p);
}

/* mamba.md checks 1 and 3. Lengths around powers of two against the reference in double; and
 * what comes later does not move what came before by one bit. */
static void lengths(kr_level level) {
    static const int64_t sizes[] = {1, 2, 3, 4, 127, 128, 129, 2047, 2048, 2049, 4097};
    double most = 0;
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        problem p, exact;
        int64_t M = sizes[k];
        problem_make(&p, krait_scan_mamba1(17, 16), KR_F32, M, 1, NULL);
        problem_make(&exact, krait_scan_mamba1(17, 16), KR_F64, M, 1, NULL);
        for (int i = 0; i < KR_SCAN_INS; i++)
            for (int64_t j = 0;
                 i != KR_SCAN_SEQS && i != KR_SCAN_RESET && j < problem_count(&p.forward.in[i]);
                 j++)
                set(&exact.forward.in[i], j, get(&p.forward.in[i], j));
        problem_forward(&p, level);
        problem_forward(&exact, KR_LEVEL_REF64);
        most = kr_worst(most, distance(&p.forward.out[0], &exact.forward.out[0]));
        kr_tensor before;
        copy_tensor(&before, &p.forward.out[0]);
        int64_t row = M / 2;
        for (int64_t i = row * 17; i < M * 17; i++) set(&p.forward.in[KR_SCAN_X], i, 9);
        problem_forward(&p, level);
        assert_memory_equal(before.data, p.forward.out[0].data, (size_t)row * 17 * sizeof(float));
        free(before.data);
        problem_free(&p);
        problem_free(&exact);
    }
    print_message("%-5s lengths 1 to 4097: off by %.1e\n", kr_level_name(level), most);
    assert_true(most < 1e-5);
}

static void properties(void **state) {
    (void)state;
    for (kr_level level = KR_LEVEL_REF; level < KR_LEVEL_COUNT; level++) {
        if (!kr_level_supported(level)) continue;
        degenerate(level);
        extreme(level);
        lengths(level);
    }
}

/* linear_recurrence.md check 5. Yang et al. 2024 (GLA): for a vector of log decays, dL/dg_t =
 * <dL/dh_T, h_T> + sum over u >= t of c dL/dc - b dL/db. */
static void closed_form(void **state) {
    (void)state;
    enum { P = 3, N = 4, T = 15 };
    problem p;
    problem_make(&p, krait_scan_gla(1, P, N), KR_F64, T, 1, NULL);
    problem_drop(&p, KR_SCAN_RESET);
    problem_forward(&p, KR_LEVEL_REF64);
    problem_backward(&p, KR_LEVEL_REF64);
    double most = 0;
    for (int n = 0; n < N; n++) {
        double sum = 0;
        for (int c = 0; c < P; c++)
            sum += get(&p.backward.in[KR_SCAN_DSTATE], (P + c) * N + n) *
                   get(&p.forward.out[KR_SCAN_OUT_STATE], (P + c) * N + n);
        for (int i = (T - 1) * N + n; i >= 0; i -= N) {
            sum += get(&p.forward.in[KR_SCAN_C], i) * get(&p.backward.out[KR_SCAN_DC], i) -
                   get(&p.forward.in[KR_SCAN_B], i) * get(&p.backward.out[KR_SCAN_DB], i);
            most = kr_worst(most, fabs(sum - get(&p.backward.out[KR_SCAN_DA], i)));
        }
    }
    print_message("closed form of the decay's gradient: off by %.1e\n", most);
    assert_true(most < 1e-12);
    problem_free(&p);
}

/* Shapes that do not fit are refused with the name of the array. */
static void refusals(void **state) {
    (void)state;
    problem p;
    kr_tensor out[KR_SCAN_GRAD_OUTS];
    krait_error e;
    problem_make(&p, krait_scan_mamba1(6, 4), KR_F32, 5, 1, NULL);
    kr_call c = p.forward;
    c.attr = &p.d;
    assert_int_equal(kr_op_scan.shape(&c, out, &e), 0);
    for (int i = 0; i < KR_SCAN_SEQS; i++) {
        kr_call wrong = c;
        wrong.in[i].shape[1]++;
        assert_true(kr_op_scan.shape(&wrong, out, &e) < 0);
        print_message("%s\n", e.message);
    }
    c.in[KR_SCAN_SEQS].data = NULL;
    assert_true(kr_op_scan.shape(&c, out, &e) < 0);
    p.d.groups = 0;
    assert_true(krait_scan_check(&p.d, &e) < 0);
    print_message("%s\n", e.message);
    problem_free(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_of_members),
        cmocka_unit_test(gradients_of_orders),
        cmocka_unit_test(splitting),
        cmocka_unit_test(resets),
        cmocka_unit_test(properties),
        cmocka_unit_test(closed_form),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
