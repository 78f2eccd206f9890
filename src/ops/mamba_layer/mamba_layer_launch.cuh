/* mamba_layer_launch.cuh - how the kernels of mamba_layer.cu and mamba2_layer.cu come onto the
 * card: what layers of either kind have out of a call, how many calls of a chain one kernel does,
 * where things lie in shared memory, and the launch.
 *
 * A kind K of layers has the types sizes and layer and the functions
 *   kernel<T, R>()                  the kernel for weights of type T and R rows of x
 *   sizes_of(call), layer_of(call)
 *   is_whole(sizes, layer, size)    rows of weights, of `size` bytes a number, are 16-byte vectors
 *   words(sizes)                    numbers of a row that all blocks need in the middle of a layer
 *   tiles(sizes, channels, blocks)  of a block that has so many channels, in its largest product */
#ifndef KR_MAMBA_LAYER_LAUNCH_CUH
#define KR_MAMBA_LAYER_LAUNCH_CUH

#include <string.h>

#include "ops/mamba_layer/mamba_layer_block.cuh"

/* Where things lie in shared memory behind the ring, in bytes. */
struct places {
    int slots, ld_rows, rows, parts, words, u, gate, layers, end;
};

template <typename S, typename L>
struct arguments_of {
    S s;
    places at;
    const float *x;
    const int64_t *seqs;
    int n, ahead;
    bool whole; /* rows of weights are 16-byte vectors */
    L layers[KR_LAYER_LAYERS];
};

/* ---- out of a call --------------------------------------------------------------------------- */

static void fill_parts(const kr_call *c, layer_parts *l) {
    const kr_tensor *in = c->in, *out = c->out;
    l->w_in = in[KR_LAYER_IN].data;
    l->w_out = in[KR_LAYER_OUT].data;
    l->norm = (const float *)in[KR_LAYER_NORM].data;
    l->in_bias = (const float *)in[KR_LAYER_IN_BIAS].data;
    l->conv = (const float *)in[KR_LAYER_CONV].data;
    l->conv_bias = (const float *)in[KR_LAYER_CONV_BIAS].data;
    l->dt_bias = (const float *)in[KR_LAYER_DT_BIAS].data;
    l->A = (const float *)in[KR_LAYER_A].data;
    l->D = (const float *)in[KR_LAYER_D].data;
    l->out_bias = (const float *)in[KR_LAYER_OUT_BIAS].data;
    l->window = (const float *)in[KR_LAYER_WINDOW].data;
    l->state = (const float *)in[KR_LAYER_STATE].data;
    l->window_out = (float *)out[KR_LAYER_WINDOW_OUT].data;
    l->state_out = (float *)out[KR_LAYER_STATE_OUT].data;
    l->y = (float *)out[KR_LAYER_Y].data;
}

/* All but x_row and eps. */
static void fill_sizes(const kr_call *c, layer_sizes *s) {
    const kr_tensor *in = c->in, *out = c->out;
    s->ld_in = in[KR_LAYER_IN].stride[0];
    s->ld_out = in[KR_LAYER_OUT].stride[0];
    s->ld_y = out[KR_LAYER_Y].stride[0];
    s->ld_from = in[KR_LAYER_X].stride[0];
    s->from_slot = in[KR_LAYER_WINDOW].stride[0];
    s->from_tap = in[KR_LAYER_WINDOW].stride[1];
    s->to_slot = out[KR_LAYER_WINDOW_OUT].stride[0];
    s->to_tap = out[KR_LAYER_WINDOW_OUT].stride[1];
    s->from_h = in[KR_LAYER_STATE].stride[0];
    s->to_h = out[KR_LAYER_STATE_OUT].stride[0];
    s->D = (int)in[KR_LAYER_X].shape[1];
    s->E = (int)in[KR_LAYER_OUT].shape[1];
    s->N = (int)in[KR_LAYER_STATE].shape[2];
    s->M = (int)in[KR_LAYER_X].shape[0];
    s->K = (int)in[KR_LAYER_CONV].shape[2];
    s->one_of_D = 1 / (float)s->D;
}

static bool aligned(const void *p, int64_t bytes) {
    return (((uintptr_t)p | (uintptr_t)bytes) & 15) == 0;
}

/* Of what layers of either kind have. */
static bool parts_whole(const layer_sizes &s, const layer_parts &l, int size) {
    return aligned(l.w_in, s.ld_in * size) && aligned(l.w_out, s.ld_out * size) &&
           aligned(l.state, s.from_h * 4) && aligned(l.state_out, s.to_h * 4) &&
           aligned(NULL, s.N * 4);
}

/* As many of the calls as one kernel can do. */
template <typename K, typename A>
static void gather(const kr_call *const *calls, int n, int size, A *a) {
    a->s = K::sizes_of(calls[0]);
    a->x = (const float *)calls[0]->in[KR_LAYER_X].data;
    a->seqs = (const int64_t *)calls[0]->in[KR_LAYER_SEQS].data;
    a->whole = true;
    for (a->n = 0; a->n < n && a->n < KR_LAYER_LAYERS; a->n++) {
        const kr_call *c = calls[a->n];
        auto s = K::sizes_of(c);
        if (a->n > 0) s.ld_from = a->s.ld_from;
        if (memcmp(&s, &a->s, sizeof s) != 0 || c->in[KR_LAYER_SEQS].data != a->seqs ||
            c->in[KR_LAYER_STATE].dtype != calls[0]->in[KR_LAYER_STATE].dtype)
            break;
        a->layers[a->n] = K::layer_of(c);
        a->whole = a->whole && K::is_whole(s, a->layers[a->n], size);
    }
}

