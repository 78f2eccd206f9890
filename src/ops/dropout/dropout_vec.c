/* dropout_vec.c - leaving out at random, over vectors. dropout.h has the contract.
 *
 * A lane makes one Philox block, whose four words belong to four columns a quarter of a row apart:
 * so loads and stores stay whole. Tied rows of a sequence make their words again, which is cheaper
 * than a place to keep them. Threads take rows. */
#include "ops/dropout/dropout.h"

#include "ops/threads.h"
#include "vec/vec.h"

typedef uint64_t wide __attribute__((vector_size(KR_W * 8)));

KR_VINLINE kr_vu spread(uint32_t x) { return x - (kr_vu){0}; }

/* The high and low halves of a * b. */
KR_VINLINE void product(kr_vu a, uint32_t b, kr_vu *high, kr_vu *low) {
    wide p = __builtin_convertvector(a, wide) * (uint64_t)b;
    *high = __builtin_convertvector(p >> 32, kr_vu);
    *low = a * b;
}

/* As kr_philox, of the counters of KR_W blocks. */
KR_VINLINE void philox(uint64_t key, kr_vu c[4]) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        kr_vu h0, l0, h1, l1;
        product(c[0], 0xD2511F53u, &h0, &l0);
        product(c[2], 0xCD9E8D57u, &h1, &l1);
        c[0] = h1 ^ c[1] ^ k0;
        c[1] = l1;
        c[2] = h0 ^ c[3] ^ k1;
        c[3] = l0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/* y[0..n) = or += x scale where the words of their columns allow. */
KR_VINLINE void keep(const float *x, float *y, int64_t n, kr_vu words, uint32_t limit, float scale,
                     bool accumulate) {
    kr_vi kept = words >= limit;
    kr_vf v = (kr_vf)((kr_vi)(kr_vload_n(x, n) * scale) & kept);
    kr_vstore_n(y, n, accumulate ? v + kr_vload_n(y, n) : v);
}

static void drop(const kr_call *c, int64_t m, int64_t of) {
    const kr_dropout_attr *a = c->attr;
    const kr_tensor *x = &c->in[0], *y = &c->out[0];
    const int64_t *draw = c->in[1].data;
    const float *from = (const float *)x->data + m * x->stride[0];
    float *to = (float *)y->data + m * y->stride[0], scale = (float)(1 / (1 - a->share));
    uint32_t limit = kr_dropout_limit(a);
    int64_t D = x->shape[1], Q = (D + 3) / 4;
    kr_vu lanes;
    for (int i = 0; i < KR_W; i++) lanes[i] = (uint32_t)i;
    for (int64_t q = 0; q < Q; q += KR_W) {
        kr_vu words[4] = {lanes + (uint32_t)q, spread((uint32_t)of), spread((uint32_t)draw[1]),
                          spread((uint32_t)a->site)};
        philox((uint64_t)draw[0], words);
        for (int j = 0; j < 4; j++) {
            int64_t at = j * Q + q, end = (j + 1) * Q < D ? (j + 1) * Q : D;
            if (at < end)
                keep(from + at, to + at, end - at, words[j], limit, scale, c->accumulate & 1);
        }
    }
}

void KR_FN(kr_dropout)(const kr_call *c) {
    const kr_tensor *x = &c->in[0], *seqs = &c->in[2];
    const int64_t *cut = seqs->data;
    int64_t M = x->shape[0];
    int threads = kr_threads_for(c, M * x->shape[1] * 32);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        kr_part rows = kr_my_part(M, 1);
        for (int64_t m = rows.begin; !cut && m < rows.end; m++) drop(c, m, m);
        for (int64_t s = 0; cut && s < seqs->shape[0]; s++) {
            int64_t first = cut[3 * s], end = first + cut[3 * s + 1];
            if (first < rows.begin) first = rows.begin;
            if (end > rows.end) end = rows.end;
            for (int64_t m = first; m < end; m++) drop(c, m, s);
        }
    }
}
