/* vec.h - vectors of floats, of a width that the compile level chooses. Included by *_vec.c only.
 *
 * KR_VEC_v1: 4 floats (SSE2, NEON), KR_VEC_v3: 8 (AVX2, FMA, F16C), KR_VEC_v4: 16 (AVX-512 F BW DQ
 * VL). A kernel is written once:
 *
 *   for (int64_t i = 0; i < n; i += KR_W)
 *       kr_vstore_n(y + i, n - i, kr_vfma(kr_vload_n(x + i, n - i), a, b));
 *
 * + - * / and the bit operators of kr_vi are the compiler's own (GNU vector extensions). The _n
 * forms touch min(n, KR_W) elements and nothing beyond; lanes past n are loaded as zero. No pointer
 * needs alignment. Sums across a vector have a fixed order. A new level is one more section "the
 * level" below. Functions of a vector (exp, log1p ...): vec_math.h. */
#ifndef KR_VEC_H
#define KR_VEC_H

#include <stdint.h>
#include <string.h>

#include "base/fn.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(KR_VEC_v4)
#define KR_W 16
#elif defined(KR_VEC_v3)
#define KR_W 8
#else
#define KR_W 4
#endif

#define KR_VINLINE static inline __attribute__((always_inline, unused))

typedef float kr_vf __attribute__((vector_size(KR_W * 4)));
typedef int32_t kr_vi __attribute__((vector_size(KR_W * 4)));
typedef uint32_t kr_vu __attribute__((vector_size(KR_W * 4)));
typedef uint16_t kr_vh __attribute__((vector_size(KR_W * 2))); /* bits of bf16 or f16 */

typedef uint64_t kr_vpair_ __attribute__((vector_size(KR_W * 4))); /* lanes 2i and 2i + 1 */
typedef float kr_v4_ __attribute__((vector_size(16)));
typedef float kr_vf_any_ __attribute__((vector_size(KR_W * 4), aligned(4), may_alias));
typedef uint16_t kr_vh_any_ __attribute__((vector_size(KR_W * 2), aligned(2), may_alias));

KR_VINLINE kr_vf kr_vload(const float *p) { return *(const kr_vf_any_ *)p; }
KR_VINLINE void kr_vstore(float *p, kr_vf v) { *(kr_vf_any_ *)p = v; }
KR_VINLINE kr_vh kr_vload_half_(const uint16_t *p) { return *(const kr_vh_any_ *)p; }
KR_VINLINE kr_vf kr_vset(float x) { return x - (kr_vf){0}; }
KR_VINLINE kr_vi kr_vset_i(int32_t x) { return x - (kr_vi){0}; }
KR_VINLINE kr_vf kr_vzero(void) { return (kr_vf){0}; }
/* The same bits as another type. */
KR_VINLINE kr_vi kr_vbits(kr_vf v) { return (kr_vi)v; }
KR_VINLINE kr_vf kr_vfrom_bits(kr_vi v) { return (kr_vf)v; }
KR_VINLINE kr_vf kr_vfrom_int(kr_vi v) { return __builtin_convertvector(v, kr_vf); }
KR_VINLINE kr_vf kr_vabs(kr_vf v) { return (kr_vf)((kr_vi)v & 0x7fffffff); }

/* ---- the level ----
 *
 * kr_vm           a mask: one truth value a lane, made by kr_vlt kr_vle kr_veq, taken by kr_vselect
 * kr_vselect      m ? a : b
 * kr_vfma         a * b + c, kr_vnfma: c - a * b (one rounding where the level has it: not v1 on
 * x86) kr_vmin/vmax    a < b ? a : b and a > b ? a : b: when either is NaN the answer is b
 * kr_vload_part_  n < KR_W elements, zeros beyond
 * kr_vload_four_  KR_W records of four floats, taken apart
 * kr_vsum4_       the lanes folded in halves by + down to four; kr_vmax4_ by the maximum */

#if defined(KR_VEC_v4)

