/* phase_vec.c - angles through time over vectors of angles. phase.h has the equations.
 *
 * What a token turns by is computed once and serves all heads. A row's angles are made from those
 * of the row before it, as a step's are from the state: a sequence token by token and as a whole
 * gives the same bytes. Threads take sequences. */
#include "ops/phase/phase.h"

#include "ops/seqs.h"
#include "ops/threads.h"
#include "vec/vec_math.h"

#define PI 0x1.921fb6p+1f
/* 2 pi in two parts */
#define TURN_HIGH 0x1.921fb6p+2f
#define TURN_LOW (-0x1.777a5cp-23f)

static float *row(const kr_tensor *t, int64_t m) { return (float *)t->data + m * t->stride[0]; }

KR_VINLINE void put(float *p, int64_t n, kr_vf v, bool add) {
    kr_vstore_n(p, n, add ? v + kr_vload_n(p, n) : v);
}

/* Into [-pi, pi). */
KR_VINLINE kr_vf wrap(kr_vf phi) {
    kr_vf n = kr_vround(phi * 0x1.45f306p-3f);
    return kr_vnfma(n, kr_vset(TURN_LOW), kr_vnfma(n, kr_vset(TURN_HIGH), phi));
}

/* pi tanh of a row's angles. */
static void turns_of(const float *angle, float *turns, int64_t S) {
    for (int64_t i = 0; i < S; i += KR_W)
        kr_vstore_n(turns + i, S - i, PI * kr_vtanh(kr_vload_n(angle + i, S - i)));
}

static void forward_row(const kr_call *c, int64_t t, const float *before, float *turns) {
    int64_t S = c->in[0].shape[1], H = c->in[1].shape[1];
    float *phi = row(&c->out[0], t);
    turns_of(row(&c->in[0], t), turns, S);
    for (int64_t h = 0; h < H; h++) {
        kr_vf delta = kr_vset(row(&c->in[1], t)[h]);
        for (int64_t i = 0; i < S; i += KR_W) {
            kr_vf old = before ? kr_vload_n(before + h * S + i, S - i) : kr_vzero();
            kr_vf now = kr_vfma(kr_vload_n(turns + i, S - i), delta, old);
            kr_vstore_n(phi + h * S + i, S - i, wrap(now));
        }
    }
}

static void forward_seq(const kr_call *c, kr_seq q, float *turns) {
    const uint8_t *reset = c->in[3].data;
    const float *phi = c->in[4].data ? row(&c->in[4], q.slot) : NULL;
    size_t size = (size_t)(c->in[0].shape[1] * c->in[1].shape[1]) * sizeof(float);
    for (int64_t t = q.first; t < q.first + q.count; t++) {
        forward_row(c, t, reset && reset[t] ? NULL : phi, turns);
        phi = row(&c->out[0], t);
    }
    if (c->n_out < 2 || !c->out[1].data) return;
    float *to = row(&c->out[1], q.slot);
    if (!phi)
        memset(to, 0, size);
    else if (phi != to)
        memcpy(to, phi, size);
}

static float *own(const kr_call *c, int64_t H, int64_t S) {
    return (float *)((double *)c->scratch + omp_get_thread_num() * (H + 2) * (S + 16));
}

void KR_FN(kr_phase)(const kr_call *c) {
    int64_t S = c->in[0].shape[1], H = c->in[1].shape[1], n = c->in[2].shape[0];
    int threads = kr_threads_for(c, c->in[0].shape[0] * H * S * 12);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t s = 0; s < n; s++) forward_seq(c, kr_seq_of(&c->in[2], s), own(c, H, S));
}

/* Row t: G [H,S] gains what it gives; turns and sum [S] are scratch. */
static void backward_row(const kr_call *c, int64_t t, float *G, float *turns, float *sum) {
    int64_t S = c->in[1].shape[1], H = c->in[2].shape[1];
    const float *dphi = c->in[0].data ? row(&c->in[0], t) : NULL, *angle = row(&c->in[1], t);
    turns_of(angle, turns, S);
    memset(sum, 0, (size_t)S * sizeof *sum);
    for (int64_t h = 0; h < H; h++) {
        kr_vf delta = kr_vset(row(&c->in[2], t)[h]), dot = kr_vzero();
        for (int64_t i = 0; i < S; i += KR_W) {
            int64_t left = S - i;
            kr_vf g = kr_vload_n(G + h * S + i, left);
            if (dphi) g += kr_vload_n(dphi + h * S + i, left);
            kr_vstore_n(G + h * S + i, left, g);
            dot = kr_vfma(g, kr_vload_n(turns + i, left), dot);
            kr_vstore_n(sum + i, left, kr_vfma(g, delta, kr_vload_n(sum + i, left)));
        }
        if (!c->out[1].data) continue;
        float *to = row(&c->out[1], t) + h, value = kr_vsum(dot);
        *to = c->accumulate & 2 ? *to + value : value;
    }
    for (int64_t i = 0; c->out[0].data && i < S; i += KR_W) {
        kr_vf e = kr_vexp(-2.0f * kr_vabs(kr_vload_n(angle + i, S - i))), by = 1.0f + e;
        put(row(&c->out[0], t) + i, S - i, 4.0f * PI * e / (by * by) * kr_vload_n(sum + i, S - i),
            c->accumulate & 1);
    }
}

static void backward_seq(const kr_call *c, kr_seq q, float *scratch) {
    const uint8_t *reset = c->in[4].data;
    int64_t S = c->in[1].shape[1], lanes = S * c->in[2].shape[1];
    float *G = scratch, *turns = G + lanes, *sum = turns + S;
    memset(G, 0, (size_t)lanes * sizeof *G);
    if (c->in[6].data) memcpy(G, row(&c->in[6], q.slot), (size_t)lanes * sizeof *G);
    for (int64_t t = q.first + q.count - 1; t >= q.first; t--) {
        backward_row(c, t, G, turns, sum);
        if (reset && reset[t]) memset(G, 0, (size_t)lanes * sizeof *G);
    }
    for (int64_t j = 0; c->n_out > 2 && c->out[2].data && j < lanes; j += KR_W)
        put(row(&c->out[2], q.slot) + j, lanes - j, kr_vload_n(G + j, lanes - j),
            c->accumulate & 4);
}

void KR_FN(kr_phase_grad)(const kr_call *c) {
    int64_t S = c->in[1].shape[1], H = c->in[2].shape[1], n = c->in[3].shape[0];
    const kr_tensor *dstate = &c->out[2];
    bool clear = c->n_out > 2 && dstate->data && !(c->accumulate & 4);
    for (int64_t i = 0; clear && i < dstate->shape[0]; i++)
        memset(row(dstate, i), 0, (size_t)(H * S) * sizeof(float));
    int threads = kr_threads_for(c, c->in[1].shape[0] * H * S * 16);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t s = 0; s < n; s++) backward_seq(c, kr_seq_of(&c->in[3], s), own(c, H, S));
}
