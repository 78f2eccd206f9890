/* scan_arrays.c - the recurrence alone, on plain arrays: a running average with a decay that is
 * then fitted by its gradient.
 *   cc scan_arrays.c $(pkg-config --cflags --libs krait) && ./a.out
 *
 * h_t = a h_{t-1} + x_t,   y_t = h_t: one head of width 1 and state 1, a given and constant. The
 * target is the same average with a = 0.9; gradient descent on mean (y - target)^2 finds it. */
#include <krait/scan.h>
#include <stdio.h>

#define T 200

static krait_error error;

static int average(float a, const float *x, float *y) {
    static const float one = 1;
    krait_scan_desc d = krait_scan_retnet(1, 1, 1);
    d.b_constant = d.c_constant = true;
    krait_scan_arrays arrays = {.rows = T, .x = x, .a = &a, .b = &one, .c = &one, .y = y};
    return krait_scan_run(&d, &arrays, 1, &error);
}

/* d loss / d a, given dy. */
static int slope(float a, const float *x, const float *dy, float *da) {
    static const float one = 1;
    krait_scan_desc d = krait_scan_retnet(1, 1, 1);
    d.b_constant = d.c_constant = true;
    krait_scan_arrays arrays = {.rows = T, .x = x, .a = &a, .b = &one, .c = &one};
    krait_scan_gradients gradients = {.dy = dy, .da = da};
    return krait_scan_gradient(&d, &arrays, &gradients, 1, &error);
}

int main(void) {
    float x[T], y[T], target[T], dy[T], a = 0.5F, da;
    for (int t = 0; t < T; t++) x[t] = (float)(t * 37 % 19) / 19 - 0.5F;
    int rc = average(0.9F, x, target);
    for (int step = 0; rc == 0 && step < 40; step++) {
        double loss = 0;
        rc = average(a, x, y);
        for (int t = 0; t < T; t++) {
            loss += (y[t] - target[t]) * (y[t] - target[t]) / T;
            dy[t] = 2 * (y[t] - target[t]) / T;
        }
        if (step % 5 == 0) printf("step %2d  a = %.4f  loss %.2e\n", step, (double)a, loss);
        if (rc == 0) rc = slope(a, x, dy, &da);
        a -= 0.05F * da;
    }
    if (rc) return puts(error.message), 1;
    printf("found     a = %.4f, which was 0.9\n", (double)a);
    return 0;
}