typedef __mmask16 kr_vm;
KR_VINLINE kr_vm kr_vlt(kr_vf a, kr_vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
KR_VINLINE kr_vm kr_vle(kr_vf a, kr_vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
KR_VINLINE kr_vm kr_veq(kr_vf a, kr_vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
KR_VINLINE kr_vf kr_vselect(kr_vm m, kr_vf a, kr_vf b) { return _mm512_mask_blend_ps(m, b, a); }
KR_VINLINE kr_vf kr_vfma(kr_vf a, kr_vf b, kr_vf c) { return _mm512_fmadd_ps(a, b, c); }
KR_VINLINE kr_vf kr_vnfma(kr_vf a, kr_vf b, kr_vf c) { return _mm512_fnmadd_ps(a, b, c); }
KR_VINLINE kr_vf kr_vmin(kr_vf a, kr_vf b) { return _mm512_min_ps(a, b); }
KR_VINLINE kr_vf kr_vmax(kr_vf a, kr_vf b) { return _mm512_max_ps(a, b); }
KR_VINLINE kr_vf kr_vsqrt(kr_vf a) { return _mm512_sqrt_ps(a); }
KR_VINLINE __mmask16 kr_vmask_(int64_t n) { return (__mmask16)((1u << (unsigned)n) - 1u); }
KR_VINLINE kr_vf kr_vload_part_(const float *p, int64_t n) {
    return _mm512_maskz_loadu_ps(kr_vmask_(n), p);
}
KR_VINLINE void kr_vstore_part_(float *p, int64_t n, kr_vf v) {
    _mm512_mask_storeu_ps(p, kr_vmask_(n), v);
}
KR_VINLINE kr_vh kr_vload_half_part_(const uint16_t *p, int64_t n) {
    return (kr_vh)_mm256_maskz_loadu_epi16(kr_vmask_(n), p);
}
KR_VINLINE kr_vf kr_vfrom_f16_(kr_vh h) { return _mm512_cvtph_ps((__m256i)h); }
/* p * 2^n for whole n, rounded once, underflow and overflow included. */
KR_VINLINE kr_vf kr_vscale(kr_vf p, kr_vf n) { return _mm512_scalef_ps(p, n); }
KR_VINLINE kr_vf kr_vround(kr_vf x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
KR_VINLINE void kr_vload_four_(const float *p, kr_vf v[4]) {
    const __m512i low = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(2));
    kr_vf a = kr_vload(p), b = kr_vload(p + 16), c = kr_vload(p + 32), d = kr_vload(p + 48);
    kr_vf ab = _mm512_permutex2var_ps(a, low, b), cd = _mm512_permutex2var_ps(c, low, d);
    v[0] = _mm512_shuffle_f32x4(ab, cd, 0x44);
    v[1] = _mm512_shuffle_f32x4(ab, cd, 0xee);
    ab = _mm512_permutex2var_ps(a, high, b), cd = _mm512_permutex2var_ps(c, high, d);
    v[2] = _mm512_shuffle_f32x4(ab, cd, 0x44);
    v[3] = _mm512_shuffle_f32x4(ab, cd, 0xee);
}
KR_VINLINE kr_v4_ kr_vsum4_(kr_vf v) {
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    return _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
}
KR_VINLINE kr_v4_ kr_vmax4_(kr_vf v) {
    __m256 h = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    return _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
}

#else /* v1 and v3 */

typedef kr_vi kr_vm;
KR_VINLINE kr_vm kr_vlt(kr_vf a, kr_vf b) { return a < b; }
KR_VINLINE kr_vm kr_vle(kr_vf a, kr_vf b) { return a <= b; }
KR_VINLINE kr_vm kr_veq(kr_vf a, kr_vf b) { return a == b; }
/* 1.5 * 2^23 has the last place worth one, so adding it rounds; good for |x| < 2^22. */
KR_VINLINE kr_vf kr_vround(kr_vf x) { return x + 0x1.8p23f - 0x1.8p23f; }
/* p * 2^n for whole |n| <= 252, rounded once, underflow and overflow included. */
KR_VINLINE kr_vf kr_vscale(kr_vf p, kr_vf n) {
    kr_vi whole = (kr_vi)((kr_vu)(n + 0x1.8p23f) - 0x4b400000u), half = whole >> 1;
    kr_vu low = (kr_vu)half + 127u, high = (kr_vu)whole - (kr_vu)half + 127u;
    return p * (kr_vf)(low << 23) * (kr_vf)(high << 23);
}

#if defined(KR_VEC_v3)
KR_VINLINE kr_vf kr_vselect(kr_vm m, kr_vf a, kr_vf b) { return _mm256_blendv_ps(b, a, (__m256)m); }
KR_VINLINE kr_vf kr_vfma(kr_vf a, kr_vf b, kr_vf c) { return _mm256_fmadd_ps(a, b, c); }
KR_VINLINE kr_vf kr_vnfma(kr_vf a, kr_vf b, kr_vf c) { return _mm256_fnmadd_ps(a, b, c); }
KR_VINLINE kr_vf kr_vmin(kr_vf a, kr_vf b) { return _mm256_min_ps(a, b); }
KR_VINLINE kr_vf kr_vmax(kr_vf a, kr_vf b) { return _mm256_max_ps(a, b); }
KR_VINLINE kr_vf kr_vsqrt(kr_vf a) { return _mm256_sqrt_ps(a); }
KR_VINLINE __m256i kr_vmask_(int64_t n) {
    return (__m256i)((kr_vi){0, 1, 2, 3, 4, 5, 6, 7} < kr_vset_i((int32_t)n));
}
KR_VINLINE kr_vf kr_vload_part_(const float *p, int64_t n) {
    return _mm256_maskload_ps(p, kr_vmask_(n));
}
KR_VINLINE void kr_vstore_part_(float *p, int64_t n, kr_vf v) {
    _mm256_maskstore_ps(p, kr_vmask_(n), v);
}
KR_VINLINE kr_vf kr_vfrom_f16_(kr_vh h) { return _mm256_cvtph_ps((__m128i)h); }
KR_VINLINE kr_vf kr_vload_lanes_(const float *a, const float *b) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(a)), _mm_loadu_ps(b), 1);
}
KR_VINLINE void kr_vload_four_(const float *p, kr_vf v[4]) {
    kr_vf a = kr_vload_lanes_(p, p + 16), b = kr_vload_lanes_(p + 4, p + 20);
    kr_vf c = kr_vload_lanes_(p + 8, p + 24), d = kr_vload_lanes_(p + 12, p + 28);
    kr_vf ab = _mm256_unpacklo_ps(a, b), cd = _mm256_unpacklo_ps(c, d);
    v[0] = _mm256_shuffle_ps(ab, cd, 0x44);
    v[1] = _mm256_shuffle_ps(ab, cd, 0xee);
    ab = _mm256_unpackhi_ps(a, b), cd = _mm256_unpackhi_ps(c, d);
    v[2] = _mm256_shuffle_ps(ab, cd, 0x44);
    v[3] = _mm256_shuffle_ps(ab, cd, 0xee);
}
KR_VINLINE kr_v4_ kr_vsum4_(kr_vf v) {
    return _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
}
KR_VINLINE kr_v4_ kr_vmax4_(kr_vf v) {
    return _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
}
#else
KR_VINLINE kr_vf kr_vselect(kr_vm m, kr_vf a, kr_vf b) {
    return (kr_vf)((m & (kr_vi)a) | (~m & (kr_vi)b));
}
#if defined(__x86_64__)
KR_VINLINE kr_vf kr_vfma(kr_vf a, kr_vf b, kr_vf c) { return a * b + c; }
KR_VINLINE kr_vf kr_vnfma(kr_vf a, kr_vf b, kr_vf c) { return c - a * b; }
KR_VINLINE kr_vf kr_vmin(kr_vf a, kr_vf b) { return _mm_min_ps(a, b); }
KR_VINLINE kr_vf kr_vmax(kr_vf a, kr_vf b) { return _mm_max_ps(a, b); }
KR_VINLINE kr_vf kr_vsqrt(kr_vf a) { return _mm_sqrt_ps(a); }
#else
KR_VINLINE kr_vf kr_vlanes_fma_(kr_vf a, kr_vf b, kr_vf c) {
    for (int i = 0; i < KR_W; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
}
KR_VINLINE kr_vf kr_vfma(kr_vf a, kr_vf b, kr_vf c) { return kr_vlanes_fma_(a, b, c); }
KR_VINLINE kr_vf kr_vnfma(kr_vf a, kr_vf b, kr_vf c) { return kr_vlanes_fma_(-a, b, c); }
KR_VINLINE kr_vf kr_vmin(kr_vf a, kr_vf b) { return kr_vselect(a < b, a, b); }
KR_VINLINE kr_vf kr_vmax(kr_vf a, kr_vf b) { return kr_vselect(a > b, a, b); }
KR_VINLINE kr_vf kr_vsqrt(kr_vf a) {
    for (int i = 0; i < KR_W; i++) a[i] = __builtin_sqrtf(a[i]);
    return a;
}
#endif
KR_VINLINE kr_vf kr_vload_part_(const float *p, int64_t n) {
    kr_vf v = {0};
    for (int64_t i = 0; i < n; i++) v[i] = p[i];
    return v;
}
KR_VINLINE void kr_vstore_part_(float *p, int64_t n, kr_vf v) {
    for (int64_t i = 0; i < n; i++) p[i] = v[i];
}
KR_VINLINE void kr_vload_four_(const float *p, kr_vf v[4]) {
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 4; k++) v[k][i] = p[4 * i + k];
}
KR_VINLINE kr_v4_ kr_vsum4_(kr_vf v) { return v; }
KR_VINLINE kr_v4_ kr_vmax4_(kr_vf v) { return v; }
/* An f16 is 2^-112 of the float with its exponent and mantissa moved up, infinities and NaNs apart.
 */
