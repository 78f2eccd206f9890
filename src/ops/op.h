/* op.h - what an op is: a shape rule, a gradient rule, and one kernel for each level.
 *
 * An op lives in src/ops/<op>/ (the recurrence in src/scan/) as const kr_op objects, plus one line
 * each in ops.def. Forward and backward are two ops of one folder: the forward one's gradient rule
 * records the backward one. Files of a folder:
 *   <op>.c      kr_op objects: shape rules, gradient rule, checker cases, cost; compiled once
 *   <op>_ref.c  the scalar reference over `real` (op_ref.h), sums in double; compiled for f32, f64
 *   <op>_vec.c  the vector kernels over vec.h; compiled once a level
 *
 * Conventions of every kernel:
 *   - Inputs are read only. Outputs are overwritten, or added to where the bit of c->accumulate
 *     says so (gradients that several ops contribute to). A kernel that cannot accumulate says so
 *     by its op's `no_accumulate`.
 *   - An optional input or output is absent when its data is NULL.
 *   - Row strides (stride[0] of a matrix) are arbitrary; the last dimension is contiguous.
 *   - Results depend neither on timing nor on the number of threads: fixed partitions, fixed order
 *     of sums, no atomics. The checker runs every case with one thread and with several and
 *     compares the bytes.
 *   - No allocation, no I/O, no failure: the shape rule has refused what the kernel cannot do. */
#ifndef KR_OP_H
#define KR_OP_H

#include <krait/error.h>

#include "base/fn.h"
#include "device/device.h"
#include "tensor/tensor.h"

