/* scan_back.cu - the gradient of the recurrence on the GPU. README.md derives it, scan_gpu.cuh says
 * how the work lies in a warp. With L_t = dL/dh_t, du the gradient of the read:
 *
 *   L_t = c_t du_t + a_{t+1} L_{t+1}      q_t = L_t a_t h_{t-1}
 *   dx = delta (L . b) + D du             ddelta = x (L . b) + A . q        dA += delta q
 *   db = delta x L,  dc = du h, summed over channels
 *
 * 1. sweep:   forward through each piece, keeping the state in front of every 8th row. Where time
 * is cut it starts from zero, and also gathers what the piece adds to L in front of it.
 * 2. fold:    carries the states, and L from behind, through the pieces of each sequence.
 * 3. reverse: from the last 8 rows to the first: forward again through them, keeping decays and
 *             states in registers, and back.
 * 4. add:     the partial sums, in a fixed order.
 *
 * On the tensor units (functions named _mma) as scan_mma.cuh says. Otherwise sums over the channels
 * of a warp are products with ones from the left and du h and delta x L from the right, rounded to
 * tf32 (or, in f32, in two parts). */
#include "scan/scan_sweep.cuh"

namespace {

template <typename T>
struct back_out {
    T *dx, *ddt, *dz, *y;
    int64_t dx_row, ddt_row, dz_row, y_row;
    float *dstate;
    int64_t dstate_slot;
    int align;
    uint32_t accumulate;
    float *bc, *a;
    kr_scan_pieces pieces;
};

/* ---- 3. reverse ---- */

/* d = c + sums over the channels of a warp: of dc (rows 0 to 7 of the product, all alike) and db
 * (rows 8 to 15); columns are groups, twice (channels 0 to 3 and 4 to 7). one[0] and one[3] are 1,
 * the others 0. */
__device__ __forceinline__ void mma(float (&d)[4], const float (&one)[4], float dc, float db,
                                    float c0, float c1, float c2, float c3) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%10,%11,%12,%13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(__float_as_uint(one[0])), "r"(__float_as_uint(one[1])), "r"(__float_as_uint(one[2])),
          "r"(__float_as_uint(one[3])), "r"(__float_as_uint(dc)), "r"(__float_as_uint(db)), "f"(c0),
          "f"(c1), "f"(c2), "f"(c3));
}

__device__ __forceinline__ float tf32(float x) {
    return __uint_as_float(__float_as_uint(x) & 0xffffe000u);
}

template <typename T>
__device__ __forceinline__ void add_channels(float (&d)[4], const float (&one)[4], float dc,
                                             float db) {
    float s[4];
    mma(s, one, dc, db, 0, 0, 0, 0);
    if (kr_accurate<T>::value)
        mma(d, one, dc - tf32(dc), db - tf32(db), s[0], s[1], s[2], s[3]);
    else
        d[0] = s[0], d[1] = s[1], d[2] = s[2], d[3] = s[3];
}

/* What a lane carries from the last row to the first. back: a_{t+1} L_{t+1}. */
struct back_state {
    float back[4], dA[4], dD, dbias;
};

/* Sums of row j of 8 over the warp's channels, in shared memory: [half of the channels][state of a
 * group] [pair of groups][dc of each, db of each], 64 floats. The 4 lanes that write have all of
 * them. Not by plain stores: for fear that they meet them, other loads would wait. */
__device__ __forceinline__ void keep_sums(unsigned at, int lane, int j, const float (&d)[4][4]) {
    if (lane >> 2 != j) return;
#pragma unroll
    for (int i = 0; i < 4; i++)
        asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(at + j * 256 + i * 32),
                     "f"(d[i][0]), "f"(d[i][1]), "f"(d[i][2]), "f"(d[i][3]));
}

/* Sums over the blocks of states, which are in different warps; in the warps of block 0. */
template <class K>
__device__ __forceinline__ void add_blocks(const K &k, const kr_scan_lane &l, int parity,
                                           float (&v)[3]) {
    int warps = k.threads() / 32;
    float *at = k.sums + warps * K::ROWS * 64 + (parity * warps + l.warp) * 96 + l.lane;
    for (int i = 0; i < 3; i++) at[i * 32] = v[i];
    __syncthreads();
    if (l.block) return;
    for (int b = 1; b < k.blocks; b++)
        for (int i = 0; i < 3; i++) v[i] += at[b * 96 + i * 32];
}

/* Gradients of an own pair, from its sums u = h . c, lb = L . b, aq = A log2 e . q; they replace
 * the pair's inputs in the tile, and with_y y replaces dy. */
