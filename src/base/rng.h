/* rng.h - a counter-based random generator: Philox 4x32-10.
 *
 * The state is a key and a counter, 24 bytes that a checkpoint stores whole; the same numbers come
 * out on every machine. Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1,
 * 2, 3" (2011). */
#ifndef KR_RNG_H
#define KR_RNG_H

#include <stdint.h>

#ifdef __cplusplus /* the GPU's kernels are C++ with C names */
extern "C" {
#endif

typedef struct kr_rng {
    uint64_t key;     /* the seed */
    uint64_t stream;  /* independent sequences of one seed: one a parameter, one a worker */
    uint64_t counter; /* numbers drawn so far */
} kr_rng;

static inline kr_rng kr_rng_make(uint64_t seed, uint64_t stream) {
    return (kr_rng){seed, stream, 0};
}

/* One block: `words` is the counter, then four random words of it and the key. */
void kr_philox(uint64_t key, uint32_t words[4]);
uint32_t kr_rng_u32(kr_rng *r);
double kr_rng_uniform(kr_rng *r); /* in (0, 1), 53 bits */
/* mean 0, variance 1 (Box-Muller, two draws a number) */
double kr_rng_normal(kr_rng *r);
uint64_t kr_rng_below(kr_rng *r, uint64_t bound); /* in [0, bound), unbiased; bound > 0 */

/* FNV-1a of a string: the stream of a parameter is the hash of its name, so that adding a layer
 * moves no other draw. */
uint64_t kr_hash_string(const char *s);

#ifdef __cplusplus
}
#endif

#endif
