/* weights_scan.c - one pass over all weights: a hash that binds state files to them, and a search
 * for NaN and infinity.
 *
 * Each block of a tensor is hashed on its own (so threads share the work and any number of them
 * gives the same hash), in eight lanes of  h = rotl((h ^ word) * K, 32), a bijection of h for every
 * word: two blocks that differ in one word never collide. It guards against mixing files up, not
 * against an adversary. Every byte is read: at several GB/s, and the first token would have to read
 * them anyway. */
#include "base/err.h"
#include "base/mem.h"
#include "formats/weights.h"

#define BLOCK ((size_t)64 << 10)
#define K1 0x9E3779B97F4A7C15u
#define K2 0xD6E8FEB86659FD93u
#define LANES 8

/* What a block's scan leaves behind. */
typedef struct finding {
    uint64_t hash;
    int64_t bad; /* the block's first element that is not finite; -1: none */
} finding;

static uint64_t mix(uint64_t h, uint64_t word) {
    h = (h ^ word) * K2;
    return h ^ h >> 32;
}

static uint64_t rotate(uint64_t x) { return x << 32 | x >> 32; }

static uint64_t hash_block(const unsigned char *p, size_t size) {
    uint64_t h[LANES], w[LANES];
    for (uint64_t i = 0; i < LANES; i++) h[i] = (i + 1) * K2;
    size_t at = 0;
    for (; at + sizeof w <= size; at += sizeof w) {
        memcpy(w, p + at, sizeof w);
        for (int i = 0; i < LANES; i++) h[i] = rotate((h[i] ^ w[i]) * K1);
    }
    memset(w, 0, sizeof w);
    memcpy(w, p + at, size - at);
    uint64_t all = size;
    for (int i = 0; i < LANES; i++) all = mix(all, rotate((h[i] ^ w[i]) * K1));
    return all;
}

/* The first of n elements whose exponent bits are all set (NaN and infinity), or -1. The sum over
 * all is what vectorises. */
#define DEFINE_FIND_BAD(name, type)                                                                \
    static int64_t name(const void *data, int64_t n, type exponent) {                              \
        const type *x = data;                                                                      \
        int any = 0;                                                                               \
        for (int64_t i = 0; i < n; i++) any |= (x[i] & exponent) == exponent;                      \
        for (int64_t i = 0; any && i < n; i++)                                                     \
            if ((x[i] & exponent) == exponent) return i;                                           \
        return -1;                                                                                 \
    }
DEFINE_FIND_BAD(find_bad16, uint16_t)
DEFINE_FIND_BAD(find_bad32, uint32_t)
DEFINE_FIND_BAD(find_bad64, uint64_t)

static int64_t find_bad(const unsigned char *p, size_t size, kr_dtype t) {
    int64_t n = (int64_t)(size / kr_dtype_size(t));
    switch (t) {
    case KR_F32: return find_bad32(p, n, 0x7f800000u);
    case KR_F64: return find_bad64(p, n, (uint64_t)0x7ff << 52);
    case KR_BF16: return find_bad16(p, n, 0x7f80u);
    case KR_F16: return find_bad16(p, n, 0x7c00u);
    default: return -1;
    }
}

static int64_t block_count(const kr_tensor *t) {
    return (int64_t)((kr_tensor_bytes(t) + BLOCK - 1) / BLOCK);
}

static finding scan_block(const kr_tensor *t, int64_t block) {
    const unsigned char *p = (const unsigned char *)t->data + (size_t)block * BLOCK;
    size_t left = kr_tensor_bytes(t) - (size_t)block * BLOCK, size = left < BLOCK ? left : BLOCK;
    return (finding){hash_block(p, size), find_bad(p, size, t->dtype)};
}

/* The tensor that block b of all belongs to: first[i] is the number of tensor i's first block. */
static int64_t tensor_of(const int64_t *first, int64_t count, int64_t b) {
    int64_t low = 0, high = count;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (first[middle] <= b)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* All blocks of all tensors in one loop: threads meet once, and one that the system holds up does
 * not stop the others. */
static void scan_blocks(const kr_weights *w, const int64_t *first, finding *found, int threads) {
    int64_t blocks = first[w->count];
#pragma omp parallel for num_threads(threads) schedule(dynamic, 16) if (blocks > 16)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t i = tensor_of(first, w->count, b);
        found[b] = scan_block(&w->items[i].tensor, b - first[i]);
    }
}

/* Adds one tensor's name, type, shape and blocks to the hash. */
static int add_tensor(const kr_weight *w, const finding *found, uint64_t *hash, krait_error *e) {
    const kr_tensor *t = &w->tensor;
    uint64_t h = mix(*hash, hash_block((const unsigned char *)w->name, strlen(w->name)));
    h = mix(h, (uint64_t)t->dtype);
    for (int i = 0; i < t->rank; i++) h = mix(h, (uint64_t)t->shape[i]);
    for (int64_t b = 0; b < block_count(t); b++) {
        h = mix(h, found[b].hash);
        if (found[b].bad < 0) continue;
        int64_t element = b * (int64_t)(BLOCK / kr_dtype_size(t->dtype)) + found[b].bad;
        return kr_fail(e, KRAIT_ERR_NUMERIC,
                       "tensor %s holds a NaN or an infinity (element %lld of %lld)", w->name,
                       (long long)element, (long long)kr_tensor_count(t));
    }
    *hash = h;
    return 0;
}

int kr_weights_scan(const kr_weights *w, int threads, uint64_t *hash, krait_error *e) {
    int64_t *first = kr_calloc((size_t)w->count + 1, sizeof *first);
    if (!first) return kr_fail_memory(e, "checking the weights");
    for (int64_t i = 0; i < w->count; i++)
        first[i + 1] = first[i] + block_count(&w->items[i].tensor);
    finding *found = kr_calloc((size_t)first[w->count], sizeof *found);
    int rc = found ? 0 : kr_fail_memory(e, "checking the weights");
    if (found) scan_blocks(w, first, found, threads);
    *hash = (uint64_t)w->count;
    for (int64_t i = 0; rc == 0 && i < w->count; i++)
        rc = add_tensor(&w->items[i], found + first[i], hash, e);
    kr_free(found);
    kr_free(first);
    return rc;
}
