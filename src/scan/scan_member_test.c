/* scan_member_test.c - linear_recurrence.md section 6, check 8: every row of its section 2,
 * computed by the reference of the one recurrence, against its own paper: loops and attention forms
 * written from the paper's definition, which share no code with the engine. Mamba-2's reduction to
 * Mamba is mamba2.md check 3; MILA's attention is mila.md checks 3, 4 and 7. Mamba's frame of
 * MILA's paper is mixers/linear_attention's test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "base/test_worst.h"
#include <complex.h>

#include "scan/scan_problem.h"

typedef double complex cplx;

enum { T = 13 };
static const double pi = 3.14159265358979323846;

/* One sequence of T rows in double, without reset and state; and without gate and skip unless the
 * test keeps them. */
static void bare(problem *p, krait_scan_desc d, bool gate, bool skip) {
    problem_make(p, d, KR_F64, T, 1, NULL);
    problem_drop(p, KR_SCAN_RESET);
    problem_drop(p, KR_SCAN_STATE);
    if (!gate) problem_drop(p, KR_SCAN_Z);
    if (!skip) problem_drop(p, KR_SCAN_D);
}

static double *in(const problem *p, int i) { return p->forward.in[i].data; }

static void expect(const char *what, problem *p, const double *want, int64_t count) {
    double most = 0, size = 1e-30;
    problem_forward(p, KR_LEVEL_REF64);
    const double *y = p->forward.out[KR_SCAN_OUT_Y].data;
    for (int64_t i = 0; i < count; i++) {
        most = isnan(y[i]) ? INFINITY : fmax(most, fabs(y[i] - want[i]));
        size = fmax(size, fabs(want[i]));
    }
    print_message("%-44s off by %.1e\n", what, most / size);
    assert_true(most / size < 1e-12);
    problem_free(p);
}

static double softplus(double v) { return v <= 20 ? log1p(exp(v)) : v; }
static double silu(double z) { return z / (1 + exp(-z)); }
static double sigmoid(double z) { return 1 / (1 + exp(-z)); }

/* Mamba (Gu & Dao 2023), step by step. */
static void mamba1(void **state) {
    (void)state;
    enum { E = 5, N = 3 };
    problem p;
    double want[T * E], h[E][N] = {{0}};
    bare(&p, krait_scan_mamba1(E, N), true, true);
    const double *u = in(&p, KR_SCAN_X), *raw = in(&p, KR_SCAN_DT), *A = in(&p, KR_SCAN_A);
    const double *B = in(&p, KR_SCAN_B), *C = in(&p, KR_SCAN_C), *z = in(&p, KR_SCAN_Z);
    for (int t = 0; t < T; t++)
        for (int c = 0; c < E; c++) {
            int i = t * E + c;
            double delta = softplus(raw[i] + in(&p, KR_SCAN_BIAS)[c]);
            double y = in(&p, KR_SCAN_D)[c] * u[i];
            for (int n = 0; n < N; n++) {
                h[c][n] = exp(delta * A[c * N + n]) * h[c][n] + delta * B[t * N + n] * u[i];
                y += C[t * N + n] * h[c][n];
            }
            want[i] = y * silu(z[i]);
        }
    expect("Mamba", &p, want, T * E);
}

/* Mamba-2 (Dao & Gu 2024): masked attention with scores C.B and mask exp(sum of dt A). Heads 0, 1
 * use group 0, heads 2, 3 group 1. */
static void mamba2(void **state) {
    (void)state;
    enum { H = 4, P = 3, N = 5, G = 2 };
    problem p;
    double want[T * H * P];
    bare(&p, krait_scan_mamba2(H, P, N, G), false, true);
    const double *x = in(&p, KR_SCAN_X), *raw = in(&p, KR_SCAN_DT), *A = in(&p, KR_SCAN_A);
    const double *B = in(&p, KR_SCAN_B), *C = in(&p, KR_SCAN_C), *D = in(&p, KR_SCAN_D);
    for (int t = 0; t < T; t++)
        for (int h = 0; h < H; h++)
            for (int c = 0; c < P; c++) {
                int i = (t * H + h) * P + c, g = h / (H / G);
                double sum = D[h] * x[i], decay = 0;
                for (int s = t; s >= 0; s--) {
                    double dt = softplus(raw[s * H + h] + in(&p, KR_SCAN_BIAS)[h]), CB = 0;
                    for (int n = 0; n < N; n++)
                        CB += C[(t * G + g) * N + n] * B[(s * G + g) * N + n];
                    sum += CB * exp(decay) * dt * x[(s * H + h) * P + c];
                    decay += dt * A[h];
                }
                want[i] = sum;
            }
    expect("Mamba-2, two groups, against the matrix form", &p, want, T * H * P);
}