KR_VINLINE kr_vf kr_vfrom_f16_(kr_vh h) {
    kr_vu bits = __builtin_convertvector(h, kr_vu), size = bits & 0x7fffu;
    kr_vu value = (kr_vu)((kr_vf)(size << 13) * 0x1p112f);
    kr_vu special = (kr_vu)(size >= 0x7c00u) & 0x7f800000u;
    return (kr_vf)(value | special | (bits & 0x8000u) << 16);
}
#endif
KR_VINLINE kr_vh kr_vload_half_part_(const uint16_t *p, int64_t n) {
    kr_vh v = {0};
    for (int64_t i = 0; i < n; i++) v[i] = p[i];
    return v;
}

#endif /* the level */

/* ---- made of the above
 * ---------------------------------------------------------------------------------------------- */

KR_VINLINE kr_vf kr_vload_n(const float *p, int64_t n) {
    return n >= KR_W ? kr_vload(p) : kr_vload_part_(p, n);
}
KR_VINLINE void kr_vstore_n(float *p, int64_t n, kr_vf v) {
    if (n >= KR_W)
        kr_vstore(p, v);
    else
        kr_vstore_part_(p, n, v);
}

KR_VINLINE kr_vf kr_vfrom_bf16_(kr_vh h) {
    return (kr_vf)(__builtin_convertvector(h, kr_vu) << 16);
}
KR_VINLINE kr_vf kr_vload_bf16(const uint16_t *p) { return kr_vfrom_bf16_(kr_vload_half_(p)); }
KR_VINLINE kr_vf kr_vload_f16(const uint16_t *p) { return kr_vfrom_f16_(kr_vload_half_(p)); }
KR_VINLINE kr_vf kr_vload_bf16_n(const uint16_t *p, int64_t n) {
    return kr_vfrom_bf16_(n >= KR_W ? kr_vload_half_(p) : kr_vload_half_part_(p, n));
}
KR_VINLINE kr_vf kr_vload_f16_n(const uint16_t *p, int64_t n) {
    return kr_vfrom_f16_(n >= KR_W ? kr_vload_half_(p) : kr_vload_half_part_(p, n));
}

