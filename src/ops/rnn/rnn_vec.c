/* rnn_vec.c - the nonlinear recurrences, vectors over numbers of a gate. rnn.h has the contract.
 *
 * A thread has sequences of its own, so threads never wait for each other between steps, and takes
 * up to KR_RNN_TOGETHER of them through time side by side: the product of a step loads each weight
 * once for several of them. */
#include "ops/rnn/vec_rnn.h"

/* ---- the product W h + bias of a step ---- */

/* [GH,H] to [H,line]. */
static void transpose(const kr_rnn_view *v, float *to, int64_t begin, int64_t end) {
    const kr_tensor *w = &v->c->in[KR_RNN_W];
    for (int64_t k = begin; k < end; k++)
        for (int64_t j = 0; j < v->GH; j++)
            to[k * v->line + j] = ((const float *)w->data)[j * w->stride[0] + k];
}

/* One step alone: rows of W as they lie, without turning them first. */
static void dots(const kr_rnn_view *v, const float *h, float *p) {
    for (int64_t j = 0; j < v->GH; j++) {
        const float *w = kr_rnn_row(v, KR_RNN_W, j);
        kr_vf sum = kr_vzero();
        for (int64_t k = 0; k < v->H; k += KR_W)
            sum = kr_vfma(kr_vload_n(w + k, v->H - k), kr_vload(h + k), sum);
        p[j] += kr_vsum(sum);
    }
}

static void products(const kr_rnn_view *v, const kr_rnn_run *runs, int n, bool single) {
    const float *from[KR_RNN_TOGETHER], *bias = v->c->in[KR_RNN_BIAS].data;
    float *to[KR_RNN_TOGETHER];
    for (int i = 0; i < n; i++) {
        from[i] = runs[i].h;
        to[i] = runs[i].p;
        kr_rnn_take(to[i], bias, v->GH);
        if (single) dots(v, from[i], to[i]);
    }
    if (!single) kr_rnn_product(v->scratch, v->line, v->H, v->GH, from, to, n);
}

/* ---- cells: W numbers of a row from j on ---- */

/* x + p of gate k */
KR_VINLINE kr_vf in_front(const kr_rnn_view *v, const float *x, const kr_rnn_run *r, int k,
                          int64_t j) {
    return kr_vload_n(x + k * v->H + j, v->H - j) + kr_vload_n(r->p + k * v->H + j, v->H - j);
}

KR_VINLINE void keep(const kr_rnn_view *v, float *gates, int k, int64_t j, kr_vf g) {
    if (gates) kr_vstore_n(gates + k * v->H + j, v->H - j, g);
}

KR_VINLINE kr_vf lstm(const kr_rnn_view *v, const kr_rnn_run *r, const float *x, int64_t j,
                      float *gates, float *memory) {
    kr_vf i = kr_vsigmoid(in_front(v, x, r, 0, j)), f = kr_vsigmoid(in_front(v, x, r, 1, j));
    kr_vf g = kr_vtanh(in_front(v, x, r, 2, j)), o = kr_vsigmoid(in_front(v, x, r, 3, j));
    kr_vf c = kr_vfma(f, kr_vload(r->memory + j), i * g);
    keep(v, gates, 0, j, i);
    keep(v, gates, 1, j, f);
    keep(v, gates, 2, j, g);
    keep(v, gates, 3, j, o);
    kr_vstore(r->memory + j, c);
    if (memory) kr_vstore_n(memory + j, v->H - j, c);
    return o * kr_vtanh(c);
}

KR_VINLINE kr_vf gru(const kr_rnn_view *v, const kr_rnn_run *r, const float *x, int64_t j,
                     float *gates, float *memory) {
    int64_t left = v->H - j;
    kr_vf reset = kr_vsigmoid(in_front(v, x, r, 0, j)), z = kr_vsigmoid(in_front(v, x, r, 1, j));
    kr_vf pn = kr_vload_n(r->p + 2 * v->H + j, left);
    kr_vf n = kr_vtanh(kr_vfma(reset, pn, kr_vload_n(x + 2 * v->H + j, left)));
    keep(v, gates, 0, j, reset);
    keep(v, gates, 1, j, z);
    keep(v, gates, 2, j, n);
    if (memory) kr_vstore_n(memory + j, left, pn);
    return kr_vfma(z, kr_vload(r->h + j) - n, n);
}