template <class K>
__device__ __forceinline__ void finish(const K &k, const kr_scan_lane &l, int stage, int t, int e,
                                       float D, const kr_pairs &own, float u, float lb, float aq,
                                       bool with_y, bool gated, back_state &w) {
    float x = own.x[e], du = own.du[e];
    float ddt = (x * lb + KR_LN2 * aq) * own.slope[e];
    w.dbias += ddt;
    w.dD += du * x;
    kr_store(k.at(stage, 0, t) + l.c, own.delta[e] * lb + D * du);
    kr_store(k.at(stage, 1, t) + l.c, ddt);
    if (with_y) {
        float z = kr_load(k.at(stage, 2, t) + l.c);
        float gate = gated ? z * kr_sigmoid<typename K::T>(z) : 1;
        kr_store(k.at(stage, 3, t) + l.c, (u + D * x) * gate);
    }
    kr_store(k.at(stage, 2, t) + l.c, own.gate_z[e] * (u + D * x));
}

/* Forward through 8 rows: decays, and states behind each row. */
template <class K>
__device__ __forceinline__ void again(const K &k, const kr_scan_lane &l, int t0,
                                      const float (&A)[4], const float (&h0)[4], float (&a)[8][4],
                                      float (&h)[8][4]) {
    const float *bs = k.b + t0 * k.padded() + l.n;
#pragma unroll
    for (int e = 0; e < 2; e++) {
        float delta[4], gx[4], cut[4];
        kr_hand(k, l, KR_DELTA, e, delta);
        kr_hand(k, l, KR_GAIN_X, e, gx);
        kr_hand(k, l, KR_CUT, e, cut);
#pragma unroll
        for (int q = 0; q < 4; q++) {
            int j = e * 4 + q;
            float b[4];
            kr_get4(bs + j * k.padded(), b);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                a[j][i] = kr_exp2(delta[q] * A[i] + cut[q]);
                h[j][i] = a[j][i] * (j ? h[j - 1][i] : h0[i]) + gx[q] * b[i];
            }
        }
    }
}

/* 8 rows, back. h0: the state in front of them. */
template <typename T, class K>
__device__ __forceinline__ void back_step(const kr_scan_in<T> &g, const K &k, const kr_scan_lane &l,
                                          int stage, int t0, int left, const float (&A)[4], float D,
                                          float bias, const float (&h0)[4], const float (&one)[4],
                                          bool with_y, back_state &w) {
    float a[8][4], h[8][4];
    kr_pairs own;
    kr_prepare_step(g, k, l, stage, t0, left, bias, own);
    again(k, l, t0, A, h0, a, h);
    unsigned at = (unsigned)__cvta_generic_to_shared(k.sums + (l.warp * K::ROWS + t0) * 64 +
                                                     (l.lane & 2) * 16 + (l.lane & 1) * 4);
    const float *bs = k.b + t0 * k.padded() + l.n, *cs = k.c + t0 * k.padded() + l.n;
#pragma unroll
    for (int e = 1; e >= 0; e--) {
        float u[4] = {}, lb[4] = {}, aq[4] = {}, delta[4], gx[4], du[4];
        kr_hand(k, l, KR_DELTA, e, delta);
        kr_hand(k, l, KR_GAIN_X, e, gx);
        kr_hand(k, l, KR_DU, e, du);
#pragma unroll
        for (int r = 3; r >= 0; r--) {
            int j = e * 4 + r;
            float b[4], c[4], d[4][4];
            kr_get4(bs + j * k.padded(), b);
            kr_get4(cs + j * k.padded(), c);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float L = du[r] * c[i] + w.back[i];
                w.back[i] = a[j][i] * L;
                float q = w.back[i] * (j ? h[j - 1][i] : h0[i]);
                u[r] += h[j][i] * c[i];
                lb[r] += L * b[i];
                aq[r] += A[i] * q;
                w.dA[i] += delta[r] * q;
                add_channels<T>(d[i], one, du[r] * h[j][i], gx[r] * L);
            }
            keep_sums(at, l.lane, j, d);
        }
        float v[3] = {kr_scatter4(u[0], u[1], u[2], u[3], l.group),
                      kr_scatter4(lb[0], lb[1], lb[2], lb[3], l.group),
                      kr_scatter4(aq[0], aq[1], aq[2], aq[3], l.group)};
        if (K::WIDE) add_blocks(k, l, e, v);
        if (!K::WIDE || l.block == 0)
            finish(k, l, stage, t0 + e * 4 + l.group, e, D, own, v[0], v[1], v[2], with_y,
                   g.tile[2].p, w);
    }
}

/* Forward through 8 rows on the tensor units: decays, states behind each row, u; and the sums of
 * dc over the warp's channels. */
