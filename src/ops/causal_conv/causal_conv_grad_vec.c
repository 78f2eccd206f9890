/* causal_conv_grad_vec.c - the gradient of the causal convolution, over vectors of channels.
 * causal_conv.h has the equations.
 *
 * One pass down the rows: at row t the pre-activation and g[t] are formed, g[t] x[t-k] joins the
 * sums of dweight, and weight g[t] joins the gradients of the last K rows, which live in registers
 * for K = 4 and leave them when complete. Blocks of up to BLOCK rows that no reset splits; between
 * blocks the unfinished gradients lie in dx itself. Threads take channels, so every sum has one
 * order. */
#include "ops/causal_conv/causal_conv.h"

#include "ops/seqs.h"
#include "ops/threads.h"
#include "vec/vec_math.h"

/* AHEAD: channels fetched before they are needed. A vector goes down BLOCK rows of three arrays,
 * more places than the processor follows by itself. */
enum { BLOCK = 16, AHEAD = 64 };

typedef struct conv {
    const kr_tensor *x, *state, *dy, *dnext, *dx, *dstate; /* all but x may be absent */
    const float *weight, *bias;                            /* [E,1,K], [E] or NULL */
    float *sums;                                           /* [K+1,E]: dweight by tap, dbias */
    float *g;                                              /* [E] */
    const kr_tensor *seqs;
    const uint8_t *reset;
    int64_t S, E, K;
    bool silu, add_dx;
} conv;

/* The first place that place t sees: its window's start, or the last reset within. */
static int64_t window(const conv *v, kr_seq s, int64_t t) {
    return kr_seq_window(s, v->reset, t - (v->K - 1), t);
}

/* Place q of a sequence in rows (q >= 0) or states (q < 0): x and state, or dx and dstate. NULL:
 * absent. */
static float *place(const conv *v, const kr_tensor *rows, const kr_tensor *state, kr_seq s,
                    int64_t q) {
    if (q >= 0) return rows->data ? (float *)rows->data + (s.first + q) * rows->stride[0] : NULL;
    if (!state->data) return NULL;
    return (float *)state->data + s.slot * state->stride[0] + (v->K - 1 + q) * state->stride[1];
}

KR_VINLINE kr_vf load_or_zero(const float *p, int64_t e, int64_t left) {
    return p ? kr_vload_n(p + e, left) : kr_vzero();
}
KR_VINLINE void add_to(float *p, int64_t left, kr_vf v) {
    kr_vstore_n(p, left, kr_vload_n(p, left) + v);
}

/* g = dy * silu'(p) */
KR_VINLINE kr_vf slope(kr_vf dy, kr_vf p, bool silu) {
    return silu ? dy * kr_vsilu_slope(p, kr_vsigmoid(p)) : dy;
}

/* A block of rows, K = 4: the three inputs before it (NULL: zeros), and where the gradients of
 * those and of the block's own rows go (NULL: nowhere). */
typedef struct block {
    const float *before[3], *x, *dy;
    float *to[3 + BLOCK];
    int64_t rows;
} block;

