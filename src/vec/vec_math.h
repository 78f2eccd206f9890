/* vec_math.h - elementary functions of a vector of floats. Included by *_vec.c only.
 *
 * Each reduces its argument exactly, evaluates a polynomial (minimax, fitted to the float
 * coefficients written here) and puts the exponent back. NaN gives NaN. Largest error in units of
 * the last place, measured over the whole range on every level by vec_math_test.c: exp, exp2, log,
 * log1p 2; sigmoid, tanh 3; silu, softplus 4; sin and cos 2^-23 of their
 * range (1). Results that underflow are rounded to the nearest
 * denormal. */
#ifndef KR_VEC_MATH_H
#define KR_VEC_MATH_H

#include "vec/vec.h"

#define KR_LOG2_E 0x1.715476p+0f
/* ln 2 in two parts; a whole number below 2^15 times the first is exact. */
#define KR_LN2_HIGH 0x1.63p-1f
#define KR_LN2_LOW (-0x1.bd0106p-13f)

/* e^x: n = round(x / ln 2), r = x - n ln 2, 1 + r + r^2 q(r), times 2^n. -104 and 89 are past both
 * ends of the range. */
KR_VINLINE kr_vf kr_vexp(kr_vf x) {
    x = kr_vmin(kr_vset(89.0f), kr_vmax(kr_vset(-104.0f), x));
    kr_vf n = kr_vround(x * KR_LOG2_E);
    kr_vf r = kr_vnfma(n, kr_vset(KR_LN2_HIGH), x);
    r = kr_vnfma(n, kr_vset(KR_LN2_LOW), r);
    kr_vf q = kr_vset(0x1.6a4f72p-10f);
    q = kr_vfma(q, r, kr_vset(0x1.12398p-7f));
    q = kr_vfma(q, r, kr_vset(0x1.5558aep-5f));
    q = kr_vfma(q, r, kr_vset(0x1.555492p-3f));
    q = kr_vfma(q, r, kr_vset(0x1.fffffcp-2f));
    q = kr_vfma(q * r, r, r);
    return kr_vscale(q + 1.0f, n);
}

/* 2^x: as e^x, with an exact reduction. */
KR_VINLINE kr_vf kr_vexp2(kr_vf x) {
    x = kr_vmin(kr_vset(129.0f), kr_vmax(kr_vset(-151.0f), x));
    kr_vf n = kr_vround(x), r = x - n;
    kr_vf q = kr_vset(0x1.417a9cp-13f);
    q = kr_vfma(q, r, kr_vset(0x1.5f0948p-10f));
    q = kr_vfma(q, r, kr_vset(0x1.3b2dd2p-7f));
    q = kr_vfma(q, r, kr_vset(0x1.c6af7ap-5f));
    q = kr_vfma(q, r, kr_vset(0x1.ebfbdcp-3f));
    q = kr_vfma(q, r, kr_vset(0x1.62e43p-1f));
    return kr_vscale(kr_vfma(q, r, kr_vset(1.0f)), n);
}

/* pi/2 in three parts; a whole number below 2^14 times the first or the second is exact. */
#define KR_PI2_HIGH 0x1.92p+0f
#define KR_PI2_MIDDLE 0x1.fap-12f
#define KR_PI2_LOW 0x1.54442ep-20f

/* sin x and cos x for |x| < 2^14: n = round(x / (pi/2)), r = x - n pi/2; the quarter that n is in
 * says which is which. */