template <class K>
__device__ __forceinline__ void again_mma(const kr_scan_lane &l, const kr_pairs &own,
                                          const kr_rows8 &rows, const kr_rows8 &turned,
                                          const float (&a)[8][4], const float (&h0)[4],
                                          float (&h)[8][4], float (&u)[2], float (&dc)[4]) {
    const unsigned gx[2] = {__float_as_uint(own.gx[0]), __float_as_uint(own.gx[1])};
    const unsigned du = kr_turn(kr_pair(own.du[0], own.du[1]));
#pragma unroll
    for (int e = 0; e < 2; e++) {
        float in[4][4];
        unsigned half[4][2];
        kr_outer4(e, l.group, gx, turned.b, in);
#pragma unroll
        for (int r = 0; r < 4; r++) {
            int j = e * 4 + r;
#pragma unroll
            for (int i = 0; i < 4; i++) h[j][i] = a[j][i] * (j ? h[j - 1][i] : h0[i]) + in[r][i];
            half[r][0] = kr_pair(h[j][0], h[j][1]);
            half[r][1] = kr_pair(h[j][2], h[j][3]);
        }
#pragma unroll
        for (int r = 0; r < 4; r += 2) {
            kr_dot2(2 * e + r / 2, l.group, half[r], half[r + 1], rows.c, u);
            kr_gather2(2 * e + r / 2, l.other, half[r], half[r + 1], du, dc);
        }
    }
}

/* And back: lb, aq, and the sums of db. */
template <class K>
__device__ __forceinline__ void back_mma(const kr_scan_lane &l, const kr_pairs &own,
                                         const kr_rows8 &rows, const kr_rows8 &turned,
                                         const float (&delta)[8], const float (&A)[4],
                                         const float (&a)[8][4], const float (&h0)[4],
                                         const float (&h)[8][4], float (&lb)[2], float (&aq)[4],
                                         float (&db)[4], back_state &w) {
    const unsigned split[2] = {kr_split(own.du[0]), kr_split(own.du[1])};
    const unsigned gx =
        kr_turn(__byte_perm(__float_as_uint(own.gx[0]), __float_as_uint(own.gx[1]), 0x5410));
#pragma unroll
    for (int e = 1; e >= 0; e--) {
        float L[4][4], sum[4];
        unsigned half[4][2];
        kr_outer4(e, l.group, split, turned.c, L);
#pragma unroll
        for (int r = 3; r >= 0; r--) {
            int j = e * 4 + r;
            sum[r] = 0;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                L[r][i] += w.back[i];
                w.back[i] = a[j][i] * L[r][i];
                float q = w.back[i] * (j ? h[j - 1][i] : h0[i]);
                sum[r] += A[i] * q;
                w.dA[i] += delta[j] * q;
            }
            half[r][0] = kr_pair(L[r][0], L[r][1]);
            half[r][1] = kr_pair(L[r][2], L[r][3]);
        }
#pragma unroll
        for (int r = 2; r >= 0; r -= 2) {
            int p = 2 * e + r / 2;
            kr_dot2(p, l.group, half[r], half[r + 1], rows.b, lb);
            kr_gather2(p, l.other, half[r], half[r + 1], gx, db);
            kr_mma4_tf32(aq, sum[r], sum[r + 1], l.other >> 1 == p ? 1.0f : 0.0f);
        }
    }
}

/* The sums of rows 2r and 2r + 1, states q and q + 8, in shared memory [rows][8 q][dc, db], where q
 * is turned by 2r so that the banks differ. Not by plain stores, as in keep_sums. */
__device__ __forceinline__ void keep_sums_mma(float *at, const kr_scan_lane &l,
                                              const float (&dc)[4], const float (&db)[4]) {
    unsigned to =
        (unsigned)__cvta_generic_to_shared(at + 2 * l.group * 32 + (l.other ^ 2 * l.group) * 4);
#pragma unroll
    for (int e = 0; e < 2; e++)
        asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(to + e * 128), "f"(dc[e]),
                     "f"(dc[2 + e]), "f"(db[e]), "f"(db[2 + e]));
}

/* What of a lane lies in shared memory between uses: registers are dear. */
enum { KEPT_DA, KEPT_SUMS };
template <class K>
__device__ __forceinline__ float *kept(const K &k, int what) {
    return (float *)(k.kept + what * k.threads() + threadIdx.x);
}