/* What Mamba-3's scan is fed with, from Lahoti et al. 2026: here drawn at random. */
typedef struct mamba3_inputs {
    double dt, A, lam, q[2][8], k[2][8], v[2][3], dphi[4];
} mamba3_inputs;

static void mamba3_draw(problem *p, mamba3_inputs in3[T]) {
    for (int t = 0; t < T; t++) {
        mamba3_inputs *m = &in3[t];
        double *all = (double *)m;
        for (size_t i = 0; i < sizeof *m / sizeof(double); i++)
            all[i] = 2 * kr_rng_uniform(&p->rng) - 1;
        m->dt = 0.1 + fabs(m->dt);
        m->A = -0.1 - fabs(m->A);
        m->lam = sigmoid(m->lam);
        for (int i = 0; i < 4; i++) m->dphi[i] = pi * tanh(m->dphi[i]) * m->dt;
    }
}

/* Rot of adjacent pairs by phi. */
static void rotate(double to[8], const double from[8], const double phi[4]) {
    for (int i = 0; i < 4; i++) {
        to[2 * i] = from[2 * i] * cos(phi[i]) - from[2 * i + 1] * sin(phi[i]);
        to[2 * i + 1] = from[2 * i] * sin(phi[i]) + from[2 * i + 1] * cos(phi[i]);
    }
}

/* One head of Mamba-3 (Lahoti et al. 2026), rank R: S_t = alpha S_{t-1} + beta sum v_{t-1} k_{t-1}
 * + gamma sum v_t k_t. */
static void mamba3_naive(const mamba3_inputs in3[T], int R, double D, double *want) {
    double S[3][8] = {{0}}, phi[4] = {0}, k[2][8], q[2][8], before[2][8] = {{0}};
    for (int t = 0; t < T; t++) {
        const mamba3_inputs *m = &in3[t];
        double alpha = exp(m->A * m->dt), beta = (1 - m->lam) * m->dt * alpha,
               gamma = m->lam * m->dt;
        for (int i = 0; i < 4; i++) phi[i] += m->dphi[i];
        for (int r = 0; r < R; r++) {
            rotate(k[r], m->k[r], phi);
            rotate(q[r], m->q[r], phi);
        }
        for (int c = 0; c < 3; c++)
            for (int n = 0; n < 8; n++) {
                S[c][n] *= alpha;
                for (int r = 0; r < R; r++)
                    S[c][n] += gamma * m->v[r][c] * k[r][n] +
                               (t ? beta * in3[t - 1].v[r][c] * before[r][n] : 0);
            }
        for (int r = 0; r < R; r++)
            for (int c = 0; c < 3; c++) {
                double y = D * m->v[r][c];
                for (int n = 0; n < 8; n++) y += S[c][n] * q[r][n];
                want[(t * R + r) * 3 + c] = y;
            }
        memcpy(before, k, sizeof k);
    }
}

/* The rows that both ways of feeding it share: x = (v_t, v_{t-1}), gain = (gamma, beta). */
static void mamba3_rows(problem *p, const mamba3_inputs in3[T], int R) {
    for (int t = 0; t < T; t++)
        for (int r = 0; r < R; r++) {
            const mamba3_inputs *m = &in3[t];
            double *gain = in(p, KR_SCAN_GAIN) + t * 2 * R, *x = in(p, KR_SCAN_X) + t * 2 * R * 3;
            gain[r] = m->lam * m->dt;
            gain[R + r] = (1 - m->lam) * m->dt * exp(m->A * m->dt);
            for (int c = 0; c < 3; c++) {
                x[r * 3 + c] = m->v[r][c];
                x[(R + r) * 3 + c] = t ? in3[t - 1].v[r][c] : 0;
            }
        }
}

