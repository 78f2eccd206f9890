/* mamba_step_many.cu - dt_proj, the recurrence and its gate in a decode step of many rows, bf16, 16
 * states a channel. mamba_step.h has the equations.
 *
 * Moving the states is the cost: a block takes 64 channels through some groups of 8 rows, their
 * states on the way STAGES groups ahead, the first ones before the kernel in front has ended; a
 * thread has a quad of states of one channel in every row. Tensor cores make a group's 64 x 8 raw
 * steps: mma.m16n8k16 takes channels as its rows and the 8 rows as its columns. Within a slice of
 * 32 the places of k are exchanged alike on both sides, so that a lane's share is 16 bytes in a
 * row. */
#include "device/cuda/async.cuh"
#include "device/cuda/pack.cuh"
#include "ops/mamba_step/mamba_step_gpu.cuh"

enum { THREADS = 256, CHANNELS = 64, ROWS = 8, STATES = KR_STEP_STATES, LOADS = 2, SLICE = 32 };
enum { STAGES = 3, BLOCKS_EACH = 2 /* of a multiprocessor */, MOST = 8 /* groups of a block */ };

struct step_many {
    const bf16 *xp, *weight, *u, *z;
    const float *dt_bias, *A, *D, *state;
    const int64_t *seqs;
    float *state_out;
    bf16 *y;
    int64_t M, groups, E, r, ld_xp, ld_weight, ld_u, ld_z, ld_y, from_slot, to_slot;
};

/* What the threads of a block hand each other. */
struct shared_many {
    float raw[2][ROWS][CHANNELS + 1]; /* by halves of the weight's slices; then [0]: reads */
    float2 step[ROWS][CHANNELS];      /* delta, delta u */
    float b[ROWS][STATES], c[ROWS][STATES];
    float4 h[STAGES][ROWS][THREADS]; /* each thread's own */
    int slot[MOST * ROWS];           /* of the block's rows */
};

static __device__ __forceinline__ void mma(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                           uint32_t a3, uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* 16 bytes of a row from element k on, zeros behind its end. */
static __device__ __forceinline__ uint4 pack_at(const bf16 *row, int64_t k, int64_t r) {
    return k < r ? *(const uint4 *)(row + k) : make_uint4(0, 0, 0, 0);
}

/* A warp's slices of the weight: 16 channels, every other slice of 32. */
struct weight_share {
    const bf16 *low, *high; /* rows of channels lane / 4 and lane / 4 + 8 */
    int64_t k;              /* this lane's place in the first slice */
    uint4 a[LOADS][2];
};

static __device__ __forceinline__ void fetch_weight(const step_many &s, int64_t e,
                                                    weight_share &w) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int64_t low = e + warp % 4 * 16 + lane / 4, last = s.E - 1;
    w.low = s.weight + (low < last ? low : last) * s.ld_weight;
    w.high = s.weight + (low + 8 < last ? low + 8 : last) * s.ld_weight;
    w.k = warp / 4 * SLICE + lane % 4 * 8;
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
        w.a[i][0] = pack_at(w.low, w.k + i * 2 * SLICE, s.r);
        w.a[i][1] = pack_at(w.high, w.k + i * 2 * SLICE, s.r);
    }
}

static __device__ __forceinline__ void multiply(float (&d)[4], const uint4 &low, const uint4 &high,
                                                const uint4 &x) {
    mma(d, low.x, high.x, low.y, high.y, x.x, x.y);
    mma(d, low.z, high.z, low.w, high.w, x.z, x.w);
}

/* What a thread needs of a group of rows besides states, asked for one group ahead: of the row that
 * its warp prepares, two channels of u and z, and an element of b or c; of row lane / 4 its share
 * of dl. */
struct group_share {
    const bf16 *x; /* row lane / 4 of xp */
    uint4 dl[LOADS];
    __nv_bfloat162 u, z;
    bf16 bc;
};

static __device__ __forceinline__ void fetch_group(const step_many &s, int64_t m, int64_t e,
                                                   int64_t k, group_share &g) {
    int lane = threadIdx.x % 32;
    int64_t row = m + threadIdx.x / 32, dl_row = m + lane / 4;
    if (row >= s.M) row = s.M - 1;
    if (dl_row >= s.M) dl_row = s.M - 1;
    int64_t c = e + lane * 2 < s.E ? e + lane * 2 : 0;
    g.x = s.xp + dl_row * s.ld_xp;
#pragma unroll
    for (int i = 0; i < LOADS; i++) g.dl[i] = pack_at(g.x, k + i * 2 * SLICE, s.r);
    g.u = *(const __nv_bfloat162 *)(s.u + row * s.ld_u + c);
    g.z = *(const __nv_bfloat162 *)(s.z + row * s.ld_z + c);
    g.bc = s.xp[row * s.ld_xp + s.r + lane];
}

/* The group's raw steps, in two halves. */
static __device__ __forceinline__ void project(const step_many &s, const weight_share &w,
                                               const group_share &g, shared_many &all) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float d[4] = {};