/* 8 rows, back; own pairs as kr_prepare_tile left them. */
template <class K>
__device__ __forceinline__ void back_step_mma(const K &k, const kr_scan_lane &l, int stage, int t0,
                                              const float (&A)[4], const float (&h0)[4],
                                              bool with_y, bool gated, back_state &w) {
    kr_pairs own;
    float delta[8], a[8][4], h[8][4], u[2], lb[2], aq[4] = {}, dc[4] = {}, db[4] = {};
    kr_deltas(k, l, t0, delta);
    kr_decays(k, stage, t0, delta, A, a);
    kr_rows8 rows = kr_rows_of<false>(k, l, stage, t0), turned = kr_rows_of<true>(k, l, stage, t0);
    kr_own_get(k, l, KR_OWN_GX, t0, own.gx);
    kr_own_get(k, l, KR_OWN_DU, t0, own.du);
    again_mma<K>(l, own, rows, turned, a, h0, h, u, dc);
    kr_get4(kept(k, KEPT_DA), w.dA);
    back_mma<K>(l, own, rows, turned, delta, A, a, h0, h, lb, aq, db, w);
    kr_put4(kept(k, KEPT_DA), w.dA);
    keep_sums_mma(k.sums + (l.warp * K::ROWS + t0) * 32, l, dc, db);
    kr_own_get(k, l, KR_OWN_DELTA, t0, own.delta);
    kr_own_get(k, l, KR_OWN_SLOPE, t0, own.slope);
    kr_own_get(k, l, KR_OWN_GATE_Z, t0, own.gate_z);
    float *sums = kept(k, KEPT_SUMS);
    w.dD = sums[0], w.dbias = sums[1];
#pragma unroll
    for (int e = 0; e < 2; e++) {
        int t = t0 + 2 * l.group + e;
        own.x[e] = kr_load(k.at(stage, 0, t) + l.c);
        finish(k, l, stage, t, e, k.skip[l.c], own, u[e], lb[e], aq[3 * e], with_y, gated, w);
    }
    *(float2 *)sums = make_float2(w.dD, w.dbias);
}

/* The state in front of a step as the sweep left it, loaded a step ahead; `sum` of delta from the
 * piece's first row on, negative behind a reset. */
struct start_state {
    float h[4], sum;
};
struct start_place {
    const float *h, *sum;
};
template <typename T, class K>
__device__ __forceinline__ start_place place_of(const kr_scan_in<T> &g, const K &k,
                                                const kr_scan_span &p, const kr_scan_lane &l,
                                                const back_out<T> &out) {
    int64_t at = (p.start + (p.steps - 1) / KR_STEPS) * g.E + l.channel;
    return {out.pieces.starts + at * k.padded() + l.n, out.pieces.sums + at};
}
template <bool CUT>
__device__ __forceinline__ void load_start(const start_place &place, start_state &s) {
    kr_get4(place.h, s.h);
    if (CUT) s.sum = *place.sum;
}
/* With what came into the piece. */
template <bool CUT>
__device__ __forceinline__ void start_of(const start_state &s, const float (&A)[4],
                                         const float (&came)[4], float (&h)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) h[i] = s.h[i];
    if constexpr (CUT)
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (s.sum >= 0) h[i] += kr_exp2(A[i] * s.sum) * came[i];
}

/* Sums of db and dc over the block's channels, to this part's rows [blocks of states][8 quads as in
 * keep_sums]; `more`: to what is there. */
template <typename T, class K>
__device__ __forceinline__ void store_sums(const kr_scan_in<T> &g, const K &k,
                                           const kr_scan_span &p, int64_t from, float *part,
                                           bool more) {
    const int quads = k.padded() / 2, count = K::ROWS * quads;
    const int halves = K::WIDE ? 2 * g.octets : K::CHANNELS / 4;
    int left = (int)min(p.steps - from, (int64_t)K::ROWS);
    part += (p.row + p.dir * from) * 2 * k.padded();
    int64_t stride = p.dir * 2 * k.padded();
#pragma unroll(K::WIDE ? 1 : 2)
    for (int r = 0; r < k.rounds(count); r++) {
        int i = threadIdx.x + r * k.threads(), t = i / quads, at = i % quads;
        if (t >= left) continue;
        float4 sum = {0, 0, 0, 0}, *to = (float4 *)(part + t * stride) + at;
        const float *sums = k.sums + t * 64 + at % 8 * 4;
        if (K::WIDE && more) sum = *to;
#pragma unroll
        for (int b = 0; b < halves; b++) {
            int warp = K::WIDE ? b / 2 * k.blocks + at / 8 : b / 2;
            float4 v = *(const float4 *)(sums + warp * K::ROWS * 64 + b % 2 * 32);
            sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
        }
        *to = sum;
    }
}

/* The same of keep_sums_mma: [rows][8 quads], in bf16 as the results will be. */
template <class K>
__device__ __forceinline__ void store_sums_mma(const K &k, const kr_scan_span &p, int64_t from,
                                               uint2 *part) {
    const int at = threadIdx.x % 8;
#pragma unroll
    for (int t = threadIdx.x / 8; t < K::ROWS; t += K::CHANNELS / 2) {
        float4 sum = {0, 0, 0, 0};
#pragma unroll
        for (int w = 0; w < K::CHANNELS / 8; w++) {
            float4 v = ((const float4 *)k.sums)[(w * K::ROWS + t) * 8 + (at ^ (t & 6))];
            sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
        }
        if (from + t < p.steps)
            part[(p.row + p.dir * (from + t)) * 8 + at] =
                make_uint2(kr_pair(sum.x, sum.y), kr_pair(sum.z, sum.w));
    }
}