KR_VINLINE void kr_vsincos(kr_vf x, kr_vf *sine, kr_vf *cosine) {
    kr_vf n = kr_vround(x * 0x1.45f306p-1f);
    kr_vf r = kr_vnfma(n, kr_vset(KR_PI2_HIGH), x);
    r = kr_vnfma(n, kr_vset(KR_PI2_MIDDLE), r);
    r = kr_vnfma(n, kr_vset(KR_PI2_LOW), r);
    kr_vf s = r * r, p = kr_vset(-0x1.994cfap-13f), q = kr_vset(0x1.9a00ccp-16f);
    p = kr_vfma(p, s, kr_vset(0x1.11075cp-7f));
    p = kr_vfma(p, s, kr_vset(-0x1.555546p-3f));
    p = kr_vfma(p * s, r, r);
    q = kr_vfma(q, s, kr_vset(-0x1.6c0c86p-10f));
    q = kr_vfma(q, s, kr_vset(0x1.55554ap-5f));
    q = kr_vfma(q * s, s, kr_vnfma(kr_vset(0.5f), s, kr_vset(1.0f)));
    kr_vi quarter = __builtin_convertvector(n, kr_vi);
    kr_vi odd = -(quarter & 1), minus_sine = (quarter & 2) << 30;
    kr_vi minus_cosine = ((quarter + 1) & 2) << 30, a = (kr_vi)p, b = (kr_vi)q;
    *sine = (kr_vf)(((a & ~odd) | (b & odd)) ^ minus_sine);
    *cosine = (kr_vf)(((b & ~odd) | (a & odd)) ^ minus_cosine);
}

/* ln(1 + f) + e ln 2 for 1 + f in [sqrt(1/2), sqrt(2)): f - f^2/2 + f^3 q(f), the small parts added
 * first. */
KR_VINLINE kr_vf kr_vlog_core_(kr_vf f, kr_vf e) {
    kr_vf s = f * f, q = kr_vset(-0x1.38cf2p-4f);
    q = kr_vfma(q, f, kr_vset(0x1.05602ep-3f));
    q = kr_vfma(q, f, kr_vset(-0x1.0d81f2p-3f));
    q = kr_vfma(q, f, kr_vset(0x1.22d8f8p-3f));
    q = kr_vfma(q, f, kr_vset(-0x1.54728cp-3f));
    q = kr_vfma(q, f, kr_vset(0x1.99a01ep-3f));
    q = kr_vfma(q, f, kr_vset(-0x1.000226p-2f));
    q = kr_vfma(q, f, kr_vset(0x1.555554p-2f));
    kr_vf small = kr_vfma(e, kr_vset(KR_LN2_LOW), q * f * s);
    small = kr_vnfma(kr_vset(0.5f), s, small);
    return kr_vfma(e, kr_vset(KR_LN2_HIGH), f + small);
}

/* x = m 2^e with m in [sqrt(1/2), sqrt(2)), for x normal and positive. */
KR_VINLINE kr_vf kr_vsplit_(kr_vf x, kr_vi *e) {
    kr_vu bits = (kr_vu)x - 0x3f3504f3u;
    *e = (kr_vi)bits >> 23;
    return (kr_vf)((bits & 0x7fffffu) + 0x3f3504f3u);
}

/* ln x; -infinity at 0, NaN below. */
KR_VINLINE kr_vf kr_vlog(kr_vf x) {
    kr_vi e;
    kr_vm denormal = kr_vlt(x, kr_vset(0x1p-126f));
    kr_vf m = kr_vsplit_(kr_vselect(denormal, x * 0x1p25f, x), &e);
    kr_vf y =
        kr_vlog_core_(m - 1.0f, kr_vfrom_int(e) - kr_vselect(denormal, kr_vset(25), kr_vzero()));
    y = kr_vselect(kr_vlt(x, kr_vset(__builtin_inff())), y, x); /* infinity, NaN */
    y = kr_vselect(kr_vlt(x, kr_vzero()), kr_vset(__builtin_nanf("")), y);
    return kr_vselect(kr_veq(x, kr_vzero()), kr_vset(-__builtin_inff()), y);
}

