/* philox.cuh - the random generator of base/rng.h on the GPU: the same words. */
#ifndef KR_PHILOX_CUH
#define KR_PHILOX_CUH

#include <stdint.h>

/* Philox 4x32-10: c is a block's counter, then its words. */
static __device__ __forceinline__ void kr_philox_block(uint64_t key, uint32_t (&c)[4]) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint32_t h0 = __umulhi(0xD2511F53u, c[0]), l0 = 0xD2511F53u * c[0];
        uint32_t h1 = __umulhi(0xCD9E8D57u, c[2]), l1 = 0xCD9E8D57u * c[2];
        c[0] = h1 ^ c[1] ^ k0;
        c[1] = l1;
        c[2] = h0 ^ c[3] ^ k1;
        c[3] = l0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

#endif
