/* elementwise_ref.c - functions over every element, scalar. elementwise.h has the contract. */
#include "ops/op_ref.h"

#include <math.h>

#include "ops/elementwise/elementwise.h"
#include "ops/rows.h"

/* ---- the functions and their derivatives ---- */

static double f_identity(double x) { return x; }
static double slope_identity(double x) { return x == x ? 1 : x; }

static double f_exp(double x) { return exp(x); }
static double slope_exp(double x) { return exp(x); }

static double f_sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double slope_sigmoid(double x) { return f_sigmoid(x) * f_sigmoid(-x); }

static double f_tanh(double x) { return tanh(x); }
static double slope_tanh(double x) { return 1 - tanh(x) * tanh(x); }

static double f_relu(double x) { return x > 0 ? x : x == x ? 0 : x; }
static double slope_relu(double x) { return x > 0; }

static double f_silu(double x) { return x * f_sigmoid(x); }
static double slope_silu(double x) { return f_sigmoid(x) * (1 + x * f_sigmoid(-x)); }

/* x/2 (1 + tanh(s)) = x sigmoid(2 s), s = sqrt(2/pi) (x + 0.044715 x^3) */
static double gelu_inner(double x) { return 1.5957691216057308 * (x + 0.044715 * x * x * x); }
static double f_gelu(double x) { return x * f_sigmoid(gelu_inner(x)); }
static double slope_gelu(double x) {
    double inner = gelu_inner(x), s = f_sigmoid(inner);
    return s + x * s * (1 - s) * 1.5957691216057308 * (1 + 3 * 0.044715 * x * x);
}

/* x Phi(x), Phi the normal distribution */
static double f_gelu_erf(double x) { return 0.5 * x * erfc(-x * 0.70710678118654752); }
static double slope_gelu_erf(double x) {
    return 0.5 * erfc(-x * 0.70710678118654752) + x * exp(-x * x / 2) * 0.39894228040143268;
}

/* ln(1 + e^x), and ln sigmoid(x) */
static double f_softplus(double x) { return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x)); }
static double slope_softplus(double x) { return f_sigmoid(x); }

static double f_logsigmoid(double x) { return -f_softplus(-x); }
static double slope_logsigmoid(double x) { return f_sigmoid(-x); }

/* elu(x) + 1: positive */
static double f_elu1(double x) { return x > 0 ? x + 1 : exp(x); }
static double slope_elu1(double x) { return x > 0 ? 1 : exp(x); }

typedef double function(double x);

static function *function_of(const kr_call *c) {
    static function *const all[] = {
#define KR_FUNCTION(NAME, name) f_##name,
#include "ops/elementwise/functions.def"
#undef KR_FUNCTION
    };
    return all[((const kr_elementwise_attr *)c->attr)->f];
}

static function *slope_of(const kr_call *c) {
    static function *const all[] = {
#define KR_FUNCTION(NAME, name) slope_##name,
#include "ops/elementwise/functions.def"
#undef KR_FUNCTION
    };
    return all[((const kr_elementwise_attr *)c->attr)->f];
}

/* ---- over all elements ---- */

static const real *row(const kr_tensor *t, int64_t m) {
    return (const real *)t->data + m * t->stride[0];
}

static real *out_row(const kr_tensor *t, int64_t m) { return (real *)t->data + m * t->stride[0]; }

void KR_FN(kr_map)(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *y = &c->out[0];
    kr_rows rows = kr_rows_of(x, y, y);
    function *f = function_of(c);
    for (int64_t m = 0; m < rows.count; m++)
        for (int64_t i = 0; i < rows.width; i++)
            kr_put(out_row(y, m) + i, f((double)row(x, m)[i]), KR_ACC(c, 0));
}

void KR_FN(kr_map_grad)(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *x = &c->in[1], *dx = &c->out[0];
    kr_rows rows = kr_rows_of(dy, x, dx);
    function *slope = slope_of(c);
    for (int64_t m = 0; m < rows.count; m++)
        for (int64_t i = 0; i < rows.width; i++)
            kr_put(out_row(dx, m) + i, (double)row(dy, m)[i] * slope((double)row(x, m)[i]),
                   KR_ACC(c, 0));
}

void KR_FN(kr_gate)(const kr_call *c) {
    const kr_tensor *a = &c->in[0], *b = &c->in[1], *y = &c->out[0];
    kr_rows rows = kr_rows_of(a, b, y);
    function *f = function_of(c);
    for (int64_t m = 0; m < rows.count; m++)
        for (int64_t i = 0; i < rows.width; i++)
            kr_put(out_row(y, m) + i, (double)row(a, m)[i] * f((double)row(b, m)[i]), KR_ACC(c, 0));
}

void KR_FN(kr_gate_grad)(const kr_call *c) {
    const kr_tensor *dy = &c->in[0], *a = &c->in[1], *b = &c->in[2];
    function *f = function_of(c), *slope = slope_of(c);
    for (int k = 0; k < 2; k++) {
        const kr_tensor *to = &c->out[k];
        if (!to->data) continue;
        kr_rows all = kr_rows_of(dy, a, b), mine = kr_rows_of(dy, to, to);
        kr_rows rows = all.count > mine.count ? all : mine;
        for (int64_t m = 0; m < rows.count; m++)
            for (int64_t i = 0; i < rows.width; i++) {
                double d = (double)row(dy, m)[i], x = (double)row(b, m)[i];
                kr_put(out_row(to, m) + i, k ? d * (double)row(a, m)[i] * slope(x) : d * f(x),
                       KR_ACC(c, k));
            }
    }
}