/* ln(1 + x) for finite x > -1: what rounding 1 + x lost is added to the fraction. */
KR_VINLINE kr_vf kr_vlog1p_core_(kr_vf x) {
    kr_vf u = x + 1.0f;
    kr_vf lost = kr_vselect(kr_vlt(x, kr_vset(1.0f)), x - (u - 1.0f), 1.0f - (u - x));
    kr_vi e;
    kr_vf f = kr_vsplit_(u, &e) - 1.0f;
    kr_vi down = 127 - e; /* 2^-e; e = 128 has none, and nothing lost */
    kr_vf scale = (kr_vf)((kr_vu)(down & (down > 0)) << 23);
    return kr_vlog_core_(kr_vfma(lost, scale, f), kr_vfrom_int(e));
}

/* ln(1 + x); -infinity at -1, NaN below. */
KR_VINLINE kr_vf kr_vlog1p(kr_vf x) {
    kr_vf y = kr_vselect(kr_vlt(x, kr_vset(__builtin_inff())), kr_vlog1p_core_(x), x);
    y = kr_vselect(kr_vlt(x, kr_vset(-1.0f)), kr_vset(__builtin_nanf("")), y);
    return kr_vselect(kr_veq(x, kr_vset(-1.0f)), kr_vset(-__builtin_inff()), y);
}

/* 1 / (1 + e^-x), without cancelling or overflowing on either side. */
KR_VINLINE kr_vf kr_vsigmoid(kr_vf x) {
    kr_vf e = kr_vexp(-kr_vabs(x)), one = kr_vset(1.0f);
    return kr_vselect(kr_vlt(x, kr_vzero()), e, one) / (one + e);
}

/* x sigmoid(x); NaN at -infinity, good to 2^-142 where the sigmoid is denormal (x < -87). */
KR_VINLINE kr_vf kr_vsilu(kr_vf x) { return x * kr_vsigmoid(x); }

/* The derivative of silu at x, given s = sigmoid(x). */
KR_VINLINE kr_vf kr_vsilu_slope(kr_vf x, kr_vf s) {
    return s * kr_vfma(x, 1.0f - s, kr_vset(1.0f));
}

/* ln(1 + e^x) = max(x, 0) + ln(1 + y), y = e^-|x|, where ln(1 + y) = 2 artanh(s), s = y / (2 + y)
 * <= 1/3. From x = 17 on this is x itself: the threshold of 20 of the definition needs no test. */
KR_VINLINE kr_vf kr_vsoftplus(kr_vf x) {
    kr_vf y = kr_vexp(-kr_vabs(x)), s = y / (y + 2.0f), t = s * s;
    kr_vf q = kr_vset(0x1.1efe5p-3f);
    q = kr_vfma(q, t, kr_vset(0x1.1eb4bap-3f));
    q = kr_vfma(q, t, kr_vset(0x1.99d294p-3f));
    q = kr_vfma(q, t, kr_vset(0x1.5555p-2f));
    s += s;
    return kr_vmax(kr_vzero(), x) + kr_vfma(q * t, s, s);
}

/* x + x^3 q(x^2) up to 0.625, 1 - 2 / (e^2x + 1) beyond. */
KR_VINLINE kr_vf kr_vtanh(kr_vf x) {
    kr_vf a = kr_vabs(x), s = x * x, q = kr_vset(-0x1.7547e2p-8f);
    q = kr_vfma(q, s, kr_vset(0x1.5203f4p-6f));
    q = kr_vfma(q, s, kr_vset(-0x1.b836f4p-5f));
    q = kr_vfma(q, s, kr_vset(0x1.1106fcp-3f));
    q = kr_vfma(q, s, kr_vset(-0x1.555532p-2f));
    kr_vf near = kr_vfma(q * s, a, a);
    kr_vf far = 1.0f - 2.0f / (kr_vexp(a + a) + 1.0f);
    kr_vf y = kr_vselect(kr_vlt(a, kr_vset(0.625f)), near, far);
    return (kr_vf)((kr_vi)y | ((kr_vi)x & (int32_t)0x80000000));
}

#endif
