/* causal_conv_vec.c - the causal convolution forward, over vectors of channels. causal_conv.h has
 * the equation.
 *
 * Rows are taken in blocks of up to BLOCK that no reset splits; for K = 4 a vector of channels goes
 * down its block with the last three inputs in registers, so that each row and each weight is
 * loaded once a block. Threads take rows; the states are written after all rows, because state_out
 * may be the memory of state_in. */
#include "ops/causal_conv/causal_conv.h"

#include "ops/seqs.h"
#include "ops/threads.h"
#include "vec/vec_math.h"

enum { BLOCK = 8 };

typedef struct conv {
    const kr_tensor *x, *state, *y, *next; /* state->data, next->data may be NULL */
    const float *weight, *bias;            /* [E,1,K], [E] or NULL */
    const kr_tensor *seqs;
    const uint8_t *reset;
    int64_t S, E, K;
    bool silu;
} conv;

/* The first place that place t sees: its window's start, or the last reset within. */
static int64_t window(const conv *v, kr_seq s, int64_t t) {
    return kr_seq_window(s, v->reset, t - (v->K - 1), t);
}

/* The input at place q (q < 0: in the state); NULL: zeros. `from` is the first place seen. */
static const float *place(const conv *v, kr_seq s, int64_t q, int64_t from) {
    if (q < from || (q < 0 && !v->state->data)) return NULL;
    if (q >= 0) return (const float *)v->x->data + (s.first + q) * v->x->stride[0];
    return (const float *)v->state->data + s.slot * v->state->stride[0] +
           (v->K - 1 + q) * v->state->stride[1];
}

KR_VINLINE kr_vf load_or_zero(const float *p, int64_t e, int64_t left) {
    return p ? kr_vload_n(p + e, left) : kr_vzero();
}

/* One vector of channels, from e on, down `rows` rows. before: the three rows above x. */
KR_VINLINE void down_four(const conv *v, const float *const before[3], const float *x, float *y,
                          int64_t rows, int64_t e, bool silu) {
    int64_t left = v->E - e, xs = v->x->stride[0], ys = v->y->stride[0];
    kr_vf w[4], a = load_or_zero(before[0], e, left), b = load_or_zero(before[1], e, left);
    kr_vf c = load_or_zero(before[2], e, left), bias = load_or_zero(v->bias, e, left);
    kr_vload_four_n(v->weight + 4 * e, left, w);
    for (int64_t r = 0; r < rows; r++) {
        kr_vf d = kr_vload_n(x + r * xs + e, left);
        kr_vf p = kr_vfma(w[0], a, kr_vfma(w[1], b, kr_vfma(w[2], c, kr_vfma(w[3], d, bias))));
        kr_vstore_n(y + r * ys + e, left, silu ? kr_vsilu(p) : p);
        a = b, b = c, c = d;
    }
}

/* Rows [t, t + rows) of a sequence, K = 4. */
static void block_four(const conv *v, kr_seq s, int64_t t, int64_t rows) {
    int64_t from = window(v, s, t);
    const float *before[3], *x = place(v, s, t, t);
    float *y = (float *)v->y->data + (s.first + t) * v->y->stride[0];
    for (int i = 0; i < 3; i++) before[i] = place(v, s, t - 3 + i, from);
    if (v->silu)
        for (int64_t e = 0; e < v->E; e += KR_W) down_four(v, before, x, y, rows, e, true);
    else
        for (int64_t e = 0; e < v->E; e += KR_W) down_four(v, before, x, y, rows, e, false);
}

/* One row for any K: y is summed tap by tap, in the cache. */
static void row_any(const conv *v, kr_seq s, int64_t t) {
    int64_t from = window(v, s, t);
    float *y = (float *)v->y->data + (s.first + t) * v->y->stride[0];
    for (int64_t e = 0; e < v->E; e += KR_W)
        kr_vstore_n(y + e, v->E - e, load_or_zero(v->bias, e, v->E - e));
    for (int64_t w = 0; w < v->K; w++) {
        const float *x = place(v, s, t - (v->K - 1) + w, from);
        for (int64_t e = 0; x && e < v->E; e += KR_W) {
            int64_t left = v->E - e;
            kr_vf tap = kr_vload_strided(v->weight + e * v->K + w, v->K, left);
            kr_vf p = kr_vfma(tap, kr_vload_n(x + e, left), kr_vload_n(y + e, left));
            kr_vstore_n(y + e, left, p);
        }
    }
    for (int64_t e = 0; v->silu && e < v->E; e += KR_W)
        kr_vstore_n(y + e, v->E - e, kr_vsilu(kr_vload_n(y + e, v->E - e)));
}

/* Places [t, end) of a sequence. */
static void places(const conv *v, kr_seq s, int64_t t, int64_t end) {
    while (t < end) {
        int64_t rows = 1;
        while (v->K == 4 && rows < BLOCK && t + rows < end &&
               !(v->reset && v->reset[s.first + t + rows]))
            rows++;
        if (v->K == 4)
            block_four(v, s, t, rows);
        else
            row_any(v, s, t);
        t += rows;
    }
}

/* The part of every sequence that lies in these rows. */
static void outputs(const conv *v, kr_part rows) {
    for (int64_t i = 0; i < v->S; i++) {
        kr_seq s = kr_seq_of(v->seqs, i);
        int64_t t = rows.begin > s.first ? rows.begin - s.first : 0;
        int64_t end = rows.end - s.first < s.count ? rows.end - s.first : s.count;
        places(v, s, t, end);
    }
}

/* state_out of sequences [begin, end). Rising rows: in place, a row is read before it is written.
 */
static void states(const conv *v, kr_part part) {
    size_t size = (size_t)v->E * sizeof(float);
    for (int64_t i = part.begin; i < part.end; i++) {
        kr_seq s = kr_seq_of(v->seqs, i);
        int64_t from = window(v, s, s.count - 1);
        for (int64_t j = 0; j < v->K - 1; j++) {
            const float *x = place(v, s, s.count - (v->K - 1) + j, from);
            float *to =
                (float *)v->next->data + s.slot * v->next->stride[0] + j * v->next->stride[1];
            if (x)
                memmove(to, x, size);
            else
                memset(to, 0, size);
        }
    }
}

void KR_FN(kr_causal_conv)(const kr_call *c) {
    conv v = {&c->in[0],         &c->in[5],
              &c->out[0],        &c->out[1],
              c->in[1].data,     c->in[2].data,
              &c->in[3],         c->in[4].data,
              c->in[3].shape[0], c->in[0].shape[1],
              c->in[1].shape[2], ((const kr_causal_conv_attr *)c->attr)->silu != 0};
    int threads = kr_threads_for(c, v.x->shape[0] * v.E * 16);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        outputs(&v, kr_my_part(v.x->shape[0], 1));
#pragma omp barrier
        if (v.next->data) states(&v, kr_my_part(v.S, 1));
    }
}
