/* wide_tile.cuh - the product of some dozens of rows x [M,K] with 128 rows of a weight [N,K], bf16,
 * by a block of a Hopper GPU: for steps where reading the weight is the cost.
 *
 *   tile [BM,128] = x [BM rows, K] W [128 rows, K]^T          sums in f32
 *
 * One warp keeps the copy engine busy: slices of 64 of k, STAGES of them under way in a ring of
 * shared memory, the weight's first ones before the kernel in front has ended. Two groups of four
 * warps multiply, 64 rows of the weight each (wgmma: the weight's rows are the rows of the tile
 * that the tensor cores see, x's rows its columns). A slice's rows are 128 bytes, their 16-byte
 * packs exchanged by the copy engine (its pattern of 128 bytes), which the tensor cores know.
 *
 * Where every multiprocessor reads the weight and x from the L2 cache, that is what they wait for:
 * so a pair of blocks shares the weight, each asking for half of it for both. */
#ifndef KR_WIDE_TILE_CUH
#define KR_WIDE_TILE_CUH

#include <cooperative_groups.h>
#include <cuda.h>

#include "device/cuda/async.cuh"
#include "device/cuda/pack.cuh"

enum { KR_WIDE_BN = 128, KR_WIDE_SLICE = 64, KR_WIDE_ROW = 128, KR_WIDE_WORKERS = 256 };
enum { KR_WIDE_THREADS = KR_WIDE_WORKERS + 32, KR_WIDE_SUM_ROW = KR_WIDE_BN + 4 };

/* PAIR: two blocks of a cluster take the same rows of the weight, each its own of x. */
template <int BM_, int STAGES_, bool PAIR_>
struct kr_wide {
    static const int BM = BM_, STAGES = STAGES_;
    static const bool PAIR = PAIR_;
    static const int X_BYTES = BM * KR_WIDE_ROW, W_BYTES = KR_WIDE_BN * KR_WIDE_ROW;
    static const int STAGE = X_BYTES + W_BYTES, RING = STAGES * STAGE;
    static const int SUMS = BM * KR_WIDE_SUM_ROW * 4; /* take the ring's place */
    static const int AT_BARRIERS = RING > SUMS ? RING : SUMS;
    static const int BYTES = AT_BARRIERS + 2 * STAGES * 8 + 1024; /* the ring begins at 1,024s */
};

/* ---- barriers in shared memory, and the copy engine ------------------------------------------ */

static __device__ __forceinline__ void kr_bar_init(uint32_t bar, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory");
}
/* This arrival, and so many bytes of copies that are to come. */
static __device__ __forceinline__ void kr_bar_expect(uint32_t bar, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
                 : "memory");
}
static __device__ __forceinline__ void kr_bar_arrive(uint32_t bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
/* At the barrier of this place in another block of the cluster. */
static __device__ __forceinline__ void kr_bar_arrive_there(uint32_t bar, int rank) {
    asm volatile("{.reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];}" ::"r"(bar),
                 "r"(rank)
                 : "memory");
}
/* Until the barrier's phase of this parity has ended. */
static __device__ __forceinline__ void kr_bar_wait(uint32_t bar, uint32_t parity) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(bar),
                 "r"(parity)
                 : "memory");
}
/* The box of the matrix whose first element is in column k of a row, to shared memory. */
static __device__ __forceinline__ void kr_box_copy(uint32_t to, const CUtensorMap *map, int k,
                                                   int row, uint32_t bar) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
                 "l"(map), "r"(k), "r"(row), "r"(bar)
                 : "memory");
}

/* The same for both blocks of a cluster, to the same place in each. */
static __device__ __forceinline__ void kr_box_copy_both(uint32_t to, const CUtensorMap *map, int k,
                                                        int row, uint32_t bar) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(k), "r"(row), "r"(bar), "h"((uint16_t)3)
                 : "memory");
}

/* ---- the tensor cores ------------------------------------------------------------------------ */

/* What they are told of a tile at `at`: rows of 128 bytes, exchanged packs, 8 rows in 1,024 bytes.
 */
