/* norm_rules_test.c - what rmsnorm and layernorm refuse of their rows and residual. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "ops/layernorm/layernorm.h"
#include "ops/rmsnorm/rmsnorm.h"

static const int64_t rows[] = {3, 4}, width[] = {4}, fewer[] = {2, 4}, other[] = {3, 5};
static char memory[1]; /* shape rules look at no numbers */

static kr_tensor of(kr_dtype type, int rank, const int64_t *shape) {
    return kr_tensor_make(memory, type, rank, shape);
}

static int shape_of(const kr_op *op, kr_dtype x, kr_tensor residual, kr_dtype *sum,
                    krait_error *e) {
    kr_layernorm_attr layernorm = {.eps = 1e-5};
    kr_rmsnorm_attr rmsnorm = {.eps = 1e-5};
    kr_tensor out[KR_MAX_OUT];
    kr_call c = {.n_in = op->n_in, .n_out = op->n_out};
    c.attr = op == &kr_op_rmsnorm ? (const void *)&rmsnorm : &layernorm;
    c.in[0] = of(x, 2, rows);
    c.in[1] = residual;
    for (int i = 2; i < op->n_in; i++) c.in[i] = of(KR_F32, 1, width);
    memset(out, 0, sizeof out);
    int rc = op->shape(&c, out, e);
    *sum = out[1].dtype;
    return rc;
}

static void refused(const kr_op *op, kr_dtype x, kr_tensor residual) {
    krait_error e = {.message = ""};
    kr_dtype sum;
    assert_int_equal(shape_of(op, x, residual, &sum, &e), KRAIT_ERR_SHAPE);
    printf("%s\n", e.message);
    assert_non_null(strstr(e.message, op->name));
    assert_non_null(strstr(e.message, "residual"));
}

/* Kernels read the residual in the type of the sum, whatever that of x is. */
static void the_residual_fits(void **state) {
    (void)state;
    const kr_op *const ops[] = {&kr_op_rmsnorm, &kr_op_layernorm};
    for (int i = 0; i < 2; i++) {
        kr_dtype sum;
        krait_error e;
        assert_int_equal(shape_of(ops[i], KR_F32, of(KR_F32, 2, rows), &sum, &e), 0);
        assert_int_equal(sum, KR_F32);
        assert_int_equal(shape_of(ops[i], KR_BF16, of(KR_F32, 2, rows), &sum, &e), 0);
        assert_int_equal(sum, KR_F32);
        assert_int_equal(shape_of(ops[i], KR_F64, of(KR_F64, 2, rows), &sum, &e), 0);
        assert_int_equal(sum, KR_F64);
        refused(ops[i], KR_BF16, of(KR_BF16, 2, rows));
        refused(ops[i], KR_F32, of(KR_BF16, 2, rows));
        refused(ops[i], KR_F32, of(KR_F64, 2, rows));
        refused(ops[i], KR_F64, of(KR_F32, 2, rows));
        refused(ops[i], KR_F32, of(KR_F32, 2, fewer));
        refused(ops[i], KR_F32, of(KR_F32, 2, other));
        refused(ops[i], KR_F32, of(KR_F32, 1, width));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_residual_fits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