static void mamba3(void **state) {
    (void)state;
    for (int R = 1; R <= 2; R++) {
        problem p;
        mamba3_inputs in3[T];
        double want[T * 2 * 3], phi[4] = {0}, before[4] = {0};
        bare(&p, krait_scan_mamba3(1, 3, 8, R), false, true);
        mamba3_draw(&p, in3);
        mamba3_naive(in3, R, in(&p, KR_SCAN_D)[0], want);
        mamba3_rows(&p, in3, R);
        for (int t = 0; t < T; t++) {
            for (int i = 0; i < 4; i++) phi[i] += in3[t].dphi[i];
            in(&p, KR_SCAN_A)[t] = in3[t].A * in3[t].dt;
            for (int r = 0; r < R; r++) {
                rotate(in(&p, KR_SCAN_B) + (t * 2 * R + r) * 8, in3[t].k[r], phi);
                rotate(in(&p, KR_SCAN_B) + (t * 2 * R + R + r) * 8, in3[t ? t - 1 : 0].k[r],
                       before);
                rotate(in(&p, KR_SCAN_C) + (t * R + r) * 8, in3[t].q[r], phi);
            }
            memcpy(before, phi, sizeof phi);
        }
        expect(R == 1 ? "Mamba-3, rotated outside" : "Mamba-3 of rank 2", &p, want, T * R * 3);
    }
}

static void put_complex(double *v, int N, int n, cplx value) {
    v[n] = creal(value);
    v[N + n] = cimag(value);
}

/* The same with the rotation inside the decay: in the frame that turns with phi, alpha e^{-i dphi}
 * is a complex decay, k_{t-1} turns back by dphi, and y = Re(sum h conj(q)). */
static void mamba3_complex(void **state) {
    (void)state;
    problem p;
    mamba3_inputs in3[T];
    double want[T * 3];
    krait_scan_desc d = krait_scan_mamba3(1, 3, 4, 1);
    d.complex_state = true;
    d.decay = KRAIT_DECAY_VECTOR;
    bare(&p, d, false, true);
    mamba3_draw(&p, in3);
    mamba3_naive(in3, 1, in(&p, KR_SCAN_D)[0], want);
    mamba3_rows(&p, in3, 1);
    for (int t = 0; t < T; t++)
        for (int i = 0; i < 4; i++) {
            const double *k = in3[t].k[0] + 2 * i, *old = in3[t ? t - 1 : 0].k[0] + 2 * i;
            const double *q = in3[t].q[0] + 2 * i;
            double *b = in(&p, KR_SCAN_B) + t * 16;
            put_complex(in(&p, KR_SCAN_A) + t * 8, 4, i, in3[t].A * in3[t].dt - I * in3[t].dphi[i]);
            put_complex(b, 4, i, k[0] + I * k[1]);
            put_complex(b + 8, 4, i, (old[0] + I * old[1]) * cexp(-I * in3[t].dphi[i]));
            put_complex(in(&p, KR_SCAN_C) + t * 8, 4, i, q[0] - I * q[1]);
        }
    expect("Mamba-3, rotation as a complex decay", &p, want, T * 3);
}

/* S4D (Gu et al. 2022): y = K * u with K_l = 2 Re sum C B (e^z - 1)/lambda e^{l z}, and
 * known numbers. */
static void s4d(void **state) {
    (void)state;
    static const double known[5] = {0.176858579, 0.122931072, 0.062396568, 0.001664341,
                                    -0.053447381};
    enum { H = 3, N = 4 };
    problem p;
    double want[T * H];
    bare(&p, krait_scan_s4d(H, N), false, true);
    problem_drop(&p, KR_SCAN_BIAS);
    for (int h = 0; h < H; h++) {
        double delta = in(&p, KR_SCAN_DT)[h];
        cplx w[N], z[N];
        for (int n = 0; n < N; n++) {
            cplx lambda = -0.5 + I * pi * (n + h), C = 1 + 0.5 * I + n;
            if (h == 0 && n == 0) lambda = -0.5 + I * pi;
            z[n] = delta * lambda;
            w[n] = C * (cexp(z[n]) - 1) / lambda;
            put_complex(in(&p, KR_SCAN_A) + h * 2 * N, N, n, lambda);
            put_complex(in(&p, KR_SCAN_B) + h * 2 * N, N, n, (cexp(z[n]) - 1) / lambda);
            put_complex(in(&p, KR_SCAN_C) + h * 2 * N, N, n, C);
        }
        for (int t = 0; t < T; t++) {
            double y = in(&p, KR_SCAN_D)[h] * in(&p, KR_SCAN_X)[t * H + h];
            for (int s = 0; s <= t; s++)
                for (int n = 0; n < N; n++)
                    y += 2 * creal(w[n] * cexp((t - s) * z[n])) * in(&p, KR_SCAN_X)[s * H + h];
            want[t * H + h] = y;
        }
    }
    expect("S4D, complex, against its convolution", &p, want, T * H);
    bare(&p, krait_scan_s4d(1, 1), false, false);
    problem_drop(&p, KR_SCAN_BIAS);
    in(&p, KR_SCAN_DT)[0] = 0.1;
    put_complex(in(&p, KR_SCAN_A), 1, 0, -0.5 + I * pi);
    put_complex(in(&p, KR_SCAN_B), 1, 0, (cexp(-0.05 + 0.1 * I * pi) - 1) / (-0.5 + I * pi));
    put_complex(in(&p, KR_SCAN_C), 1, 0, 1 + 0.5 * I);
    for (int t = 0; t < T; t++) in(&p, KR_SCAN_X)[t] = t == 0;
    problem_forward(&p, KR_LEVEL_REF64);
    for (int t = 0; t < 5; t++)
        assert_true(fabs(get(&p.forward.out[KR_SCAN_OUT_Y], t) - known[t]) < 1e-9);
    problem_free(&p);
}

