/* s4d_views.c - one S4D system seen three ways: as a recurrence, as a convolution, and as a system
 * in continuous time whose weights serve data sampled at any rate.
 *   cc s4d_views.c $(pkg-config --cflags --libs krait) -lm && ./a.out
 *
 *   K(t) = 2 Re sum_n C_n exp(lambda_n t),   lambda_n = -1/2 + i pi n
 *
 * Behind a hold of one step delta, an impulse of area 1 gives the mean of K over each step. C is
 * chosen so that the system hears a tone of 2.5 Hz 0.7 s back. Each line: the view, a time in s,
 * and K there. */
#include <complex.h>
#include <krait/scan.h>
#include <math.h>
#include <stdio.h>

#define N 16 /* modes stored */
#define T 96 /* steps at the finer rate */
#define PI 3.14159265358979

static krait_error error;

static double complex lambda(int n) { return -0.5 + I * PI * n; }
static double complex readout(int n) {
    return 0.1 * exp(-0.04 * (n - 5) * (n - 5)) * cexp(-I * PI * n * 0.7);
}

static double kernel(double t) {
    double sum = 0;
    for (int n = 0; n < N; n++) sum += 2 * creal(readout(n) * cexp(lambda(n) * t));
    return sum;
}

/* The answer of the system to an impulse: all steps in one call (a convolution), or each in a call
 * of its own (the recurrence), the state handed on. */
static int respond(double delta, int steps, int at_once, float *y) {
    krait_scan_desc d = krait_scan_s4d(1, N);
    float a[2 * N], b[2 * N], c[2 * N], state[2 * N] = {0}, dt = (float)delta, x[T] = {0};
    for (int n = 0; n < N; n++) {
        double complex held = (cexp(lambda(n) * delta) - 1) / lambda(n); /* of the input, B = 1 */
        a[n] = (float)creal(lambda(n)), a[N + n] = (float)cimag(lambda(n));
        b[n] = (float)creal(held), b[N + n] = (float)cimag(held);
        c[n] = (float)creal(readout(n)), c[N + n] = (float)cimag(readout(n));
    }
    x[0] = (float)(1 / delta);
    int rc = 0, part = at_once ? steps : 1;
    for (int t = 0; rc == 0 && t < steps; t += part) {
        krait_scan_arrays arrays = {.rows = part,
                                    .slots = 1,
                                    .x = x + t,
                                    .dt = &dt,
                                    .a = a,
                                    .b = b,
                                    .c = c,
                                    .state = state,
                                    .y = y + t};
        rc = krait_scan_run(&d, &arrays, 1, &error);
    }
    return rc;
}

static void print(const char *view, double delta, int steps, const float *y) {
    for (int k = 0; k < steps; k++) printf("%s %.5f %.6f\n", view, (k + 0.5) * delta, (double)y[k]);
}

int main(void) {
    static float step[T], whole[T], finer[T];
    const double delta = 2.0 / (T / 2);
    double worst = 0;
    if (respond(delta, T / 2, 0, step) < 0 || respond(delta, T / 2, 1, whole) < 0 ||
        respond(delta / 2, T, 1, finer) < 0)
        return puts(error.message), 1;
    print("recurrence", delta, T / 2, step);
    print("convolution", delta, T / 2, whole);
    print("finer", delta / 2, T, finer);
    for (int i = 0; i <= 400; i++) printf("continuous %.5f %.6f\n", i * 0.005, kernel(i * 0.005));
    for (int k = 0; k < T / 2; k++) worst = fmax(worst, fabs((double)(step[k] - whole[k])));
    fprintf(stderr, "recurrence and convolution differ by at most %.1e\n", worst);
    return worst > 1e-5;
}