#ifdef __cplusplus /* the GPU's kernels are C++ with C names */
extern "C" {
#endif

#define KR_MAX_IN 20
#define KR_MAX_OUT 16

typedef struct kr_call {
    kr_tensor in[KR_MAX_IN];
    kr_tensor out[KR_MAX_OUT];
    int n_in, n_out;
    uint32_t accumulate; /* bit i: out[i] += result */
    const void *attr;    /* the op's attribute struct, or NULL */
    void *scratch;       /* kr_op.scratch bytes, aligned to 64, contents undefined */
    int threads;         /* how many OpenMP threads to use, >= 1 */
} kr_call;

typedef void kr_kernel(const kr_call *c);

/* What the graph offers to gradient rules (implemented in src/graph/grad.c). */
typedef struct kr_tape kr_tape;
typedef struct kr_value kr_value;
typedef struct kr_node kr_node;

kr_value *kr_rule_in(const kr_node *n, int i);  /* NULL: absent */
kr_value *kr_rule_out(const kr_node *n, int i); /* NULL: absent */
const void *kr_rule_attr(const kr_node *n);
kr_dtype kr_rule_type(const kr_value *v); /* its numbers' type: a half's differs from f32 */
/* An input or output of the forward node, for use in the backward pass (recomputed there when the
 * plan says so). */
kr_value *kr_rule_saved(kr_tape *t, kr_value *v);
/* Whether the graph runs on the GPU: for ops that have no kernel there. */
bool kr_rule_on_gpu(const kr_tape *t);
/* False: a value of the forward pass that would have to be computed again. */
bool kr_rule_kept(const kr_tape *t, const kr_value *v);
/* The gradient that arrived at output i; NULL when nothing depends on it. */
kr_value *kr_rule_dout(kr_tape *t, const kr_node *n, int i);
/* Claims the place where the gradient of input i goes: fills outs[k], sets bit k of *accumulate
 * when something is there already. outs[k] is NULL, and nothing is to be computed, when input i is
 * absent or needs no gradient. */
void kr_rule_din(kr_tape *t, const kr_node *n, int i, kr_value **outs, int k, uint32_t *accumulate);
/* Declares that the gradient of input i IS the value g (which may be shared between inputs): no
 * kernel, no copy. */
void kr_rule_din_is(kr_tape *t, const kr_node *n, int i, kr_value *g);
/* Where the backward op about to be recorded writes output i of n once more, with the same bytes as
 * forward or within rounding; NULL: nobody waits for it (kr_graph_remake). */
kr_value *kr_rule_remade(kr_tape *t, const kr_node *n, int i);
/* A new value of the same shape and type as v, for a gradient that is then handed on by
 * kr_rule_din_is. */
kr_value *kr_rule_temporary(kr_tape *t, const kr_value *v);
struct kr_op;
/* Records a backward op that writes into outs (entries may be NULL). attr is copied. */
void kr_rule_emit(kr_tape *t, const struct kr_op *op, const void *attr, size_t attr_size,
                  kr_value *const *ins, int n_in, kr_value *const *outs, int n_out,
                  uint32_t accumulate);
/* The commonest rule whole: op(dy of output 0, saved...) gives the gradients of n_into inputs from
 * `first` on; `saved` are values of the forward pass. Nothing happens where no dy arrived. */
void kr_rule_pull_back(kr_tape *t, const kr_node *n, const struct kr_op *op, const void *attr,
                       size_t attr_size, kr_value *const *saved, int n_saved, int first,
                       int n_into);

/* A case of the checker: shapes and how to fill the inputs. Kept small: the checker runs every op
 * on odd sizes. */
typedef enum kr_fill {
    KR_FILL_NORMAL,  /* a * N(0,1) + b */
    KR_FILL_UNIFORM, /* U(a, b) */
    KR_FILL_INDEX,   /* integers in [0, a), or -1 (a masked target) with probability b */
    /* I64 [S,3]: first token, count, state slot: cuts [0, tokens) in S ragged parts, none empty
     * unless there are too few tokens; slots are a permutation of 0..S-1 */
    KR_FILL_SEQS,
    KR_FILL_RESET, /* U8 [M]: 1 where a document starts, probability a */
    KR_FILL_ABSENT /* data NULL */
} kr_fill;

typedef struct kr_case {
    const char *name; /* what is special about it: "T=63 N=17 with reset" */
    kr_tensor in[KR_MAX_IN];
    struct {
        kr_fill kind;
        double a, b;
    } fill[KR_MAX_IN];
    /* only for outputs that the shape rule does not derive: shape and dtype */
    kr_tensor out[KR_MAX_OUT];
    bool out_absent[KR_MAX_OUT];
    /* bit i: out[i] is bf16 in the reference too, rounded from what was computed, which a kernel
     * may round to the other side */
    uint32_t out_rounded;
    int n_in, n_out;
    int64_t tokens;   /* M, for SEQS */
    const void *attr; /* static storage */
    size_t attr_size;
    double tolerance; /* relative to the output's largest magnitude; 0: 2e-6 */
    bool large;       /* only in the long run (offsets past 2^31, sparse memory) */
    /* The case with bf16 activations (kr_op.half_in), which the GPU's kernels are checked on too,
     * where it differs from the above. The reference gets the rounded inputs as f32. */
    struct {
        bool none;        /* there is no such form */
        uint32_t wide;    /* bit i: in[i] stays f32 although half_in names it */
        uint32_t rounded; /* bit i: in[i] keeps its type, but its values are bf16's: weights that a
                           * kernel rounds by itself */
        uint32_t out;     /* bit i: out[i], which the case gave, is bf16 */
        const void *attr; /* of the kernel under test; NULL: the same */
        double tolerance; /* of outputs that are f32, if wider than the above */
    } half;
} kr_case;

typedef struct kr_op {
    const char *name;
    /* Shape rule. c->in and c->attr are set (data pointers are not meaningful, except NULL =
     * absent). Fills out[0..n_out) with dtype, dim0 and contiguous shape; an output that it leaves
     * with rank 0 has no derived shape (the caller supplies it in c->out, already there: check it).
     * Refuses wrong shapes by kr_fail(e, KRAIT_ERR_SHAPE, ...) naming op and argument. */
    int (*shape)(const kr_call *c, kr_tensor *out, krait_error *e);
    /* Gradient rule; NULL: not differentiable (its outputs stop gradients). */
    void (*grad)(kr_tape *t, const kr_node *n);
    /* Bytes of scratch for these shapes and threads; fewer rows need no more of it. NULL: none. */
    size_t (*scratch)(const kr_call *c);
    /* The same for the GPU's kernel, whose needs are its own; NULL: none. */
    size_t (*scratch_cuda)(const kr_call *c);
    /* Refuses, saying what is missing, a call that the GPU's kernel cannot do although the shape
     * rule allows it; NULL: there is none. */
    int (*check_cuda)(const kr_call *c, krait_error *e);
    /* Floating point operations and bytes that must move, for the benchmark's GFLOP/s and GB/s;
     * NULL: unknown. */
    void (*cost)(const kr_call *c, double *flops, double *bytes);
    /* Fills case `index` (zeroed before) and returns true; false when there is none with that
     * index. */
    bool (*cases)(int index, kr_case *k);
    int n_in, n_out;
    uint32_t no_accumulate; /* bit i: out[i] cannot be added to */
    /* bit i: out[i] may share the memory of in[i] when in[i] is not needed afterwards */
    uint32_t inplace;
    /* bit i: in[i] is bf16, not f32, in a graph whose activations are halves (GPU only). The shape
     * rule derives the outputs' types from the inputs'. The checker runs the GPU's kernels both
     * ways. 0: no such form. */
    uint32_t half_in;
    /* NULL on the CPU: the next lower level that exists is used, down to REF */
    kr_kernel *kernel[KR_LEVELS];
    /* The GPU's kernel for n calls at once, of which each one's in[0] is out[0] of the one before;
     * NULL: they run one by one. */
    void (*chain_cuda)(const kr_call *const *calls, int n);
} kr_op;

/* In <op>.c: KR_DECLARE_KERNEL(kr_rmsnorm) declares the kernel at every level of this build.
 * KR_KERNELS lists those of the CPU; KR_KERNELS_GPU those and the one in <op>.cu. */
#if defined(KR_CUDA)
#define KR_CUDA_SLOT(f) , [KR_LEVEL_CUDA] = f##_cuda
#else
#define KR_CUDA_SLOT(f)
#endif
#if defined(__x86_64__)
#define KR_DECLARE_KERNEL(f) kr_kernel f##_ref64, f##_ref, f##_v1, f##_v3, f##_v4, f##_cuda
#define KR_CPU_SLOTS(f)                                                                            \
    [KR_LEVEL_REF64] = f##_ref64, [KR_LEVEL_REF] = f##_ref, [KR_LEVEL_V1] = f##_v1,                \
    [KR_LEVEL_V3] = f##_v3, [KR_LEVEL_V4] = f##_v4
#else
#define KR_DECLARE_KERNEL(f) kr_kernel f##_ref64, f##_ref, f##_v1, f##_cuda
#define KR_CPU_SLOTS(f)                                                                            \
    [KR_LEVEL_REF64] = f##_ref64, [KR_LEVEL_REF] = f##_ref, [KR_LEVEL_V1] = f##_v1
#endif
#define KR_DECLARE_REF_KERNEL(f) kr_kernel f##_ref64, f##_ref, f##_cuda
#define KR_REF_SLOTS(f) [KR_LEVEL_REF64] = f##_ref64, [KR_LEVEL_REF] = f##_ref
#define KR_KERNELS(f)                                                                              \
    { KR_CPU_SLOTS(f) }
#define KR_KERNELS_GPU(f)                                                                          \
    { KR_CPU_SLOTS(f) KR_CUDA_SLOT(f) }
#define KR_REF_KERNELS(f)                                                                          \
    { KR_REF_SLOTS(f) }
#define KR_REF_KERNELS_GPU(f)                                                                      \
    { KR_REF_SLOTS(f) KR_CUDA_SLOT(f) }

/* The kernel used at a level. On the CPU never NULL for KR_LEVEL_REF and above; on the GPU NULL
 * where the op has none: there is no hidden copy to the CPU. */
kr_kernel *kr_op_kernel(const kr_op *op, kr_level level);
/* Bytes of scratch of a call at a level. */
size_t kr_op_scratch(const kr_op *op, kr_level level, const kr_call *c);

/* Every op of this build, NULL-ended, in the order of ops.def. */
extern const kr_op *const kr_ops[];
const kr_op *kr_op_find(const char *name);

/* Shared by the shape rules: fails with one line naming op and argument unless the tensor has this
 * rank / size of a dimension / type. */
int kr_need_rank(const char *op, const char *arg, const kr_tensor *t, int rank, krait_error *e);
int kr_need_dim(const char *op, const char *arg, const kr_tensor *t, int dim, int64_t size,
                krait_error *e);
int kr_need_type(const char *op, const char *arg, const kr_tensor *t, kr_dtype type,
                 krait_error *e);
/* Rank and sizes (-1: any) of n inputs; an absent one passes where it may be. */
typedef struct kr_need {
    const char *name;
    int rank;
    int64_t dim[3];
    bool optional;
} kr_need;
int kr_need_all(const char *op, const kr_tensor *in, const kr_need *needs, int n, krait_error *e);

#ifdef __cplusplus
}
#endif

#endif