/* One vector of channels, [e, end), down the block. */
KR_VINLINE void down_four(const conv *v, const block *k, int64_t e, int64_t end, bool silu) {
    int64_t left = end - e, xs = v->x->stride[0], ys = v->dy->stride[0];
    kr_vf w[4], sum[5] = {kr_vzero(), kr_vzero(), kr_vzero(), kr_vzero(), kr_vzero()};
    kr_vf x0 = load_or_zero(k->before[0], e, left), x1 = load_or_zero(k->before[1], e, left);
    kr_vf x2 = load_or_zero(k->before[2], e, left), bias = load_or_zero(v->bias, e, left);
    kr_vf d0 = load_or_zero(k->to[0], e, left), d1 = load_or_zero(k->to[1], e, left);
    kr_vf d2 = load_or_zero(k->to[2], e, left);
    kr_vload_four_n(v->weight + 4 * e, left, w);
    for (int64_t r = 0; r < k->rows; r++) {
        kr_vf x3 = kr_vload_n(k->x + r * xs + e, left), dy = kr_vzero();
        __builtin_prefetch(k->x + r * xs + e + AHEAD);
        if (k->dy) {
            dy = kr_vload_n(k->dy + r * ys + e, left);
            __builtin_prefetch(k->dy + r * ys + e + AHEAD);
        }
        kr_vf p = kr_vfma(w[0], x0, kr_vfma(w[1], x1, kr_vfma(w[2], x2, kr_vfma(w[3], x3, bias))));
        kr_vf g = slope(dy, p, silu);
        kr_vf d3 = v->add_dx ? load_or_zero(k->to[r + 3], e, left) : kr_vzero();
        sum[0] = kr_vfma(g, x0, sum[0]), sum[1] = kr_vfma(g, x1, sum[1]);
        sum[2] = kr_vfma(g, x2, sum[2]), sum[3] = kr_vfma(g, x3, sum[3]);
        sum[4] += g;
        if (k->to[r]) {
            kr_vstore_n(k->to[r] + e, left, kr_vfma(w[0], g, d0));
            __builtin_prefetch(k->to[r] + e + AHEAD, 1);
        }
        d0 = kr_vfma(w[1], g, d1), d1 = kr_vfma(w[2], g, d2), d2 = kr_vfma(w[3], g, d3);
        x0 = x1, x1 = x2, x2 = x3;
    }
    float *const *last = &k->to[k->rows];
    if (last[0]) kr_vstore_n(last[0] + e, left, d0);
    if (last[1]) kr_vstore_n(last[1] + e, left, d1);
    if (last[2]) kr_vstore_n(last[2] + e, left, d2);
    for (int i = 0; i < 5; i++) add_to(v->sums + i * v->E + e, left, sum[i]);
}

/* Places [t, t + rows) of a sequence, K = 4. */
static void block_four(const conv *v, kr_part channels, kr_seq s, int64_t t, int64_t rows) {
    int64_t from = window(v, s, t);
    block k = {.rows = rows,
               .x = place(v, v->x, v->state, s, t),
               .dy = place(v, v->dy, v->state, s, t)};
    for (int64_t i = 0; i < 3; i++)
        k.before[i] = t - 3 + i < from ? NULL : place(v, v->x, v->state, s, t - 3 + i);
    for (int64_t i = 0; i < rows + 3; i++)
        k.to[i] = t - 3 + i < from ? NULL : place(v, v->dx, v->dstate, s, t - 3 + i);
    for (int64_t e = channels.begin; e < channels.end; e += KR_W) {
        if (v->silu)
            down_four(v, &k, e, channels.end, true);
        else
            down_four(v, &k, e, channels.end, false);
    }
}

/* v->g = g[t] for any K: the pre-activation is summed there, tap by tap. */
static void row_g(const conv *v, kr_part channels, kr_seq s, int64_t t, int64_t from) {
    const float *dy = place(v, v->dy, v->state, s, t);
    for (int64_t e = channels.begin; e < channels.end; e += KR_W) {
        int64_t left = channels.end - e;
        kr_vf p = load_or_zero(v->bias, e, left);
        for (int64_t w = 0; w < v->K; w++) {
            int64_t q = t - (v->K - 1) + w;
            const float *x = q < from ? NULL : place(v, v->x, v->state, s, q);
            if (x)
                p = kr_vfma(kr_vload_strided(v->weight + e * v->K + w, v->K, left),
                            kr_vload_n(x + e, left), p);
        }
        kr_vf g = slope(load_or_zero(dy, e, left), p, v->silu);
        kr_vstore_n(v->g + e, left, g);
        add_to(v->sums + v->K * v->E + e, left, g);
    }
}

/* Place t for any K. */
static void row_any(const conv *v, kr_part channels, kr_seq s, int64_t t) {
    int64_t from = window(v, s, t);
    float *own = place(v, v->dx, v->dstate, s, t);
    row_g(v, channels, s, t, from);
    if (own && !v->add_dx)
        memset(own + channels.begin, 0, (size_t)(channels.end - channels.begin) * sizeof *own);
    for (int64_t w = 0; w < v->K; w++) {
        int64_t q = t - (v->K - 1) + w;
        const float *x = q < from ? NULL : place(v, v->x, v->state, s, q);
        float *to = q < from ? NULL : place(v, v->dx, v->dstate, s, q);
        for (int64_t e = channels.begin; e < channels.end; e += KR_W) {
            int64_t left = channels.end - e;
            kr_vf g = kr_vload_n(v->g + e, left);
            if (x) add_to(v->sums + w * v->E + e, left, g * kr_vload_n(x + e, left));
            if (to)
                add_to(to + e, left, g * kr_vload_strided(v->weight + e * v->K + w, v->K, left));
        }
    }
}