/* LRU (Orvieto et al. 2023) in lane form, and known numbers. */
static void lru(void **state) {
    (void)state;
    static const cplx known[4] = {0.425757263, 1.189595399 + 0.184694423 * I,
                                  0.438743367 + 0.662709277 * I, 0.060908023 + 0.716565074 * I};
    enum { N = 4 };
    problem p;
    double want[T * 2 * N];
    cplx h[N] = {0}, lambda[N];
    bare(&p, krait_scan_lru(N), false, false);
    for (int n = 0; n < N; n++) {
        cplx log = -0.1 - 0.2 * n + I * (0.5 + n);
        lambda[n] = cexp(log);
        put_complex(in(&p, KR_SCAN_A), N, n, log);
    }
    for (int t = 0; t < 4; t++)
        put_complex(in(&p, KR_SCAN_X) + t * 2 * N, N, 0, 0.425757263 * (double[]){1, 2, -1, 0}[t]);
    for (int t = 0; t < T; t++)
        for (int n = 0; n < N; n++) {
            const double *v = in(&p, KR_SCAN_X) + t * 2 * N;
            h[n] = lambda[n] * h[n] + v[n] + I * v[N + n];
            put_complex(want + t * 2 * N, N, n, h[n]);
            if (n == 0 && t < 4) assert_true(cabs(h[0] - known[t]) < 2e-9);
        }
    expect("LRU, complex lanes", &p, want, T * 2 * N);
}

/* Linear attention (Katharopoulos et al. 2020): y_t = (sum_s phi(k_s) v_s . phi(q_t)) / (sum_s
 * phi(k_s) . phi(q_t)), by a column of ones. */
static void linear_attention(void **state) {
    (void)state;
    enum { H = 2, P = 3, N = 4, X = P + 1 };
    problem p;
    double want[T * H * X];
    bare(&p, krait_scan_linear_attention(H, X, N), false, false);
    const double *k = in(&p, KR_SCAN_B), *q = in(&p, KR_SCAN_C), *v = in(&p, KR_SCAN_X);
    for (int i = 0; i < T * H; i++) in(&p, KR_SCAN_X)[i * X + P] = 1;
    for (int i = 0; i < T * H * N; i++) {
        in(&p, KR_SCAN_B)[i] = exp(k[i]);
        in(&p, KR_SCAN_C)[i] = exp(q[i]);
    }
    for (int t = 0; t < T; t++)
        for (int h = 0; h < H; h++) {
            double sum[X] = {0};
            for (int s = 0; s <= t; s++) {
                double score = 0;
                for (int n = 0; n < N; n++)
                    score += q[(t * H + h) * N + n] * k[(s * H + h) * N + n];
                for (int c = 0; c < P; c++) sum[c] += score * v[(s * H + h) * X + c];
                sum[P] += score;
            }
            memcpy(want + (t * H + h) * X, sum, sizeof sum);
        }
    expect("linear attention with normaliser column", &p, want, T * H * X);
}

/* y_t = sum_s gamma^(t-s) (q_t e^{it theta}) . conj(k_s e^{is theta}) v_s: real with rotated keys,
 * and complex with the rotation in the decay. */