template <typename T, class K>
__device__ __forceinline__ void store_tile(const kr_scan_in<T> &g, const K &k,
                                           const kr_scan_span &p, int64_t from, int stage,
                                           int64_t first, const back_out<T> &out) {
    T *const to[4] = {out.dx, out.ddt, out.dz, out.y};
    const int64_t row[4] = {out.dx_row, out.ddt_row, out.dz_row, out.y_row};
    const int bit[4] = {KR_SCAN_DX, KR_SCAN_DDT, KR_SCAN_DZ, KR_SCAN_Y_AGAIN};
    const unsigned any =
        1u << KR_SCAN_DX | 1u << KR_SCAN_DDT | 1u << KR_SCAN_DZ | 1u << KR_SCAN_Y_AGAIN;
    if (K::MMA && out.align >= 8 && !(out.accumulate & any)) { /* pieces as in kr_move */
        kr_piece m;
        if (from + m.t >= p.steps || first + m.c >= g.E) return;
        int64_t at = p.row + p.dir * (from + m.t);
#pragma unroll
        for (int a = 0; a < 4; a++)
            if (to[a])
                *(uint4 *)(to[a] + at * row[a] + first + m.c) =
                    *(uint4 *)(k.at(stage, a, m.t) + m.c);
        return;
    }
#pragma unroll
    for (int a = 0; a < 4; a++)
        if (to[a])
            kr_tile_store(g, k, p, from, stage, a, to[a], row[a], first, out.align,
                          out.accumulate >> bit[a] & 1);
}

/* Where the lane's channel ends: its sums over the piece, and the gradient of the first state. */
template <bool MMA, typename T>
__device__ __forceinline__ void close(const kr_scan_in<T> &g, const kr_scan_span &p,
                                      const kr_scan_lane &l, int padded, const back_out<T> &out,
                                      back_state &w) {
    for (int d = MMA ? 1 : 4; d <= (MMA ? 2 : 8); d *= 2) {
        w.dD += __shfl_xor_sync(0xffffffffu, w.dD, d);
        w.dbias += __shfl_xor_sync(0xffffffffu, w.dbias, d);
    }
    if (!l.alive) return;
    float *a = out.a + (p.piece * g.E + l.channel) * (padded + 2);
    for (int i = 0; i < 4; i++) a[kr_state_of(l, i)] = w.dA[i];
    if (l.n == 0) a[padded] = w.dD;
    if (l.n == 0) a[padded + 1] = w.dbias;
    if (!out.dstate || !p.exists || !p.first) return;
    float *to = out.dstate + p.slot * out.dstate_slot + l.channel * g.N;
    for (int i = 0; i < 4; i++) {
        int n = kr_state_of(l, i);
        if (n < g.N) kr_put(to + n, w.back[i], out.accumulate >> KR_SCAN_DSTATE_IN & 1);
    }
}

/* What comes into a piece: the state (where time is cut) and the gradient from behind. */
template <typename T>
__device__ __forceinline__ void open(const kr_scan_in<T> &g, const kr_scan_span &p,
                                     const kr_scan_lane &l, int padded, const back_out<T> &out,
                                     float (&came)[4], back_state &w) {
    w = {};
    came[0] = came[1] = came[2] = came[3] = 0;
    if (!l.alive || !p.exists) return;
    if (!out.pieces.cut || p.steps == 0) {
        kr_load_state(g, l, g.dstate ? g.dstate + p.slot * g.dstate_slot : NULL, w.back);
        return;
    }
    int64_t at = (p.piece * g.E + l.channel) * padded + l.n;
    kr_get4(out.pieces.ends + at, came);
    kr_get4(out.pieces.backs + at, w.back);
}

/* One channel block of a piece, from its last tile to its first. */
template <bool CUT, typename T, class K>
__device__ __forceinline__ void reverse_piece(const kr_scan_in<T> &g, const K &k,
                                              const kr_scan_span &p, const back_out<T> &out,
                                              int64_t first, float *part, bool more) {
    kr_scan_lane l = kr_lane<K>(g, first);
    /* 1 0 0 1, from numbers that are 0: constants would be copied for every product */
    const float y = (float)blockIdx.y, z = (float)blockIdx.z, one[4] = {1 + z, z, y, 1 + y};
    float A[4], came[4], D = 0, bias = 0;
    start_state next = {{0, 0, 0, 0}, -1};
    back_state w;
    kr_load_A(g, l, A);
    if (l.alive) D = kr_load_D(g, l.channel);
    if (l.alive && g.bias) bias = g.bias[l.channel];
    open(g, p, l, k.padded(), out, came, w);
    int64_t top = (p.steps + K::ROWS - 1) / K::ROWS * K::ROWS;
    start_place place = place_of(g, k, p, l, out);
    int stage = 0;
    if (p.steps > 0) {
        kr_tile_load(g, k, p, top - K::ROWS, 0, first);
        if (l.alive) load_start<CUT>(place, next);
    }
    for (int64_t from = top - K::ROWS;; from -= K::ROWS, stage ^= 1) {
        kr_copy_wait();
        __syncthreads();
        if (from + K::ROWS < top) {
            store_tile(g, k, p, from + K::ROWS, stage ^ 1, first, out);
            store_sums(g, k, p, from + K::ROWS, part, more);
        }
        if (from < 0) break;
        kr_tile_convert(g, k, p, from, stage);
        __syncthreads();
        if (from > 0) kr_tile_load(g, k, p, from - K::ROWS, stage ^ 1, first);
        int left = (int)min(p.steps - from, (int64_t)K::ROWS);
#pragma unroll 1
        for (int t0 = (left - 1) / 8 * 8; t0 >= 0; t0 -= 8) {
            float h0[4];
            start_of<CUT>(next, A, came, h0);
            place.h -= g.E * k.padded(), place.sum -= g.E;
            if (from + t0 > 0 && l.alive) load_start<CUT>(place, next);
            back_step(g, k, l, stage, t0, left, A, D, bias, h0, one, out.y, w);
        }
    }
    close<false>(g, p, l, k.padded(), out, w);
    __syncthreads();
}

