/* tensor.c - shapes and scalar conversions. */
#include "tensor/tensor.h"

#include <stdio.h>

static const struct {
    size_t size;
    const char *name;
} dtypes[KR_DTYPE_COUNT] = {
    [KR_F32] = {4, "f32"}, [KR_F64] = {8, "f64"}, [KR_BF16] = {2, "bf16"}, [KR_F16] = {2, "f16"},
    [KR_I32] = {4, "i32"}, [KR_I64] = {8, "i64"}, [KR_U8] = {1, "u8"},
};

size_t kr_dtype_size(kr_dtype t) { return dtypes[t].size; }
const char *kr_dtype_name(kr_dtype t) { return dtypes[t].name; }

kr_tensor kr_tensor_make(void *data, kr_dtype dtype, int rank, const int64_t *shape) {
    kr_tensor t = {.data = data, .dtype = dtype, .rank = rank};
    int64_t stride = 1;
    for (int i = rank - 1; i >= 0; i--) {
        t.shape[i] = shape[i];
        t.stride[i] = stride;
        stride *= shape[i];
    }
    return t;
}

int64_t kr_tensor_count(const kr_tensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->shape[i];
    return n;
}

size_t kr_tensor_bytes(const kr_tensor *t) {
    return (size_t)kr_tensor_count(t) * kr_dtype_size(t->dtype);
}

bool kr_tensor_contiguous(const kr_tensor *t) {
    int64_t stride = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        if (t->shape[i] != 1 && t->stride[i] != stride) return false;
        stride *= t->shape[i];
    }
    return true;
}

bool kr_tensor_same_shape(const kr_tensor *a, const kr_tensor *b) {
    if (a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->shape[i] != b->shape[i]) return false;
    return true;
}

bool kr_tensor_same(const kr_tensor *a, const kr_tensor *b) {
    if (a->data != b->data || a->dtype != b->dtype || a->dim0 != b->dim0) return false;
    if (!kr_tensor_same_shape(a, b)) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->stride[i] != b->stride[i]) return false;
    return true;
}

const char *kr_tensor_describe(const kr_tensor *t, char text[96]) {
    int n = snprintf(text, 96, "%s [", kr_dtype_name(t->dtype));
    for (int i = 0; i < t->rank && n < 90; i++)
        n += snprintf(text + n, (size_t)(96 - n), i ? ", %lld" : "%lld", (long long)t->shape[i]);
    if (n < 95) snprintf(text + n, (size_t)(96 - n), "]");
    return text;
}

int64_t kr_checked_count(int rank, const int64_t *shape) {
    int64_t n = 1;
    for (int i = 0; i < rank; i++)
        if (shape[i] < 0 || __builtin_mul_overflow(n, shape[i], &n)) return -1;
    return n;
}

uint16_t kr_f32_to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float kr_f16_to_f32(uint16_t x) {
    uint32_t sign = (uint32_t)(x & 0x8000u) << 16, exponent = (x >> 10) & 31u, mantissa = x & 1023u;
    uint32_t bits;
    float f;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | mantissa << 13;
    } else if (exponent != 0) {
        bits = sign | (exponent + 112u) << 23 | mantissa << 13;
    } else {
        f = (float)mantissa * 5.9604644775390625e-08f; /* 2^-24 */
        return sign ? -f : f;
    }
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* A value below 2^-14 in magnitude: the mantissa is shifted right and rounded by hand. */
static uint16_t subnormal_f16(uint32_t sign, uint32_t exponent, uint32_t mantissa) {
    if (exponent < 102) return (uint16_t)sign;
    uint32_t full = mantissa | 0x800000u, shift = 126u - exponent;
    uint32_t kept = full >> shift, rest = full & ((1u << shift) - 1u), half = 1u << (shift - 1u);
    if (rest > half || (rest == half && (kept & 1u))) kept++;
    return (uint16_t)(sign | kept);
}

uint16_t kr_f32_to_f16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t sign = (bits >> 16) & 0x8000u, exponent = (bits >> 23) & 255u,
             mantissa = bits & 0x7fffffu;
    if (exponent == 255)
        return (uint16_t)(sign | 0x7c00u | (mantissa ? 0x200u | mantissa >> 13 : 0));
    if (exponent > 142) return (uint16_t)(sign | 0x7c00u);
    if (exponent < 113) return subnormal_f16(sign, exponent, mantissa);
    uint32_t half = (exponent - 112u) << 10 | mantissa >> 13, rest = mantissa & 0x1fffu;
    /* a carry rounds up to infinity rightly */
    if (rest > 0x1000u || (rest == 0x1000u && (half & 1u))) half++;
    return (uint16_t)(sign | half);
}

static double load_as_double(const void *p, kr_dtype t, int64_t i) {
    switch (t) {
    case KR_F32: return (double)((const float *)p)[i];
    case KR_F64: return ((const double *)p)[i];
    case KR_BF16: return (double)kr_bf16_to_f32(((const uint16_t *)p)[i]);
    case KR_F16: return (double)kr_f16_to_f32(((const uint16_t *)p)[i]);
    default: return 0;
    }
}

void kr_convert(void *to, kr_dtype to_type, const void *from, kr_dtype from_type, int64_t n) {
    if (to_type == from_type) {
        memcpy(to, from, (size_t)n * kr_dtype_size(to_type));
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        double v = load_as_double(from, from_type, i);
        switch (to_type) {
        case KR_F32: ((float *)to)[i] = (float)v; break;
        case KR_F64: ((double *)to)[i] = v; break;
        case KR_BF16: ((uint16_t *)to)[i] = kr_f32_to_bf16((float)v); break;
        case KR_F16: ((uint16_t *)to)[i] = kr_f32_to_f16((float)v); break;
        default: break;
        }
    }
}