/* ---- shared memory --------------------------------------------------------------------------- */

static int up(int64_t bytes) { return (int)((bytes + 127) / 128 * 128); }

static int larger(int a, int b) { return a > b ? a : b; }

/* Rows of x that a kernel is made for. */
static int rows_made(int64_t M) { return M <= 1 ? 1 : M <= 2 ? 2 : M <= 4 ? 4 : 8; }

/* Bytes of a row of x in shared memory: neighbours in different banks. */
static int row_bytes(const layer_sizes &s, int size) {
    return (larger(s.E, s.D) * size + 63) / 64 * 64 | 64;
}

static int blocks_of(const layer_sizes &s) {
    int blocks = kr_cuda_processors(), units = s.E / KR_LAYER_UNIT;
    blocks = blocks < units ? blocks : units;
    return blocks < s.D ? blocks : s.D;
}

/* As many slots of the ring as there is room for beside n layers. */
template <typename K>
static places places_of(const typename K::sizes &s, int n, int size) {
    int blocks = blocks_of(s), channels = (s.E / KR_LAYER_UNIT / blocks + 1) * KR_LAYER_UNIT;
    int R = rows_made(s.M);
    places p = {};
    p.ld_rows = row_bytes(s, size);
    p.parts = up((int64_t)p.ld_rows * R);
    p.words = p.parts + up((int64_t)K::tiles(s, channels, blocks) * WARPS * R * TILE * 4);
    p.u = p.words + up((int64_t)s.M * K::words(s) * 4);
    p.gate = p.u + up((int64_t)s.M * channels * 4);
    p.layers = p.gate + up((int64_t)s.M * channels * 4);
    p.end = p.layers + up((int64_t)n * (int64_t)sizeof(typename K::layer));
    p.slots = (kr_cuda_shared() - 1024 - p.end) / SLOT;
    p.slots = p.slots < MOST_SLOTS ? p.slots : MOST_SLOTS;
    int ring = p.slots * SLOT;
    p.rows += ring, p.parts += ring, p.words += ring, p.u += ring, p.gate += ring;
    p.layers += ring;
    p.end += ring;
    return p;
}

/* How many pieces of the ring are under way at a time. */
static int pieces_ahead(const layer_sizes &s, int size, int slots) {
    int piece = piece_of(s.D * size) * TILE, ahead = (UNDER_WAY + piece / 2) / piece;
    return ahead < slots ? ahead : slots;
}

/* ---- launching ------------------------------------------------------------------------------- */

/* go(kernel) with the one for M rows of x. */
template <typename K, typename T, typename F>
static auto with_kernel(int64_t M, F go) {
    if (M <= 1) return go(K::template kernel<T, 1>());
    if (M <= 2) return go(K::template kernel<T, 2>());
    return M <= 4 ? go(K::template kernel<T, 4>()) : go(K::template kernel<T, 8>());
}

/* All blocks of a kernel, no more than multiprocessors, are on the card at once. */
template <typename F>
static bool resident(F *kernel, int shared) {
    int each = 0;
    bool known = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      shared) == cudaSuccess &&
                 cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, THREADS + 32,
                                                               (size_t)shared) == cudaSuccess;
    if (!known) cudaGetLastError();
    return known && each >= 1;
}

/* Whether the card has room for the ring, and for all blocks at once. */
template <typename K, typename T>
static bool has_room(const typename K::sizes &s) {
    places p = places_of<K>(s, KR_LAYER_LAYERS, sizeof(T));
    auto there = [&](auto *kernel) { return resident(kernel, p.end); };
    return p.slots >= 2 && with_kernel<K, T>(s.M, there);
}

/* Does some of the calls in one kernel; returns how many. */
template <typename K, typename T>
static int launch(const kr_call *const *calls, int n) {
    arguments_of<typename K::sizes, typename K::layer> a;
    gather<K>(calls, n, sizeof(T), &a);
    a.at = places_of<K>(a.s, a.n, sizeof(T));
    a.ahead = pieces_ahead(a.s, sizeof(T), a.at.slots);
    with_kernel<K, T>(a.s.M, [&](auto *kernel) {
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, a.at.end);
        kr_launch_early(kernel, true, dim3(blocks_of(a.s)), THREADS + 32, (size_t)a.at.end, a);
    });
    return a.n;
}

/* All of the calls: launch_some(calls, n) does some and returns how many. */
template <typename F>
static void launch_all(const kr_call *const *calls, int n, F launch_some) {
    if (calls[0]->in[KR_LAYER_X].shape[0] == 0) return;
    for (int done = 0; done < n;) done += launch_some(calls + done, n - done);
}

static bool in_halves(const kr_call *c, int i) { return c->in[i].dtype == KR_BF16; }

#endif