static void retnet(void **state) {
    (void)state;
    enum { N = 4, P = 2 };
    for (int turn = 0; turn < 2; turn++) {
        problem p;
        double want[T * P], gamma = 1 - 0x1p-5;
        krait_scan_desc d = krait_scan_retnet(1, P, turn ? N / 2 : N);
        d.complex_state = turn;
        if (turn) d.decay = KRAIT_DECAY_VECTOR;
        bare(&p, d, false, false);
        double k[T][N], q[T][N];
        for (int t = 0; t < T; t++)
            for (int n = 0; n < N; n++) {
                k[t][n] = 2 * kr_rng_uniform(&p.rng) - 1;
                q[t][n] = 2 * kr_rng_uniform(&p.rng) - 1;
            }
        if (!turn) in(&p, KR_SCAN_A)[0] = gamma;
        for (int t = 0; t < T; t++) {
            for (int i = 0; i < N / 2; i++) {
                cplx kt = k[t][2 * i] + I * k[t][2 * i + 1], qt = q[t][2 * i] + I * q[t][2 * i + 1];
                cplx spin = cexp(I * ((double)t * (1.0 + i)));
                double *b = in(&p, KR_SCAN_B) + t * N, *c = in(&p, KR_SCAN_C) + t * N;
                if (turn) {
                    put_complex(in(&p, KR_SCAN_A), N / 2, i, gamma * cexp(I * (1.0 + i)));
                    put_complex(b, N / 2, i, conj(kt));
                    put_complex(c, N / 2, i, qt);
                } else {
                    b[2 * i] = creal(kt * spin), b[2 * i + 1] = cimag(kt * spin);
                    c[2 * i] = creal(qt * spin), c[2 * i + 1] = cimag(qt * spin);
                }
            }
            for (int c = 0; c < P; c++) want[t * P + c] = 0;
            for (int s = 0; s <= t; s++) {
                double score = 0;
                for (int i = 0; i < N / 2; i++)
                    score += creal((q[t][2 * i] + I * q[t][2 * i + 1]) *
                                   cexp(I * ((double)(t - s) * (1.0 + i))) *
                                   (k[s][2 * i] - I * k[s][2 * i + 1]));
                for (int c = 0; c < P; c++)
                    want[t * P + c] += pow(gamma, t - s) * score * in(&p, KR_SCAN_X)[s * P + c];
            }
        }
        expect(turn ? "RetNet, rotation as a complex decay" : "RetNet", &p, want, T * P);
    }
}

/* score[t][s] = sum_n q_tn k_sn exp(sum of log alpha over s+1..t). */
static void gla(void **state) {
    (void)state;
    enum { N = 5, P = 3 };
    problem p;
    double want[T * P] = {0};
    bare(&p, krait_scan_gla(1, P, N), false, false);
    for (int t = 0; t < T; t++)
        for (int n = 0; n < N; n++) {
            double log_a = 0;
            for (int s = t; s >= 0; s--) {
                double qk = in(&p, KR_SCAN_C)[t * N + n] * in(&p, KR_SCAN_B)[s * N + n];
                for (int c = 0; c < P; c++)
                    want[t * P + c] += qk * exp(log_a) * in(&p, KR_SCAN_X)[s * P + c];
                log_a += in(&p, KR_SCAN_A)[s * N + n];
            }
        }
    expect("GLA, against its attention form", &p, want, T * P);
}

/* HGRN: h_t = f_t h_{t-1} + (1 - f_t) i_t on P lanes, f given as its logarithm. */
static void hgrn(void **state) {
    (void)state;
    enum { P = 5 };
    problem p;
    double want[T * P], h[P] = {0};
    krait_scan_desc d = krait_scan_mamba1(P, 1);
    d.form = KRAIT_FORM_LOG;
    d.gain = KRAIT_GAIN_ONE;
    d.a_constant = d.dt_softplus = false;
    d.b_constant = d.c_constant = true;
    bare(&p, d, false, false);
    in(&p, KR_SCAN_B)[0] = in(&p, KR_SCAN_C)[0] = 1;
    for (int i = 0; i < T * P; i++) {
        double f = exp(in(&p, KR_SCAN_A)[i]), value = in(&p, KR_SCAN_X)[i];
        in(&p, KR_SCAN_X)[i] = (1 - f) * value;
        want[i] = h[i % P] = f * h[i % P] + (1 - f) * value;
    }
    expect("HGRN lanes", &p, want, T * P);
}

