/* op_list.c - the list of ops, from ops.def. */
#include <string.h>

#include "base/err.h"
#include "ops/op.h"

#define KR_OP(name) extern const kr_op kr_op_##name;
#include "ops/ops.def"
#undef KR_OP

#define KR_OP(name) &kr_op_##name,
const kr_op *const kr_ops[] = {
#include "ops/ops.def"
    NULL};
#undef KR_OP

const kr_op *kr_op_find(const char *name) {
    for (int i = 0; kr_ops[i]; i++)
        if (strcmp(kr_ops[i]->name, name) == 0) return kr_ops[i];
    return NULL;
}

kr_kernel *kr_op_kernel(const kr_op *op, kr_level level) {
    if (level == KR_LEVEL_REF64 || level == KR_LEVEL_CUDA) return op->kernel[level];
    while (level > KR_LEVEL_REF && !op->kernel[level]) level--;
    return op->kernel[level];
}

size_t kr_op_scratch(const kr_op *op, kr_level level, const kr_call *c) {
    size_t (*rule)(const kr_call *) = level == KR_LEVEL_CUDA ? op->scratch_cuda : op->scratch;
    return rule ? rule(c) : 0;
}

int kr_need_rank(const char *op, const char *arg, const kr_tensor *t, int rank, krait_error *e) {
    if (t->rank == rank) return 0;
    char text[96];
    return kr_fail(e, KRAIT_ERR_SHAPE, "%s: %s must have %d dimensions, is %s", op, arg, rank,
                   kr_tensor_describe(t, text));
}

int kr_need_dim(const char *op, const char *arg, const kr_tensor *t, int dim, int64_t size,
                krait_error *e) {
    if (t->shape[dim] == size) return 0;
    char text[96];
    return kr_fail(e, KRAIT_ERR_SHAPE, "%s: dimension %d of %s must be %lld, is %s", op, dim, arg,
                   (long long)size, kr_tensor_describe(t, text));
}

int kr_need_type(const char *op, const char *arg, const kr_tensor *t, kr_dtype type,
                 krait_error *e) {
    if (t->dtype == type) return 0;
    return kr_fail(e, KRAIT_ERR_SHAPE, "%s: %s must be %s, is %s", op, arg, kr_dtype_name(type),
                   kr_dtype_name(t->dtype));
}

int kr_need_all(const char *op, const kr_tensor *in, const kr_need *needs, int n, krait_error *e) {
    for (int i = 0; i < n; i++) {
        if (needs[i].optional && !in[i].data) continue;
        KR_TRY(kr_need_rank(op, needs[i].name, &in[i], needs[i].rank, e));
        for (int d = 0; d < needs[i].rank; d++)
            if (needs[i].dim[d] >= 0)
                KR_TRY(kr_need_dim(op, needs[i].name, &in[i], d, needs[i].dim[d], e));
    }
    return 0;
}
