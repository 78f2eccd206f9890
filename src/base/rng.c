/* rng.c - Philox 4x32-10. */
#include "base/rng.h"

#include <math.h>

void kr_philox(uint64_t key, uint32_t c[4]) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c[0], p1 = (uint64_t)0xCD9E8D57u * c[2];
        uint32_t n[4] = {(uint32_t)(p1 >> 32) ^ c[1] ^ k0, (uint32_t)p1,
                         (uint32_t)(p0 >> 32) ^ c[3] ^ k1, (uint32_t)p0};
        for (int i = 0; i < 4; i++) c[i] = n[i];
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

uint32_t kr_rng_u32(kr_rng *r) {
    uint64_t block = r->counter >> 2;
    uint32_t words[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)r->stream,
                         (uint32_t)(r->stream >> 32)};
    kr_philox(r->key, words);
    return words[r->counter++ & 3];
}

double kr_rng_uniform(kr_rng *r) {
    /* 26 + 26 bits, then half a step off zero */
    uint64_t high = kr_rng_u32(r) >> 6, low = kr_rng_u32(r) >> 6;
    return ((double)((high << 26) | low) + 0.5) / 4503599627370496.0;
}

double kr_rng_normal(kr_rng *r) {
    double u = kr_rng_uniform(r), v = kr_rng_uniform(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586476925 * v);
}

uint64_t kr_rng_below(kr_rng *r, uint64_t bound) {
    uint64_t limit = UINT64_MAX - UINT64_MAX % bound;
    for (;;) {
        uint64_t high = kr_rng_u32(r), x = high << 32 | kr_rng_u32(r);
        if (x < limit) return x % bound;
    }
}

uint64_t kr_hash_string(const char *s) {
    uint64_t h = 0xcbf29ce484222325u;
    for (; *s; s++) h = (h ^ (unsigned char)*s) * 0x100000001b3u;
    return h;
}