#pragma unroll
    for (int i = 0; i < LOADS; i++) multiply(d, w.a[i][0], w.a[i][1], g.dl[i]);
    for (int64_t k = w.k + LOADS * 2 * SLICE; k - w.k % SLICE < s.r; k += 2 * SLICE)
        multiply(d, pack_at(w.low, k, s.r), pack_at(w.high, k, s.r), pack_at(g.x, k, s.r));
    float *to = &all.raw[warp / 4][lane % 4 * 2][warp % 4 * 16 + lane / 4];
    to[0] = d[0], to[CHANNELS + 1] = d[1];
    to[8] = d[2], to[CHANNELS + 1 + 8] = d[3];
}

static __device__ __forceinline__ float softplus(float x) { return x > 20 ? x : log1pf(__expf(x)); }

/* Of two neighbouring channels. */
struct channel_pair {
    float bias[2], D[2];
};

/* delta and delta u of a row's two channels. */
static __device__ __forceinline__ void prepare(const channel_pair &p, const group_share &g,
                                               shared_many &all) {
    int row = threadIdx.x / 32, c = threadIdx.x % 32 * 2;
    float u[2] = {__low2float(g.u), __high2float(g.u)};
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float delta = softplus(all.raw[0][row][c + i] + all.raw[1][row][c + i] + p.bias[i]);
        all.step[row][c + i] = make_float2(delta, delta * u[i]);
    }
}

static __device__ __forceinline__ float exponential(float x) { /* of 2 */
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Moves a quad of states on; returns what they add to the read. */
static __device__ __forceinline__ float move(float4 &h, const float4 &A, const float2 &step,
                                             const float4 &b, const float4 &c) {
    h.x = exponential(step.x * A.x) * h.x + step.y * b.x;
    h.y = exponential(step.x * A.y) * h.y + step.y * b.y;
    h.z = exponential(step.x * A.z) * h.z + step.y * b.z;
    h.w = exponential(step.x * A.w) * h.w + step.y * b.w;
    return h.x * c.x + h.y * c.y + h.z * c.z + h.w * c.w;
}

/* Asks for the states of the group of rows from `first` of the block on. */
static __device__ __forceinline__ void fetch_states(const step_many &s, shared_many &all, int stage,
                                                    int first, int64_t at, bool alive) {
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        int slot = all.slot[first + i];
        kr_async_copy(kr_shared(&all.h[stage][i][threadIdx.x]),
                      s.state + (slot < 0 ? 0 : slot) * s.from_slot + at, slot >= 0 && alive);
    }
}

/* Moves the group's states on; the reads go where the raw steps were. */
static __device__ __forceinline__ void move_group(const step_many &s, shared_many &all, int stage,
                                                  int first, const float4 &A, int64_t at,
                                                  bool alive) {
    int quad = threadIdx.x % 4 * 4, own = threadIdx.x / 4;
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        int slot = all.slot[first + i];
        float4 h = all.h[stage][i][threadIdx.x];
        float read = move(h, A, all.step[i][own], *(const float4 *)&all.b[i][quad],
                          *(const float4 *)&all.c[i][quad]);
        if (slot >= 0 && alive) __stcs((float4 *)(s.state_out + slot * s.to_slot + at), h);
        read += __shfl_xor_sync(0xffffffffu, read, 1);
        read += __shfl_xor_sync(0xffffffffu, read, 2);
        if (quad == 0) all.raw[0][i][own] = read;
    }
}

static __device__ __forceinline__ void put_group(const step_many &s, const shared_many &all,
                                                 int first, const channel_pair &p,
                                                 const group_share &g, int64_t m, int64_t e) {
    int row = threadIdx.x / 32, c = threadIdx.x % 32 * 2;
    float u[2] = {__low2float(g.u), __high2float(g.u)}, y[2];
    float z[2] = {__low2float(g.z), __high2float(g.z)};
    if (m + row >= s.M || e + c >= s.E) return;
#pragma unroll
    for (int i = 0; i < 2; i++)
        y[i] = (all.raw[0][row][c + i] + p.D[i] * u[i]) * (z[i] / (1 + __expf(-z[i])));
    if (all.slot[first + row] < 0) y[0] = y[1] = 0;
    kr_store_pack<2>(s.y + (m + row) * s.ld_y + e + c, y);
}

/* The slots of the block's rows; -1: it is no one's. */
static __device__ __forceinline__ void find_slots(const step_many &s, shared_many &all, int64_t m) {
    m += threadIdx.x;
    if (threadIdx.x < MOST * ROWS)
        all.slot[threadIdx.x] = m < s.M && s.seqs[3 * m + 1] > 0 ? (int)s.seqs[3 * m + 2] : -1;
    __syncthreads();
}