/* The same on the tensor units: all channels of the block at once. */
template <bool CUT, typename T, class K>
__device__ __forceinline__ void reverse_mma(const kr_scan_in<T> &g, const K &k,
                                            const kr_scan_span &p, const back_out<T> &out,
                                            int64_t first, uint2 *part) {
    kr_scan_lane l = kr_lane<K>(g, first);
    float A[4], came[4];
    start_state next = {{0, 0, 0, 0}, -1};
    back_state w;
    kr_load_A(g, l, A);
    open(g, p, l, k.padded(), out, came, w);
    kr_put4(kept(k, KEPT_DA), w.dA);
    kr_put4(kept(k, KEPT_SUMS), w.dA);
    kr_keep_channels(g, k, first);
    const int top = ((int)p.steps + K::ROWS - 1) / K::ROWS * K::ROWS;
    start_place place = place_of(g, k, p, l, out);
    int stage = 0;
    if (top > 0) {
        kr_move(g, k, p, top - K::ROWS, 0, first);
        if (l.alive) load_start<CUT>(place, next);
    }
    for (int from = top - K::ROWS;; from -= K::ROWS, stage ^= 1) {
        kr_copy_wait();
        __syncthreads();
        if (from + K::ROWS < top) {
            store_tile(g, k, p, from + K::ROWS, stage ^ 1, first, out);
            store_sums_mma(k, p, from + K::ROWS, part);
        }
        if (from < 0) break;
        __syncthreads();
        if (from > 0) kr_move(g, k, p, from - K::ROWS, stage ^ 1, first);
        int left = min((int)p.steps - from, K::ROWS);
        kr_prepare_tile(g, k, l, stage, left);
#pragma unroll 1
        for (int t0 = (left - 1) / 8 * 8; t0 >= 0; t0 -= 8) {
            float h0[4];
            start_of<CUT>(next, A, came, h0);
            place.h -= g.E * k.padded();
            if (CUT) place.sum -= g.E;
            if (from + t0 > 0 && l.alive) load_start<CUT>(place, next);
            back_step_mma(k, l, stage, t0, A, h0, out.y, g.tile[2].p, w);
        }
    }
    kr_get4(kept(k, KEPT_DA), w.dA);
    w.dD = kept(k, KEPT_SUMS)[0], w.dbias = kept(k, KEPT_SUMS)[1];
    close<true>(g, p, l, k.padded(), out, w);
}

template <bool CUT, typename T, class K>
__global__ void __launch_bounds__(K::WIDE ? 512 : K::CHANNELS * 4, K::WIDE ? 1 : 3)
    reverse(const kr_scan_in<T> g, const back_out<T> out, int parts) {
    extern __shared__ float4 memory[];
    K k;
    k.carve((char *)memory, g.octets, g.blocks, 0);
    int64_t i = blockIdx.x % parts;
    __shared__ kr_scan_span p;
    kr_span_share(g, blockIdx.x / parts, p);
    if constexpr (K::MMA) {
        reverse_mma<CUT>(g, k, p, out, i * k.channels(), (uint2 *)out.bc + i * g.M * 8);
    } else {
        float *part = out.bc + i * g.M * 2 * k.padded();
        for (int64_t first = i * k.channels(); first < g.E; first += (int64_t)parts * k.channels())
            reverse_piece<CUT>(g, k, p, out, first, part, first != i * k.channels());
    }
}

/* ---- 4. add ---- */

__device__ __forceinline__ void get_quad(const float *from, float (&v)[4]) { kr_get4(from, v); }
__device__ __forceinline__ void get_quad(const bf16 *from, float (&v)[4]) {
    uint2 w = *(const uint2 *)from;
    v[0] = __uint_as_float(w.x << 16), v[1] = __uint_as_float(w.x & 0xffff0000u);
    v[2] = __uint_as_float(w.y << 16), v[3] = __uint_as_float(w.y & 0xffff0000u);
}