/* What the gradient of state_out says of the sequence's last inputs. */
static void add_state_out(const conv *v, kr_part channels, kr_seq s) {
    int64_t first = s.count - (v->K - 1), from = window(v, s, s.count - 1);
    for (int64_t j = 0; j < v->K - 1; j++) {
        float *to = first + j < from ? NULL : place(v, v->dx, v->dstate, s, first + j);
        const float *d =
            (const float *)v->dnext->data + s.slot * v->dnext->stride[0] + j * v->dnext->stride[1];
        for (int64_t e = channels.begin; to && e < channels.end; e += KR_W)
            add_to(to + e, channels.end - e, kr_vload_n(d + e, channels.end - e));
    }
}

static void sequence(const conv *v, kr_part channels, kr_seq s) {
    for (int64_t t = 0, rows; t < s.count; t += rows) {
        rows = 1;
        while (v->K == 4 && rows < BLOCK && t + rows < s.count &&
               !(v->reset && v->reset[s.first + t + rows]))
            rows++;
        if (v->K == 4)
            block_four(v, channels, s, t, rows);
        else
            row_any(v, channels, s, t);
    }
    if (v->dnext->data) add_state_out(v, channels, s);
}

/* The sums of dweight and dbias begin at zero; so do the states' gradients unless they are added
 * to. */
static void clear(const conv *v, kr_part channels, bool clear_states) {
    size_t size = (size_t)(channels.end - channels.begin) * sizeof(float);
    for (int64_t w = 0; w <= v->K; w++) memset(v->sums + w * v->E + channels.begin, 0, size);
    for (int64_t i = 0; clear_states && v->dstate->data && i < v->dstate->shape[0]; i++)
        for (int64_t j = 0; j < v->K - 1; j++)
            memset((float *)v->dstate->data + i * v->dstate->stride[0] + j * v->dstate->stride[1] +
                       channels.begin,
                   0, size);
}

/* dweight [E,1,K] and dbias [E] from the sums. */
static void put_sums(const conv *v, const kr_call *c, kr_part channels) {
    float *dweight = c->out[1].data, *dbias = c->out[2].data;
    for (int64_t e = channels.begin; e < channels.end; e++) {
        for (int64_t w = 0; dweight && w < v->K; w++) {
            float *to = &dweight[e * v->K + w];
            *to = v->sums[w * v->E + e] + (c->accumulate & 2 ? *to : 0);
        }
        if (dbias) dbias[e] = v->sums[v->K * v->E + e] + (c->accumulate & 4 ? dbias[e] : 0);
    }
}

void KR_FN(kr_causal_conv_grad)(const kr_call *c) {
    int64_t E = c->in[1].shape[1], K = c->in[2].shape[2];
    conv v = {.x = &c->in[1],
              .state = &c->in[6],
              .dy = &c->in[0],
              .dnext = &c->in[7],
              .dx = &c->out[0],
              .dstate = &c->out[3],
              .weight = c->in[2].data,
              .bias = c->in[3].data,
              .sums = c->scratch,
              .g = (float *)c->scratch + (K + 1) * E,
              .seqs = &c->in[4],
              .reset = c->in[5].data,
              .S = c->in[4].shape[0],
              .E = E,
              .K = K,
              .silu = ((const kr_causal_conv_attr *)c->attr)->silu != 0,
              .add_dx = c->accumulate & 1};
    int threads = kr_threads_for(c, v.x->shape[0] * E * 16);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        kr_part channels = kr_my_part(E, KR_W);
        clear(&v, channels, !(c->accumulate & 8));
        for (int64_t i = 0; i < v.S; i++) sequence(&v, channels, kr_seq_of(v.seqs, i));
        put_sums(&v, c, channels);
    }
}