static __global__ void __launch_bounds__(THREADS, BLOCKS_EACH) many(const step_many s) {
    extern __shared__ float4 memory[];
    shared_many &all = *(shared_many *)memory;
    int64_t e = (int64_t)blockIdx.x * CHANNELS, m = (int64_t)blockIdx.y * s.groups * ROWS;
    int rows = (int)(s.M - m < s.groups * ROWS ? s.M - m : s.groups * ROWS);
    int pair = e + threadIdx.x % 32 * 2 < s.E ? threadIdx.x % 32 * 2 : 0;
    bool alive = e + threadIdx.x / 4 < s.E;
    int64_t at = alive ? e * STATES + threadIdx.x * 4 : 0;
    kr_go_on();
    find_slots(s, all, m);
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) {
        if (i * ROWS < rows) fetch_states(s, all, i, i * ROWS, at, alive);
        kr_async_commit();
    }
    float4 A = *(const float4 *)(s.A + at);
    weight_share w;
    fetch_weight(s, e, w);
    channel_pair p = {{s.dt_bias[e + pair], s.dt_bias[e + pair + 1]},
                      {s.D[e + pair], s.D[e + pair + 1]}};
    A.x *= 1.44269504f, A.y *= 1.44269504f, A.z *= 1.44269504f, A.w *= 1.44269504f;
    kr_after();
    group_share now, next;
    fetch_group(s, m, e, w.k, next);
    for (int first = 0, stage = 0; first < rows; first += ROWS) {
        int ahead = first + (STAGES - 1) * ROWS, row = threadIdx.x / 32, n = threadIdx.x % 32;
        now = next;
        __syncthreads(); /* the group before this one has been read */
        if (ahead < rows) fetch_states(s, all, (stage + STAGES - 1) % STAGES, ahead, at, alive);
        kr_async_commit();
        (n < STATES ? all.b : all.c)[row][n % STATES] = kr_load(&now.bc);
        project(s, w, now, all);
        if (first + ROWS < rows) fetch_group(s, m + first + ROWS, e, w.k, next);
        __syncthreads();
        prepare(p, now, all);
        kr_async_wait<STAGES - 1>();
        __syncthreads();
        move_group(s, all, stage, first, A, at, alive);
        __syncthreads();
        put_group(s, all, first, p, now, m + first, e);
        stage = stage + 1 < STAGES ? stage + 1 : 0;
    }
}

/* One wave of blocks where the rows allow it. */
static void launch(step_many &s) {
    static bool wide; /* setting it twice does no harm */
    int64_t columns = kr_blocks(s.E, CHANNELS), groups = kr_blocks(s.M, ROWS);
    int64_t parts = kr_cuda_processors() * BLOCKS_EACH / columns;
    if (s.M == 0 || s.E == 0) return;
    if (parts * MOST < groups) parts = (groups + MOST - 1) / MOST;
    s.groups = (groups + parts - 1) / parts;
    if (!wide)
        cudaFuncSetAttribute(many, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             sizeof(shared_many));
    wide = true;
    kr_launch_early(many, true, dim3((unsigned)columns, kr_blocks(s.M, s.groups * ROWS)), THREADS,
                    sizeof(shared_many), s);
}

bool kr_mamba_step_scan_many(const kr_call *c) {
    const kr_tensor *in = c->in, *y = &c->out[KR_STEP_Y], *A = &in[KR_STEP_A];
    const kr_tensor *weight = &in[KR_STEP_DT_WEIGHT], *xp = &in[KR_STEP_XP];
    const kr_tensor *state = &in[KR_STEP_STATE], *out = &c->out[KR_STEP_STATE_OUT];
    const kr_tensor *u = &in[KR_STEP_SCAN_U], *z = &in[KR_STEP_SCAN_Z];
    int64_t r = weight->shape[1];
    if (kr_cuda_shared() < (int)sizeof(shared_many)) return false; /* not a large card */
    bool good = u->dtype == KR_BF16 && A->shape[1] == STATES && A->stride[0] == STATES &&
                r % 8 == 0 && kr_packs(weight, 8) && kr_packs(xp, 8) && kr_packs(A, 4) &&
                kr_packs(state, 4) && kr_packs(out, 4) && kr_packs(u, 2) && kr_packs(z, 2) &&
                kr_packs(y, 2);
    if (!good) return false;
    step_many s = {(const bf16 *)xp->data,
                   (const bf16 *)weight->data,
                   (const bf16 *)u->data,
                   (const bf16 *)z->data,
                   (const float *)in[KR_STEP_DT_BIAS].data,
                   (const float *)A->data,
                   (const float *)in[KR_STEP_D].data,
                   (const float *)state->data,
                   (const int64_t *)in[KR_STEP_SCAN_SEQS].data,
                   (float *)out->data,
                   (bf16 *)y->data,
                   y->shape[0],
                   1,
                   y->shape[1],
                   r,
                   xp->stride[0],
                   weight->stride[0],
                   u->stride[0],
                   z->stride[0],
                   y->stride[0],
                   state->stride[0],
                   out->stride[0]};
    launch(s);
    return true;
}
