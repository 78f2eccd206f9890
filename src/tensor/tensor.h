/* tensor.h - element types, shapes and views.
 *
 * A kr_tensor is a view: it owns nothing. Strides count elements; the last dimension is contiguous
 * (stride 1) unless a comment says otherwise. All sizes and offsets are 64 bits. Shape letters used
 * everywhere in the tree:
 *   B batch  T time  M token rows (B*T or a ragged sum)  S sequences  D width  E inner width
 *   H head  P head width  N state  G group  R rank  K kernel  L layer  V vocabulary */
#ifndef KR_TENSOR_H
#define KR_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus /* the GPU's kernels are C++ with C names */
extern "C" {
#endif

typedef enum kr_dtype {
    KR_F32,
    KR_F64,
    KR_BF16,
    KR_F16,
    KR_I32,
    KR_I64,
    KR_U8,
    KR_DTYPE_COUNT
} kr_dtype;

size_t kr_dtype_size(kr_dtype t);
const char *kr_dtype_name(kr_dtype t); /* "f32", "bf16", ... */

#define KR_MAX_RANK 4

/* What the first dimension counts. A plan made for M tokens runs any number up to M: only
 * dimensions so marked shrink. */
typedef enum kr_dim0 {
    KR_DIM0_FIXED,
    KR_DIM0_TOKENS, /* token rows of this call */
    KR_DIM0_ROWS    /* rows picked out of them (the last token of each sequence) */
} kr_dim0;

typedef struct kr_tensor {
    void *data; /* NULL: an optional argument that is absent */
    kr_dtype dtype;
    kr_dim0 dim0;
    int rank;
    int64_t shape[KR_MAX_RANK];
    int64_t stride[KR_MAX_RANK];
} kr_tensor;

/* A contiguous view of `data`; shape has `rank` entries. */
kr_tensor kr_tensor_make(void *data, kr_dtype dtype, int rank, const int64_t *shape);
int64_t kr_tensor_count(const kr_tensor *t); /* elements */
size_t kr_tensor_bytes(const kr_tensor *t);  /* count * size: of a contiguous tensor */
bool kr_tensor_contiguous(const kr_tensor *t);
bool kr_tensor_same_shape(const kr_tensor *a, const kr_tensor *b);
/* The same view: memory, type, shape and strides (of the struct's bytes some have no meaning). */
bool kr_tensor_same(const kr_tensor *a, const kr_tensor *b);
/* Writes "f32 [2, 3]" into text and returns it. */
const char *kr_tensor_describe(const kr_tensor *t, char text[96]);
/* count1 * count2 * ... as a checked product: -1 when it leaves int64. Sizes may come from files */
int64_t kr_checked_count(int rank, const int64_t *shape);

static inline float kr_bf16_to_f32(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

uint16_t kr_f32_to_bf16(float x); /* round to nearest even; NaN stays NaN */
float kr_f16_to_f32(uint16_t x);
uint16_t kr_f32_to_f16(float x); /* round to nearest even; overflow gives infinity */

/* Converts n contiguous elements between any two of f32 f64 bf16 f16. */
void kr_convert(void *to, kr_dtype to_type, const void *from, kr_dtype from_type, int64_t n);

#ifdef __cplusplus
}
#endif

#endif
