/* hippo.h - a signal remembered by N numbers, updated online (HiPPO: Gu et al. 2020).
 *
 * At every moment the N coefficients x are those of the best approximation of the signal's past by
 * N orthonormal functions g_n, under a measure that says how much each age counts:
 *
 *   x' = A x + B u      u(now - age) ~ sum_n x_n g_n(age)
 *
 *   LEGS       Legendre polynomials in e^-age, measure e^-age: the past fades. With `window` 0: in
 *              age / (age of the first sample), all ages alike; x' = (A x + B u) / t
 *   LEGT       Legendre polynomials, the last `window` samples alike
 *   LAGT       Laguerre functions of age
 *   FOURIER    1, cosines and sines, the last `window` samples alike
 *
 * The same A and B are where structured state spaces start (mixers s4, s4d and lssl).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KRAIT_HIPPO_H
#define KRAIT_HIPPO_H

#include <krait/error.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum krait_hippo_kind {
    KRAIT_HIPPO_LEGS,
    KRAIT_HIPPO_LEGT,
    KRAIT_HIPPO_LAGT,
    KRAIT_HIPPO_FOURIER
} krait_hippo_kind;

/* How a step of a sample is made of continuous time: where in the step A x is taken. */
typedef enum krait_hippo_method {
    KRAIT_HIPPO_FORWARD,  /* at its start; cheap, and unstable where A is large for the step */
    KRAIT_HIPPO_BACKWARD, /* at its end */
    KRAIT_HIPPO_BILINEAR  /* halfway: the most accurate */
} krait_hippo_method;

enum { KRAIT_HIPPO_MOST = 4096 }; /* numbers at most */

/* Writes A [N,N] (in rows) and B [N] in units of the window (divide both by it); both belong to the
 * caller. N is 1 to KRAIT_HIPPO_MOST, and even for FOURIER; else, or for an unknown kind:
 * KRAIT_ERR_ARGUMENT, and nothing is written. */
KRAIT_API int krait_hippo_matrices(krait_hippo_kind kind, int64_t N, double *A, double *B,
                                   krait_error *e);

typedef struct krait_hippo_options {
    size_t size; /* of this struct */
    krait_hippo_kind kind;
    int64_t numbers; /* N, 1 to KRAIT_HIPPO_MOST */
    /* samples that LEGT and FOURIER keep, and that LEGS and LAGT fade over by 1/e (their measure);
     * LEGS alone: 0, all samples so far */
    double window;
    krait_hippo_method method;
} krait_hippo_options;
#define KRAIT_HIPPO_OPTIONS_INIT                                                                   \
    { sizeof(krait_hippo_options), KRAIT_HIPPO_LEGS, 64, 0, KRAIT_HIPPO_BILINEAR }

/* A memory; one thread at a time. */
typedef struct krait_hippo krait_hippo;

/* Makes a memory that has heard nothing; krait_hippo_close frees it. Options may be NULL. Errors:
 * KRAIT_ERR_ARGUMENT (a kind, method, number or window that is none of the above),
 * KRAIT_ERR_NUMERIC (a step of this window and method has no inverse), KRAIT_ERR_MEMORY; *out is
 * NULL then. */
KRAIT_API int krait_hippo_open(krait_hippo **out, const krait_hippo_options *options,
                               krait_error *e);
KRAIT_API void krait_hippo_close(krait_hippo **memory); /* NULL inside is fine */

/* One more sample: N operations for LEGS with window 0, N^2 for the others. Cannot fail: a sample
 * that is not finite makes the coefficients so. */
KRAIT_API void krait_hippo_feed(krait_hippo *memory, double sample);
/* The N coefficients, in the units of the samples; they belong to the memory and are valid until
 * its next sample. */
KRAIT_API const double *krait_hippo_coefficients(const krait_hippo *memory);
/* What the memory makes of the sample `age` samples back: 0.5 is the middle of the latest one. An
 * age outside of what it keeps gives 0. */
KRAIT_API double krait_hippo_recall(const krait_hippo *memory, double age);

#ifdef __cplusplus
}
#endif
#endif