static void row_forward(const kr_rnn_view *v, const kr_rnn_run *r, int64_t m) {
    const float *x = kr_rnn_row(v, KR_RNN_X, m);
    float *y = kr_rnn_out(v, KR_RNN_Y, m), *gates = kr_rnn_out(v, KR_RNN_GATES, m);
    float *memory = kr_rnn_out(v, KR_RNN_MEMORY, m);
    bool add = v->c->accumulate & 1;
    for (int64_t j = 0; j < v->H; j += KR_W) {
        kr_vf h = kr_vzero();
        switch (v->cell) {
        case KR_RNN_TANH: h = kr_vtanh(in_front(v, x, r, 0, j)); break;
        case KR_RNN_RELU: h = kr_vmax(kr_vzero(), in_front(v, x, r, 0, j)); break;
        case KR_RNN_LSTM: h = lstm(v, r, x, j, gates, memory); break;
        case KR_RNN_GRU: h = gru(v, r, x, j, gates, memory); break;
        }
        kr_vstore(r->h + j, kr_vkeep_n(h, v->H - j));
        kr_vstore_n(y + j, v->H - j, add ? kr_vload_n(y + j, v->H - j) + h : h);
    }
}

/* ---- sequences ---- */

static void begin(const kr_rnn_view *v, const kr_rnn_run *r) {
    kr_rnn_take(r->h, kr_rnn_state(v, KR_RNN_STATE, r->slot, 0), v->H);
    bool lstm = v->cell == KR_RNN_LSTM;
    kr_rnn_take(r->memory, lstm ? kr_rnn_state(v, KR_RNN_STATE, r->slot, 1) : NULL, v->H);
}

static void end(const kr_rnn_view *v, const kr_rnn_run *r) {
    float *out = kr_rnn_out(v, KR_RNN_STATE_OUT, r->slot);
    for (int64_t j = 0; out && j < v->H; j += KR_W) {
        kr_vstore_n(out + j, v->H - j, kr_vload(r->h + j));
        if (v->cell == KR_RNN_LSTM) kr_vstore_n(out + v->H + j, v->H - j, kr_vload(r->memory + j));
    }
}

/* Sequences [s, s + n) from their first row to their last. */
static void walk(const kr_rnn_view *v, int64_t s, int n, bool single) {
    kr_rnn_run all[KR_RNN_TOGETHER], now[KR_RNN_TOGETHER];
    float *own = v->scratch + v->H * v->line;
    int64_t longest = 0;
    for (int i = 0; i < n; i++) {
        all[i] = kr_rnn_sequence(v, s + i, own);
        begin(v, &all[i]);
        if (all[i].T > longest) longest = all[i].T;
    }
    for (int64_t t = 0; t < longest; t++) {
        int active = 0;
        for (int i = 0; i < n; i++) {
            if (all[i].T <= t) continue;
            now[active++] = all[i];
            if (!kr_rnn_starts(v, all[i].first + t)) continue;
            kr_rnn_take(all[i].h, NULL, v->H);
            kr_rnn_take(all[i].memory, NULL, v->H);
        }
        products(v, now, active, single);
        for (int i = 0; i < active; i++) row_forward(v, &now[i], now[i].first + t);
    }
    for (int i = 0; i < n; i++) end(v, &all[i]);
}

void KR_FN(kr_rnn)(const kr_call *c) {
    kr_rnn_view v = kr_rnn_unpack(c);
    bool single = v.M <= v.S; /* one row a sequence, or hardly more */
#pragma omp parallel num_threads(c->threads) if (c->threads > 1)
    {
        kr_part turn = kr_my_part(v.H, 1), mine = kr_my_part(v.S, 1);
        if (!single) transpose(&v, v.scratch, turn.begin, turn.end);
#pragma omp barrier
        for (int64_t s = mine.begin; s < mine.end; s += KR_RNN_TOGETHER)
            walk(&v, s, (int)(mine.end - s < KR_RNN_TOGETHER ? mine.end - s : KR_RNN_TOGETHER),
                 single);
    }
}