/* RWKV: y_t = (h_{t-1} + diag(u) k_t v_t)^T r_t; the bonus is added outside. */
static void rwkv(void **state) {
    (void)state;
    enum { N = 4, P = 3 };
    problem p;
    double want[T * P], h[P][N] = {{0}}, bonus[T * P];
    krait_scan_desc d = krait_scan_gla(1, P, N);
    d.read = KRAIT_READ_BEFORE;
    bare(&p, d, false, false);
    for (int t = 0; t < T; t++)
        for (int c = 0; c < P; c++) {
            double v = in(&p, KR_SCAN_X)[t * P + c], y = 0;
            bonus[t * P + c] = 0;
            for (int n = 0; n < N; n++) {
                double k = in(&p, KR_SCAN_B)[t * N + n], r = in(&p, KR_SCAN_C)[t * N + n];
                double u = 0.3 + n;
                y += (h[c][n] + u * k * v) * r;
                bonus[t * P + c] += u * k * v * r;
                h[c][n] = exp(in(&p, KR_SCAN_A)[t * N + n]) * h[c][n] + k * v;
            }
            want[t * P + c] = y - bonus[t * P + c];
        }
    expect("RWKV-6, reading before the write", &p, want, T * P);
}

/* Mega (Ma et al. 2022), the damped average: h_t = (1 - alpha delta) h_{t-1} + alpha beta x_t,
 * y_t = eta . h_t, for each channel. */
static void mega(void **state) {
    (void)state;
    enum { H = 3, N = 4 };
    problem p;
    double want[T * H] = {0};
    krait_scan_desc d = krait_scan_gla(H, 1, N);
    d.form = KRAIT_FORM_GIVEN;
    d.a_constant = d.b_constant = d.c_constant = true;
    bare(&p, d, false, false);
    for (int i = 0; i < H * N; i++) {
        double alpha = sigmoid(0.3 * i - 1), delta = sigmoid(1 - 0.2 * i), h = 0;
        double beta = in(&p, KR_SCAN_B)[i];
        in(&p, KR_SCAN_A)[i] = 1 - alpha * delta;
        in(&p, KR_SCAN_B)[i] = alpha * beta;
        for (int t = 0; t < T; t++) {
            h = (1 - alpha * delta) * h + alpha * beta * in(&p, KR_SCAN_X)[t * H + i / N];
            want[t * H + i / N] += in(&p, KR_SCAN_C)[i] * h;
        }
    }
    expect("Mega, damped average", &p, want, T * H);
}

/* S5 (Smith et al. 2023): lanes that all channels share, h_t = exp(delta lambda) h_{t-1} + B u_t,
 * y = 2 Re(C h): the lanes are an LRU's, and B and C products beside them. */
static void s5(void **state) {
    (void)state;
    enum { N = 4, H = 3 };
    problem p;
    double u[T][H], want[T][H] = {{0}}, worst = 0;
    cplx h[N] = {0}, lambda[N], B[N][H], C[H][N];
    bare(&p, krait_scan_lru(N), false, false);
    for (int n = 0; n < N; n++) {
        lambda[n] = -0.5 + I * pi * (n + 0.5);
        put_complex(in(&p, KR_SCAN_A), N, n, 0.1 * lambda[n]);
        for (int i = 0; i < H; i++) {
            B[n][i] =
                (cexp(0.1 * lambda[n]) - 1) / lambda[n] * (cos(n + 2 * i) + I * sin(3 * n - i));
            C[i][n] = sin(2 * n + i) + I * cos(n - 2 * i);
        }
    }
    for (int t = 0; t < T; t++)
        for (int n = 0; n < N; n++) {
            cplx v = 0;
            for (int i = 0; i < H; i++) v += B[n][i] * (u[t][i] = sin(t * (i + 1.3)));
            put_complex(in(&p, KR_SCAN_X) + t * 2 * N, N, n, v);
            h[n] = cexp(0.1 * lambda[n]) * h[n] + v;
            for (int i = 0; i < H; i++) want[t][i] += 2 * creal(C[i][n] * h[n]);
        }
    problem_forward(&p, KR_LEVEL_REF64);
    const double *y = p.forward.out[KR_SCAN_OUT_Y].data;
    for (int t = 0; t < T; t++)
        for (int i = 0; i < H; i++) {
            double is = 0;
            for (int n = 0; n < N; n++)
                is += 2 * creal(C[i][n] * (y[t * 2 * N + n] + I * y[t * 2 * N + N + n]));
            worst = kr_worst(worst, fabs(is - want[t][i]));
        }
    print_message("%-44s off by %.1e\n", "S5, lanes that channels share", worst);
    assert_true(worst < 1e-12);
    problem_free(&p);
}