/* One thread: a quad of keep_sums: state i of groups 2 m and 2 m + 1, dc of both and db of both; or
 * (P is bf16) of keep_sums_mma: states i and i + 8. */
template <typename P, typename T>
__global__ void add_bc(const P *bc, int64_t parts, int64_t M, int quads, int N, T *db,
                       int64_t db_row, T *dc, int64_t dc_row, bool add_b, bool add_c) {
    const bool MMA = sizeof(P) == 2;
    int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, row = at / quads;
    if (row >= M) return;
    float sum[4] = {}, v[4];
#pragma unroll 16
    for (int64_t p = 0; p < parts; p++) {
        get_quad(bc + (p * M * quads + at) * 4, v);
        for (int j = 0; j < 4; j++) sum[j] += v[j];
    }
    int k = (int)(at % quads), n = MMA ? k : k / 8 * 16 + k % 2 * 8 + k % 8 / 2;
    for (int j = 0; j < 2; j++, n += MMA ? 8 : 4) {
        if (n < N && dc) kr_put(dc + row * dc_row + n, sum[j], add_c);
        if (n < N && db) kr_put(db + row * db_row + n, sum[2 + j], add_b);
    }
}

__device__ float add_pieces(const float *a, int64_t pieces, int64_t size) {
    float sum = 0;
#pragma unroll 8
    for (int64_t q = 0; q < pieces; q++) sum += a[q * size];
    return sum;
}

/* dA, and per channel dbias; dD over the channels that share it. */
__global__ void add_a(const float *a, int64_t pieces, int64_t E, int padded, int N, int D_width,
                      float *dA, float *dD, float *dbias, uint32_t accumulate) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, size = E * (padded + 2);
    if (i >= size) return;
    int64_t e = i / (padded + 2);
    int n = (int)(i % (padded + 2));
    if (n < N && dA)
        kr_put(dA + e * N + n, add_pieces(a + i, pieces, size), accumulate >> KR_SCAN_DA & 1);
    if (n == padded + 1 && dbias)
        kr_put(dbias + e, add_pieces(a + i, pieces, size), accumulate >> KR_SCAN_DBIAS & 1);
    if (n != padded || !dD || e % D_width) return;
    float sum = 0;
    for (int k = 0; k < D_width; k++)
        sum += add_pieces(a + i + (int64_t)k * (padded + 2), pieces, size);
    kr_put(dD + e / D_width, sum, accumulate >> KR_SCAN_DD & 1);
}

/* ---- the call ---- */

void *data_out(const kr_call *c, int i) { return i < c->n_out ? c->out[i].data : NULL; }

template <typename T>
int rows_out(const kr_call *c, int i, int64_t width, T **p, int64_t *row) {
    *p = (T *)data_out(c, i);
    *row = *p ? c->out[i].stride[0] : 0;
    return kr_align_of<T>(*p, *row, width);
}

template <typename T>
back_out<T> out_of(const kr_call *c, const kr_scan_gpu_cut &cut) {
    back_out<T> o = {};
    int x = rows_out(c, KR_SCAN_DX, cut.E, &o.dx, &o.dx_row);
    int dt = rows_out(c, KR_SCAN_DDT, cut.E, &o.ddt, &o.ddt_row);
    int z = rows_out(c, KR_SCAN_DZ, cut.E, &o.dz, &o.dz_row);
    int y = rows_out(c, KR_SCAN_Y_AGAIN, cut.E, &o.y, &o.y_row);
    o.align = min(min(x, y), min(dt, z));
    o.dstate = (float *)data_out(c, KR_SCAN_DSTATE_IN);
    if (o.dstate) o.dstate_slot = c->out[KR_SCAN_DSTATE_IN].stride[0];
    o.accumulate = c->accumulate;
    float *scratch = (float *)c->scratch;
    o.bc = scratch + cut.bc;
    o.a = scratch + cut.a;
    o.pieces = {scratch + cut.starts, scratch + cut.sums,   scratch + cut.ends,
                scratch + cut.backs,  scratch + cut.decays, cut.chunk <= cut.M};
    return o;
}

/* Floats of shared memory of `reverse` beside its tile's. */
template <class K>
int sums_of(int octets, int blocks) {
    int warps = octets * blocks, row = K::MMA ? 32 : 64;
    return warps * K::ROWS * row + (K::CHANNELS ? 0 : warps * 192);
}

