/* scan_test.c - the contract of the recurrence, proven on its reference in double: each member
 * against a naive loop of its own definition, and every gradient against finite differences. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "scan/scan_problem.h"

#define LIMIT 1e-12

static double softplus(double v) { return v <= 20 ? log1p(exp(v)) : v; }
static double silu(double z) { return z / (1 + exp(-z)); }

/* ---- members against their own sheets ---- */

/* spec/mamba.md section 2 steps 4 to 7 and section 3, one sequence after another. */
static void mamba1_naive(const problem *p, kr_tensor *y, kr_tensor *state) {
    const kr_tensor *in = p->forward.in;
    int64_t E = p->d.width, N = p->d.state;
    const int64_t *seqs = in[KR_SCAN_SEQS].data;
    const uint8_t *reset = in[KR_SCAN_RESET].data;
    for (int64_t s = 0; s < p->S; s++)
        for (int64_t c = 0; c < E; c++) {
            double *h = (double *)state->data + (seqs[3 * s + 2] * E + c) * N;
            for (int64_t n = 0; n < N; n++)
                h[n] = get(&in[KR_SCAN_STATE], (seqs[3 * s + 2] * E + c) * N + n);
            for (int64_t t = seqs[3 * s]; t < seqs[3 * s] + seqs[3 * s + 1]; t++) {
                double u = get(&in[KR_SCAN_X], t * E + c), sum = 0;
                double raw = get(&in[KR_SCAN_DT], t * E + c);
                double delta = softplus(raw + get(&in[KR_SCAN_BIAS], c));
                for (int64_t n = 0; n < N; n++) {
                    double a = exp(delta * get(&in[KR_SCAN_A], c * N + n));
                    if (reset[t]) h[n] = 0;
                    h[n] = a * h[n] + delta * get(&in[KR_SCAN_B], t * N + n) * u;
                    sum += get(&in[KR_SCAN_C], t * N + n) * h[n];
                }
                double out = sum + get(&in[KR_SCAN_D], c) * u;
                set(y, t * E + c, out * silu(get(&in[KR_SCAN_Z], t * E + c)));
            }
        }
}

typedef void naive(const problem *p, kr_tensor *y, kr_tensor *state);

/* Runs the reference and the naive loop on one problem; states of slots that nobody names must not
 * be written. */
static void compare(const char *what, problem *p, naive *f) {
    kr_tensor *y = &p->forward.out[KR_SCAN_OUT_Y], *h = &p->forward.out[KR_SCAN_OUT_STATE];
    kr_tensor y2 = new_tensor(KR_F64, y->rank, y->shape), h2 = new_tensor(KR_F64, 3, h->shape);
    problem_forward(p, KR_LEVEL_REF64);
    f(p, &y2, &h2);
    double of_y = distance(y, &y2), of_h = distance(h, &h2);
    print_message("%-40s y %.1e, final state %.1e\n", what, of_y, of_h);
    assert_true(of_y < LIMIT);
    assert_true(of_h < LIMIT);
    free(y2.data);
    free(h2.data);
    problem_free(p);
}

static void mamba1(void **state) {
    (void)state;
    problem p;
    problem_make(&p, krait_scan_mamba1(7, 5), KR_F64, 23, 3, NULL);
    compare("mamba1, ragged, resets", &p, mamba1_naive);
}

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
        most = fmax(most, fabs(slope - get(g, j)));
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
        worst = fmax(worst, error);
    }
    print_message("%-40s worst gradient %.1e\n", what, worst);
    assert_true(worst < 1e-6);
    problem_free(p);
}

static void gradients_of_members(void **state) {
    (void)state;
    problem p;
    problem_make(&p, krait_scan_mamba1(3, 4), KR_F64, 11, 2, NULL);
    set(&p.forward.in[KR_SCAN_DT], 4, 25);  /* past the threshold of the softplus */
    set(&p.forward.in[KR_SCAN_DT], 8, -35); /* and where it vanishes */
    gradients("mamba1", &p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mamba1),
        cmocka_unit_test(gradients_of_members),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