static __device__ __forceinline__ uint64_t kr_wide_tile(uint32_t at) {
    return (uint64_t)((at & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)64 << 32 |
           (uint64_t)1 << 62;
}
static __device__ __forceinline__ void kr_wide_begin(void) {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
static __device__ __forceinline__ void kr_wide_end(void) {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int LEFT>
static __device__ __forceinline__ void kr_wide_done(void) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

/* c += W [64 rows] x [32 rows]^T over 16 of k, from shared memory. */
static __device__ __forceinline__ void kr_wide_mma(float (&c)[16], uint64_t w, uint64_t x) {
    asm volatile("{.reg .pred p;\n"
                 "setp.eq.u32 p, 0, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, "
                 "%8, %9, %10, %11, %12, %13, %14, %15}, "
                 "%16, %17, p, 1, 1, 0, 0;}"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]),
                   "+f"(c[6]), "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]),
                   "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15])
                 : "l"(w), "l"(x));
}

/* c += W [64 rows] x [64 rows]^T over 16 of k, from shared memory. */
static __device__ __forceinline__ void kr_wide_mma(float (&c)[32], uint64_t w, uint64_t x) {
    asm volatile("{.reg .pred p;\n"
                 "setp.eq.u32 p, 0, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, "
                 "%8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, "
                 "%24, %25, %26, %27, %28, %29, %30, %31}, "
                 "%32, %33, p, 1, 1, 0, 0;}"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]),
                   "+f"(c[6]), "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]),
                   "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]),
                   "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]), "+f"(c[23]),
                   "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]),
                   "+f"(c[30]), "+f"(c[31])
                 : "l"(w), "l"(x));
}

/* c += W [64 rows] x [128 rows]^T over 16 of k, from shared memory. */
static __device__ __forceinline__ void kr_wide_mma(float (&c)[64], uint64_t w, uint64_t x) {
    asm volatile("{.reg .pred p;\n"
                 "setp.eq.u32 p, 0, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, "
                 "%8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, "
                 "%24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, "
                 "%40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, "
                 "%56, %57, %58, %59, %60, %61, %62, %63}, "
                 "%64, %65, p, 1, 1, 0, 0;}"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]),
                   "+f"(c[6]), "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]),
                   "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]),
                   "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]), "+f"(c[23]),
                   "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]),
                   "+f"(c[30]), "+f"(c[31]), "+f"(c[32]), "+f"(c[33]), "+f"(c[34]), "+f"(c[35]),
                   "+f"(c[36]), "+f"(c[37]), "+f"(c[38]), "+f"(c[39]), "+f"(c[40]), "+f"(c[41]),
                   "+f"(c[42]), "+f"(c[43]), "+f"(c[44]), "+f"(c[45]), "+f"(c[46]), "+f"(c[47]),
                   "+f"(c[48]), "+f"(c[49]), "+f"(c[50]), "+f"(c[51]), "+f"(c[52]), "+f"(c[53]),
                   "+f"(c[54]), "+f"(c[55]), "+f"(c[56]), "+f"(c[57]), "+f"(c[58]), "+f"(c[59]),
                   "+f"(c[60]), "+f"(c[61]), "+f"(c[62]), "+f"(c[63])
                 : "l"(w), "l"(x));
}

/* ---- a block's work -------------------------------------------------------------------------- */

/* Where things lie. */
template <class S>
struct kr_wide_memory {
    char *ring;
    uint32_t at; /* of the ring */
    __device__ __forceinline__ kr_wide_memory(char *memory) {
        at = (kr_shared(memory) + 1023) & ~1023u;
        ring = memory + (at - kr_shared(memory));
    }
    __device__ __forceinline__ uint32_t x(int i) const {
        return at + (uint32_t)(i % S::STAGES * S::STAGE);
    }
    __device__ __forceinline__ uint32_t w(int i) const { return x(i) + S::X_BYTES; }
    __device__ __forceinline__ uint32_t full(int i) const {
        return at + (uint32_t)(S::AT_BARRIERS + i % S::STAGES * 8);
    }
    __device__ __forceinline__ uint32_t free(int i) const { return full(i) + S::STAGES * 8; }
    __device__ __forceinline__ float *sums() const { return (float *)ring; }
};

/* All threads of the cluster have come so far; says nothing of what they wrote. */
static __device__ __forceinline__ void kr_wide_meet(void) {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\n"
                 "barrier.cluster.wait.aligned;" ::
                     : "memory");
}