/* ---- MILA (Han et al. 2024), not causal, on a map of ROWS by COLUMNS tokens ---- */

enum { ROWS = 3, COLUMNS = 4, CELLS = ROWS * COLUMNS, WIDE = 8, HEADS = 2, EACH = WIDE / HEADS };

/* Turns the WIDE channels of the token at (row, column): pairs (2p, 2p+1), the first half by the
 * row, the second by the column. */
static void turn_map(const double *from, int row, int column, double *to) {
    for (int q = 0; q < WIDE / 2; q++) {
        int quarter = WIDE / 4;
        double angle = (q < quarter ? row : column) * pow(10000, -(double)(q % quarter) / quarter);
        to[2 * q] = from[2 * q] * cos(angle) - from[2 * q + 1] * sin(angle);
        to[2 * q + 1] = from[2 * q] * sin(angle) + from[2 * q + 1] * cos(angle);
    }
}

typedef struct map {
    double q[CELLS][WIDE], k[CELLS][WIDE], v[CELLS][WIDE], qr[CELLS][WIDE], kr[CELLS][WIDE];
} map;

static void draw_map(map *m) {
    kr_rng rng = kr_rng_make(2, 9);
    for (int t = 0; t < CELLS; t++) {
        for (int i = 0; i < WIDE; i++) {
            m->q[t][i] = exp(kr_rng_normal(&rng));
            m->k[t][i] = exp(kr_rng_normal(&rng));
            m->v[t][i] = kr_rng_normal(&rng);
        }
        turn_map(m->q[t], t / COLUMNS, t % COLUMNS, m->qr[t]);
        turn_map(m->k[t], t / COLUMNS, t % COLUMNS, m->kr[t]);
    }
}

/* Check 4's form, all pairs of tokens: o_i = sum_j (qr_i.kr_j) V_j / (sum_j q_i.k_j + n 1e-6). */
static void all_pairs(const map *m, double want[CELLS][WIDE]) {
    for (int i = 0; i < CELLS; i++)
        for (int c = 0; c < WIDE; c++) {
            int first = c / EACH * EACH;
            double sum = 0, weights = CELLS * 1e-6;
            for (int j = 0; j < CELLS; j++)
                for (int n = first; n < first + EACH; n++) {
                    sum += m->qr[i][n] * m->kr[j][n] * m->v[j][c];
                    weights += m->q[i][n] * m->k[j][n];
                }
            want[i][c] = sum / weights;
        }
}

/* sum over all rows of x (x) b, read by c at every row: [CELLS,HEADS,width]. */
static void read_all(const double x[][WIDE], double b[][WIDE], double c[][WIDE], int width,
                     double *y) {
    static double ones[CELLS * HEADS];
    krait_scan_desc d = krait_scan_linear_attention(HEADS, width, EACH);
    d.read = KRAIT_READ_FINAL;
    int64_t seqs[3] = {0, CELLS, 0};
    double scratch[64];
    for (int i = 0; i < CELLS * HEADS; i++) ones[i] = 1;
    const void *data[] = {x ? (const void *)x : ones, b, c};
    const int at[] = {KR_SCAN_X, KR_SCAN_B, KR_SCAN_C}, wide[] = {HEADS * width, WIDE, WIDE};
    kr_call call = {.attr = &d, .n_in = KR_SCAN_INS, .n_out = 1, .threads = 1, .scratch = scratch};
    for (int i = 0; i < 3; i++)
        call.in[at[i]] =
            kr_tensor_make((void *)(uintptr_t)data[i], KR_F64, 2, (int64_t[]){CELLS, wide[i]});
    call.in[KR_SCAN_SEQS] = kr_tensor_make(seqs, KR_I64, 2, (int64_t[]){1, 3});
    call.out[0] = kr_tensor_make(y, KR_F64, 2, (int64_t[]){CELLS, HEADS * width});
    kr_op_kernel(&kr_op_scan, KR_LEVEL_REF64)(&call);
}

