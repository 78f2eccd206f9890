/* linear_mid_hopper.cu - y = x W^T + bias for some dozens of rows of x, bf16, where reading the
 * weight is the cost: for a chain of steps' kernels, each of which asks for its weight while the
 * one in front of it still runs. wide_tile.cuh has the method. */
#include "device/cuda/wide_tile.cuh"
#include "ops/linear/linear_gpu.cuh"

/* What blocks along z make of the parts of K that each takes: */
enum outcome {
    ASIDE, /* parts of y, side by side in its rows (or y itself: one part) */
    ADDED  /* y, summed over their cluster in order */
};

template <typename Y>
struct mid {
    const float *bias;
    Y *y; /* [M,N], or [M, parts N] */
    int64_t M, N, ldy;
    int slices;
    bool accumulate;
};

/* 4 sums of row r from column c on, over the parts of the cluster. */
template <int OUTCOME>
static __device__ __forceinline__ float4 sum_at(const float *sums, int parts, int r, int c) {
    const float *mine = sums + r * KR_WIDE_SUM_ROW + c;
    if (OUTCOME == ASIDE) return *(const float4 *)mine;
    float4 sum = make_float4(0, 0, 0, 0);
    for (int i = 0; i < parts; i++) {
        const float *there = cooperative_groups::this_cluster().map_shared_rank((float *)mine, i);
        float4 v = *(const float4 *)there;
        sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    return sum;
}

template <class S, int OUTCOME, typename Y>
static __device__ __forceinline__ void put_rows(const mid<Y> &f, const float *sums, int64_t m,
                                                int64_t n) {
    int parts = (int)gridDim.z, part = (int)blockIdx.z;
    int rows = OUTCOME == ADDED ? S::BM / parts : S::BM, first = OUTCOME == ADDED ? rows * part : 0;
    Y *y = f.y + (OUTCOME == ASIDE ? part * f.N : 0) + n;
    for (int i = threadIdx.x; i < rows * (KR_WIDE_BN / 4); i += KR_WIDE_WORKERS) {
        int r = first + i / (KR_WIDE_BN / 4), c = i % (KR_WIDE_BN / 4) * 4;
        if (m + r >= f.M || n + c >= f.N) continue;
        float4 sum = sum_at<OUTCOME>(sums, parts, r, c);
        float v[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (f.bias) v[j] += f.bias[n + c + j];
        kr_put_pack<4>(y + (m + r) * f.ldy + c, v, f.accumulate);
    }
}

template <class S, int OUTCOME, typename Y>
static __global__ void __launch_bounds__(KR_WIDE_THREADS)
    mid_rows(const mid<Y> f, const __grid_constant__ CUtensorMap x,
             const __grid_constant__ CUtensorMap w) {
    extern __shared__ char memory[];
    kr_wide_memory<S> at(memory);
    int parts = (int)gridDim.z, part = (int)blockIdx.z, rank = S::PAIR ? (int)blockIdx.x % 2 : 0;
    int first = f.slices * part / parts, count = f.slices * (part + 1) / parts - first;
    int m = (int)blockIdx.x * S::BM, n = (int)blockIdx.y * KR_WIDE_BN;
    kr_go_on();
    kr_wide_enter(at);
    if (threadIdx.x < KR_WIDE_WORKERS)
        kr_wide_multiply(at, count);
    else if (threadIdx.x == KR_WIDE_WORKERS)
        kr_wide_fetch(at, &x, &w, m, n, first, count, rank);
    __syncwarp();
    if (OUTCOME == ADDED) cooperative_groups::this_cluster().sync();
    kr_after(); /* y's memory may be what the kernel in front reads */
    if (threadIdx.x < KR_WIDE_WORKERS) put_rows<S, OUTCOME, Y>(f, at.sums(), m, n);
    __syncwarp();
    if (S::PAIR || OUTCOME == ADDED) kr_wide_meet(); /* others signal to, or read, this block */
}

/* ---- launching ------------------------------------------------------------------------------- */

typedef CUresult encode_map(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                            const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                            const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

static encode_map *encoder(void) {
    static encode_map *found; /* seeking it twice does no harm */
    void *p = NULL;
    cudaDriverEntryPointQueryResult how;
    if (!found &&
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &p, 12000, cudaEnableDefault,
                                         &how) == cudaSuccess &&
        how == cudaDriverEntryPointSuccess)
        found = (encode_map *)p;
    return found;
}

/* Boxes of `rows` rows and a slice of k of a matrix [n,k]. */
static bool describe(CUtensorMap *map, const void *p, int64_t n, int64_t k, int64_t ld, int rows) {
    cuuint64_t size[2] = {(cuuint64_t)k, (cuuint64_t)n}, stride[1] = {(cuuint64_t)ld * 2};
    cuuint32_t box[2] = {KR_WIDE_SLICE, (cuuint32_t)rows}, step[2] = {1, 1};
    encode_map *encode = encoder();
    return encode && encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)p, size, stride, box,
                            step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                            CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                            CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <class S, int OUTCOME, typename Y>
static bool launch(const kr_linear_mid *l) {
    mid<Y> f = {l->bias,      (Y *)l->y, l->M,
                l->N,         l->ldy,    (int)((l->K + KR_WIDE_SLICE - 1) / KR_WIDE_SLICE),
                l->accumulate};
    unsigned blocks = kr_blocks(f.M, S::BM), parts = (unsigned)l->parts;
    CUtensorMap x, w;
    static bool wide; /* setting it twice does no harm */
    if (!describe(&x, l->x, f.M, l->K, l->ldx, S::BM)) return false;
    if (!describe(&w, l->w, f.N, l->K, l->ldw, S::PAIR ? KR_WIDE_BN / 2 : KR_WIDE_BN)) return false;
    if (!wide)
        cudaFuncSetAttribute(mid_rows<S, OUTCOME, Y>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             S::BYTES);
    wide = true;
    if (S::PAIR) blocks += blocks % 2;
    kr_launch_cluster(mid_rows<S, OUTCOME, Y>, l->early,
                      dim3(blocks, kr_blocks(f.N, KR_WIDE_BN), parts), KR_WIDE_THREADS, S::BYTES,
                      dim3(S::PAIR ? 2 : 1, 1, OUTCOME == ADDED ? parts : 1), f, x, w);
    return true;
}

template <typename Y>
static bool launch_shape(const kr_linear_mid *l) {
    enum { FEW_COLUMNS = 512, SHARES = 8 };
    if (l->parts == 1 && l->N <= FEW_COLUMNS) { /* a small weight: many blocks along K */
        kr_linear_mid shared = *l;
        shared.parts = SHARES;
        return launch<kr_wide<32, 8, false>, ADDED, Y>(&shared);
    }
    return l->M <= 64 ? launch<kr_wide<32, 8, true>, ASIDE, Y>(l)
                      : launch<kr_wide<64, 8, true>, ASIDE, Y>(l);
}

bool kr_linear_mid_run(const kr_linear_mid *l) {
    bool aligned = (((uintptr_t)l->x | (uintptr_t)l->w | (uintptr_t)l->ldx * 2 |
                     (uintptr_t)l->ldw * 2 | (uintptr_t)l->y) &
                    15) == 0;
    if (!kr_cuda_hopper() || !aligned || l->N % 4 || l->ldy % 4 || l->M <= 0 || l->N <= 0 ||
        l->K <= 0 || l->N > INT32_MAX || l->K > INT32_MAX)
        return false;
    return l->half ? launch_shape<bf16>(l) : launch_shape<float>(l);
}