/* First of all, by all threads of the cluster. Last of all they call kr_wide_meet, if of a pair:
 * the other block's signals arrive here. */
template <class S>
static __device__ __forceinline__ void kr_wide_enter(const kr_wide_memory<S> &at) {
    if (threadIdx.x == 0) {
        for (int i = 0; i < S::STAGES; i++) {
            kr_bar_init(at.full(i), 1);
            kr_bar_init(at.free(i), KR_WIDE_WORKERS / 32 * (S::PAIR ? 2 : 1));
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    if (S::PAIR)
        kr_wide_meet();
    else
        __syncthreads();
}
/* Slice k of the weight's rows from n on; a pair's blocks each ask for half. */
template <class S>
static __device__ __forceinline__ void kr_wide_fetch_w(const kr_wide_memory<S> &at,
                                                       const CUtensorMap *w, int n, int k, int i,
                                                       int rank) {
    const int half = S::PAIR ? KR_WIDE_BN / 2 * rank : 0;
    uint32_t to = at.w(i) + (uint32_t)(half * KR_WIDE_ROW);
    kr_bar_expect(at.full(i), S::STAGE);
    if (S::PAIR)
        kr_box_copy_both(to, w, k * KR_WIDE_SLICE, n + half, at.full(i));
    else
        kr_box_copy(to, w, k * KR_WIDE_SLICE, n, at.full(i));
}

/* One thread: `count` slices from slice `first` on, of rows m of x and n of the weight. */
template <class S>
static __device__ __forceinline__ void kr_wide_fetch(const kr_wide_memory<S> &at,
                                                     const CUtensorMap *x, const CUtensorMap *w,
                                                     int m, int n, int first, int count, int rank) {
    for (int i = 0; i < S::STAGES && i < count; i++)
        kr_wide_fetch_w<S>(at, w, n, first + i, i, rank);
    kr_after();
    for (int i = 0; i < count; i++) {
        if (i >= S::STAGES) {
            kr_bar_wait(at.free(i), (uint32_t)(i / S::STAGES - 1) & 1);
            kr_wide_fetch_w<S>(at, w, n, first + i, i, rank);
        }
        kr_box_copy(at.x(i), x, (first + i) * KR_WIDE_SLICE, m, at.full(i));
    }
}

/* This warp has read slice i. */
template <class S>
static __device__ __forceinline__ void kr_wide_free(const kr_wide_memory<S> &at, int i) {
    if (threadIdx.x % 32) return;
    kr_bar_arrive(at.free(i));
    if (S::PAIR) kr_bar_arrive_there(at.free(i), 1 - (int)blockIdx.x % 2);
}

/* The 8 warps: the sums over `count` slices, left in shared memory as [BM][SUM_ROW] floats. */
template <class S>
static __device__ __forceinline__ void kr_wide_multiply(const kr_wide_memory<S> &at, int count) {
    float c[S::BM / 2];
    int group = threadIdx.x / 128, lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < S::BM / 2; i++) c[i] = 0;
    for (int i = 0; i < count; i++) {
        kr_bar_wait(at.full(i), (uint32_t)(i / S::STAGES) & 1);
        uint64_t w = kr_wide_tile(at.w(i) + (uint32_t)(group * 64 * KR_WIDE_ROW));
        uint64_t x = kr_wide_tile(at.x(i));
        kr_wide_begin();
#pragma unroll
        for (int s = 0; s < KR_WIDE_SLICE / 16; s++) kr_wide_mma(c, w + s * 2, x + s * 2);
        kr_wide_end();
        if (i > 0) {
            kr_wide_done<1>();
            kr_wide_free(at, i - 1);
        }
    }
    kr_wide_done<0>();
    asm volatile("bar.sync 1, %0;" ::"n"((int)KR_WIDE_WORKERS) : "memory"); /* the ring is free */
    int n = group * 64 + threadIdx.x % 128 / 32 * 16 + lane / 4;
    float *to = at.sums() + lane % 4 * 2 * KR_WIDE_SUM_ROW + n;
#pragma unroll
    for (int j = 0; j < S::BM / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            to[(j * 8 + i % 2) * KR_WIDE_SUM_ROW + i / 2 * 8] = c[j * 4 + i];
    asm volatile("bar.sync 1, %0;" ::"n"((int)KR_WIDE_WORKERS) : "memory");
}

#endif