/* The passes over the rows, in tiles of ROWS x CHANNELS (0: wide). */
template <int ROWS, int CHANNELS, typename T>
void passes(const kr_scan_in<T> &g, const back_out<T> &out, const kr_scan_gpu_cut &cut) {
    typedef kr_tile<T, ROWS, CHANNELS, 2> two;
    typedef kr_tile<T, ROWS, CHANNELS, 4> four;
    int64_t blocks = (g.E + g.octets * 8 - 1) / (g.octets * 8);
    if (out.pieces.cut) {
        kr_scan_launch<four>(kr_scan_sweep<KR_SWEEP_BOTH, T, four>, g, out.pieces, blocks,
                             cut.pieces, 0);
        kr_scan_fold_launch<true, four>(g, out.pieces);
    } else {
        kr_scan_launch<two>(kr_scan_sweep<KR_SWEEP_STARTS, T, two>, g, out.pieces, blocks,
                            cut.pieces, 0);
    }
    kr_scan_launch<four>(out.pieces.cut ? reverse<true, T, four> : reverse<false, T, four>, g, out,
                         cut.parts, cut.pieces, sums_of<four>(g.octets, g.blocks));
}

template <typename T>
void add(const kr_call *c, const kr_scan_gpu_cut &cut, const kr_scan_in<T> &g,
         const back_out<T> &out) {
    T *db, *dc;
    int64_t db_row, dc_row, padded = KR_SCAN_GPU_STATES * (int64_t)cut.blocks;
    rows_out(c, KR_SCAN_DB, g.N, &db, &db_row);
    rows_out(c, KR_SCAN_DC, g.N, &dc, &dc_row);
    const dim3 grid(kr_blocks(g.M * padded / 2, 128));
    auto add_up = [&](auto *bc) {
        add_bc<<<grid, 128, 0, kr_cuda_stream()>>>(bc, cut.parts, g.M, (int)padded / 2, g.N, db,
                                                   db_row, dc, dc_row, KR_ACC(c, KR_SCAN_DB) != 0,
                                                   KR_ACC(c, KR_SCAN_DC) != 0);
    };
    if (g.M && (db || dc)) {
        if (kr_tile<T, 32, 32, 4>::MMA && cut.blocks == 1)
            add_up((const bf16 *)out.bc);
        else
            add_up((const float *)out.bc);
    }
    add_a<<<kr_blocks(g.E * (padded + 2), 128), 128, 0, kr_cuda_stream()>>>(
        out.a, cut.pieces, g.E, (int)padded, g.N, g.D_width, (float *)data_out(c, KR_SCAN_DA),
        (float *)data_out(c, KR_SCAN_DD), (float *)data_out(c, KR_SCAN_DBIAS), c->accumulate);
}

template <typename T>
void run(const kr_call *c) {
    kr_scan_gpu_cut cut;
    kr_scan_gpu_plan(c, true, &cut);
    kr_scan_in<T> g = kr_scan_in_of<T>(c);
    g.chunk = cut.chunk;
    g.octets = cut.octets;
    back_out<T> out = out_of<T>(c, cut);
    if (out.dstate && !KR_ACC(c, KR_SCAN_DSTATE_IN)) /* slots that no sequence names */
        cudaMemsetAsync(out.dstate, 0, kr_tensor_bytes(&c->out[KR_SCAN_DSTATE_IN]),
                        kr_cuda_stream());
    if (g.S == 0 || g.E == 0) return;
    if (g.blocks > 1)
        passes<16, 0>(g, out, cut);
    else
        passes<32, 32>(g, out, cut);
    add(c, cut, g, out);
}

/* In its largest kernel. */
template <class K>
bool has_room(int octets, int blocks) {
    return kr_scan_has_room<K>(octets, blocks, sums_of<K>(octets, blocks));
}

template <typename T>
bool has_room_of(int octets, int blocks) {
    return blocks > 1 ? has_room<kr_tile<T, 16, 0, 4>>(octets, blocks)
                      : has_room<kr_tile<T, 32, 32, 4>>(octets, blocks);
}

} // namespace

extern "C" bool kr_scan_lanes_grad_has_room(int octets, int blocks, kr_dtype type) {
    return type == KR_BF16 ? has_room_of<bf16>(octets, blocks) : has_room_of<float>(octets, blocks);
}

extern "C" void kr_scan_grad_cuda(const kr_call *c) {
    kr_scan_gpu_way way = kr_scan_gpu_pick(c);
    if (way == KR_SCAN_GPU_COMPLEX) return kr_scan_complex_grad_cuda(c);
    if (way == KR_SCAN_GPU_ROWS) return kr_scan_rows_grad_cuda(c);
    if (way == KR_SCAN_GPU_CONV) return kr_scan_conv_grad_cuda(c);
    if (way == KR_SCAN_GPU_LOW) return kr_scan_low_grad_cuda(c);
    if (way == KR_SCAN_GPU_DENSE) return kr_scan_dense_grad_cuda(c);
    if (way == KR_SCAN_GPU_MATRIX) return kr_scan_matrix_grad_cuda(c);
    if (c->in[KR_SCAN_X].dtype == KR_BF16)
        run<bf16>(c);
    else
        run<float>(c);
}