/* p[0], p[stride] ... p[(n-1) stride]: slow. */
KR_VINLINE kr_vf kr_vload_strided(const float *p, int64_t stride, int64_t n) {
    kr_vf v = {0};
    for (int64_t i = 0; i < KR_W && i < n; i++) v[i] = p[i * stride];
    return v;
}

/* n records of four floats, taken apart: v[k] lane i = p[4 i + k]. */
KR_VINLINE void kr_vload_four_n(const float *p, int64_t n, kr_vf v[4]) {
    if (n >= KR_W)
        kr_vload_four_(p, v);
    else
        for (int k = 0; k < 4; k++) v[k] = kr_vload_strided(p + k, 4, n);
}

/* to [4 rows, to_row apart] = the transpose of from [4 rows, from_row apart], four floats each. */
KR_VINLINE void kr_vturn_four(float *to, int64_t to_row, const float *from, int64_t from_row) {
#if defined(__x86_64__)
    __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + from_row);
    __m128 c = _mm_loadu_ps(from + 2 * from_row), d = _mm_loadu_ps(from + 3 * from_row);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(to, a);
    _mm_storeu_ps(to + to_row, b);
    _mm_storeu_ps(to + 2 * to_row, c);
    _mm_storeu_ps(to + 3 * to_row, d);
#else
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 4; k++) to[i * to_row + k] = from[k * from_row + i];
#endif
}

/* Neighbours change places: lanes 1, 0, 3, 2, ... of v. */
KR_VINLINE kr_vf kr_vswap(kr_vf v) {
    kr_vpair_ pair = (kr_vpair_)v;
    return (kr_vf)(pair >> 32 | pair << 32);
}

/* Lanes [0, n) of v, zero beyond: for terms that are not zero where the loads are. */
KR_VINLINE kr_vf kr_vkeep_n(kr_vf v, int64_t n) {
#if defined(KR_VEC_v4)
    return n >= KR_W ? v : (kr_vf)_mm512_maskz_mov_ps(kr_vmask_(n), v);
#else
    for (int64_t i = n; i < KR_W; i++) v[i] = 0;
    return v;
#endif
}

/* Sum and maximum of the lanes, always by the same tree. */
KR_VINLINE float kr_vsum(kr_vf v) {
    kr_v4_ q = kr_vsum4_(v);
    return (q[0] + q[2]) + (q[1] + q[3]);
}
KR_VINLINE float kr_vmax_lane(kr_vf v) {
    kr_v4_ q = kr_vmax4_(v);
    float a = q[0] > q[2] ? q[0] : q[2], b = q[1] > q[3] ? q[1] : q[3];
    return a > b ? a : b;
}

#endif
