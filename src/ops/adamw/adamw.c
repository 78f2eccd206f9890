/* adamw.c - shape rule and checker cases of the AdamW step; adamw.h has the equations. */
#include "ops/adamw/adamw.h"

#include <math.h>

#include "base/err.h"

kr_adamw_factors kr_adamw_factors_of(const kr_adamw_attr *a) {
    double t = (double)a->step;
    return (kr_adamw_factors){
        .keep = 1 - a->rate * a->decay,
        .rate = a->rate / (1 - pow(a->beta1, t)),
        .unbias2 = 1 / (1 - pow(a->beta2, t)),
    };
}

static int shape(const kr_call *c, kr_tensor *out, krait_error *e) {
    static const char *const names[] = {"w", "m", "v", "g"};
    for (int i = 0; i < 4; i++) {
        KR_TRY(kr_need_rank("adamw", names[i], &c->in[i], 1, e));
        KR_TRY(kr_need_dim("adamw", names[i], &c->in[i], 0, c->in[0].shape[0], e));
    }
    for (int i = 0; i < 3; i++) out[i] = kr_tensor_make(NULL, c->in[i].dtype, 1, c->in[0].shape);
    if (c->n_out > 3 && c->out[3].data) out[3] = kr_tensor_make(NULL, KR_BF16, 1, c->in[0].shape);
    return 0;
}

static void cost(const kr_call *c, double *flops, double *bytes) {
    double n = (double)kr_tensor_count(&c->in[0]);
    *flops = 15 * n;
    *bytes = (c->out[3].data ? 30 : 28) * n;
}

static bool cases(int index, kr_case *k) {
    static const int64_t sizes[] = {1, 17, 63, 1000, 20011};
    static const kr_adamw_attr attr[] = {{1e-3, 0.9, 0.95, 1e-8, 0.1, 1, 1},
                                         {3e-3, 0.9, 0.999, 1e-8, 0, 0.25, 1000}};
    if (index >= 10) return false;
    k->name = index % 2 ? "step 1000, scaled, no decay" : "step 1, decay";
    k->n_in = 4;
    k->n_out = 4;
    k->out_absent[3] = index % 4 == 1;
    k->out_rounded = 1 << 3;
    for (int i = 0; i < 4; i++) {
        k->in[i] = kr_tensor_make(NULL, KR_F32, 1, &sizes[index / 2]);
        k->fill[i].a = 1;
    }
    k->fill[2].kind = KR_FILL_UNIFORM;
    k->fill[2].a = 1e-3;
    k->fill[2].b = 2;
    k->attr = &attr[index % 2];
    k->attr_size = sizeof attr[0];
    return true;
}

KR_DECLARE_KERNEL(kr_adamw);

const kr_op kr_op_adamw = {
    .name = "adamw",
    .shape = shape,
    .cost = cost,
    .cases = cases,
    .n_in = 4,
    .n_out = 4,
    .no_accumulate = 15,
    .inplace = 7,
    .kernel = KR_KERNELS_GPU(kr_adamw),
};