/* The engine's way: one scan of values, one of ones, and a division. */
static double by_scans(map *m, double zb[][WIDE], double zc[][WIDE], const double v[][WIDE],
                       double want[CELLS][WIDE]) {
    static double kv[CELLS * WIDE], z[CELLS * HEADS];
    double worst = 0, size = 0;
    read_all(v, m->kr, m->qr, EACH, kv);
    read_all(NULL, zb, zc, 1, z);
    for (int i = 0; i < CELLS * WIDE; i++) {
        double is = kv[i] / (z[i / EACH] + CELLS * 1e-6), to = want[i / WIDE][i % WIDE];
        worst = kr_worst(worst, fabs(is - to));
        size = fmax(size, fabs(to));
    }
    return worst / size;
}

static void mila(void **state) {
    (void)state;
    static map m, twice;
    static double want[CELLS][WIDE], moved[WIDE];
    draw_map(&m);
    all_pairs(&m, want);
    double exact = by_scans(&m, m.k, m.q, m.v, want), turned = by_scans(&m, m.kr, m.qr, m.v, want);
    double projected = by_scans(&m, m.k, m.q, m.k, want);
    twice = m; /* angles counted within a head, not over the whole width */
    for (int t = 0; t < CELLS; t++)
        for (int i = 0; i < WIDE; i += 2) {
            double angle = (i % EACH < EACH / 2 ? t / COLUMNS : t % COLUMNS);
            twice.kr[t][i] = m.k[t][i] * cos(angle) - m.k[t][i + 1] * sin(angle);
            twice.kr[t][i + 1] = m.k[t][i] * sin(angle) + m.k[t][i + 1] * cos(angle);
        }
    double by_head = by_scans(&twice, m.k, m.q, m.v, want);
    print_message("mila.md 4: all pairs of tokens: off by %.1e\n", exact);
    print_message("mila.md 3: turned keys in z %.2g, angles by head %.2g, other values %.2g\n",
                  turned, by_head, projected);
    assert_true(exact < 1e-12 && turned > 1e-2 && by_head > 1e-2 && projected > 1e-2);
    turn_map(m.k[0], 0, 0, moved);
    assert_memory_equal(moved, m.k[0], sizeof moved);
    for (int i = 0; i < WIDE; i++) {
        double other[WIDE];
        turn_map(m.k[0], 2, 1, moved);
        turn_map(m.k[0], 2, 3, other); /* another column */
        assert_true((moved[i] == other[i]) == (i < WIDE / 2));
    }
    print_message("mila.md 7: (0,0) turns nothing, the first half follows the row alone\n");
}

/* mamba2.md check 3 (Dao & Gu 2024): with A equal over n and delta equal over the channels of a
 * head, Mamba is Mamba-2. */
static void mamba2_is_mamba1(void **state) {
    (void)state;
    enum { E = 6, N = 4 };
    problem one, two;
    bare(&one, krait_scan_mamba1(E, N), false, true);
    bare(&two, krait_scan_mamba2(E, 1, N, 1), false, true);
    for (int e = 0; e < E; e++)
        for (int n = 0; n < N; n++) in(&one, KR_SCAN_A)[e * N + n] = in(&two, KR_SCAN_A)[e];
    for (int i = 0; i < KR_SCAN_SEQS; i++)
        if (i != KR_SCAN_A && one.forward.in[i].data)
            memcpy(in(&two, i), in(&one, i), kr_tensor_bytes(&two.forward.in[i]));
    problem_forward(&one, KR_LEVEL_REF64);
    expect("Mamba-2 with P = 1 is Mamba", &two, one.forward.out[0].data, T * E);
    problem_free(&one);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mamba1),
        cmocka_unit_test(mamba2),
        cmocka_unit_test(mamba3),
        cmocka_unit_test(mamba3_complex),
        cmocka_unit_test(s4d),
        cmocka_unit_test(lru),
        cmocka_unit_test(linear_attention),
        cmocka_unit_test(retnet),
        cmocka_unit_test(gla),
        cmocka_unit_test(hgrn),
        cmocka_unit_test(rwkv),
        cmocka_unit_test(mega),
        cmocka_unit_test(s5),
        cmocka_unit_test(mila),
        cmocka_unit_test(mamba2_is_mamba1),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
