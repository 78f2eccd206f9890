/* rnn_grad_vec.c - the gradient of the nonlinear recurrences, vectors over numbers of a gate. rnn.h
 * has the contract.
 *
 * Back through time each thread walks sequences of its own: the gates' gradients of a row, and
 * their product with W, which reaches the state before. Rows of gradients and of states before are
 * kept; dW is one product of the two behind it all. */
#include "device/cpu/cpu_gemm.h"
#include "ops/rnn/vec_rnn.h"

typedef struct back {
    kr_rnn_view v;
    float *own, *dp, *before; /* [S,own]; [M,GH]: gradients of W h + bias; [M,H]: h before */
} back;

/* h (k 0) or c (k 1) in front of row m; NULL: zeros. */
KR_VINLINE const float *state_before(const kr_rnn_view *v, const kr_rnn_run *r, int64_t m, int k) {
    if (kr_rnn_starts(v, m)) return NULL;
    if (m == r->first) return kr_rnn_state(v, KR_RNN_STATE, r->slot, k);
    return kr_rnn_row(v, k ? KR_RNN_IN_MEMORY : KR_RNN_IN_Y, m - 1);
}

KR_VINLINE kr_vf load_or_zero(const float *p, int64_t j, int64_t n) {
    return p ? kr_vload_n(p + j, n) : kr_vzero();
}

/* ---- cells: gradients d of x + p, W numbers from j on; what reaches the state past the product is
 * left in r->next and r->memory ---- */

KR_VINLINE void lstm_back(const kr_rnn_view *v, const kr_rnn_run *r, int64_t m, int64_t j, kr_vf dh,
                          kr_vf d[4]) {
    int64_t H = v->H, n = H - j;
    const float *gates = kr_rnn_row(v, KR_RNN_IN_GATES, m) + j;
    kr_vf i = kr_vload_n(gates, n), f = kr_vload_n(gates + H, n);
    kr_vf g = kr_vload_n(gates + 2 * H, n), o = kr_vload_n(gates + 3 * H, n);
    kr_vf c = kr_vtanh(kr_vload_n(kr_rnn_row(v, KR_RNN_IN_MEMORY, m) + j, n));
    kr_vf dc = kr_vfma(dh * o, 1.0f - c * c, kr_vload(r->memory + j));
    d[0] = dc * g * i * (1.0f - i);
    d[1] = dc * load_or_zero(state_before(v, r, m, 1), j, n) * f * (1.0f - f);
    d[2] = dc * i * (1.0f - g * g);
    d[3] = dh * c * o * (1.0f - o);
    kr_vstore(r->memory + j, kr_vkeep_n(dc * f, n));
}

KR_VINLINE void gru_back(const kr_rnn_view *v, const kr_rnn_run *r, int64_t m, int64_t j, kr_vf dh,
                         kr_vf d[4]) {
    int64_t H = v->H, left = H - j;
    const float *gates = kr_rnn_row(v, KR_RNN_IN_GATES, m) + j;
    kr_vf reset = kr_vload_n(gates, left), z = kr_vload_n(gates + H, left);
    kr_vf n = kr_vload_n(gates + 2 * H, left);
    kr_vf pn = kr_vload_n(kr_rnn_row(v, KR_RNN_IN_MEMORY, m) + j, left);
    d[2] = dh * (1.0f - z) * (1.0f - n * n);
    d[1] = dh * (load_or_zero(state_before(v, r, m, 0), j, left) - n) * z * (1.0f - z);
    d[0] = d[2] * pn * reset * (1.0f - reset);
    d[3] = d[2] * reset; /* of p_n */
    kr_vstore(r->next + j, dh * z);
}

static void row_back(const back *b, const kr_rnn_run *r, int64_t m) {
    const kr_rnn_view *v = &b->v;
    const float *dy = v->c->in[KR_RNN_DY].data ? kr_rnn_row(v, KR_RNN_DY, m) : NULL;
    float *dx = kr_rnn_out(v, KR_RNN_DX, m), *dp = b->dp + m * v->GH;
    bool add = v->c->accumulate & 1;
    for (int64_t j = 0; j < v->H; j += KR_W) {
        int64_t n = v->H - j;
        kr_vf dh = kr_vload(r->h + j) + load_or_zero(dy, j, n), d[4];
        kr_vf y = kr_vload_n(kr_rnn_row(v, KR_RNN_IN_Y, m) + j, n);
        kr_vstore(r->next + j, kr_vzero());
        switch (v->cell) {
        case KR_RNN_TANH: d[0] = dh * (1.0f - y * y); break;
        case KR_RNN_RELU: d[0] = kr_vselect(kr_vlt(kr_vzero(), y), dh, kr_vzero()); break;
        case KR_RNN_LSTM: lstm_back(v, r, m, j, dh, d); break;
        case KR_RNN_GRU: gru_back(v, r, m, j, dh, d); break;
        }
        for (int k = 0; k < v->G; k++) {
            float *to = dx ? dx + k * v->H + j : NULL;
            if (to) kr_vstore_n(to, n, add ? kr_vload_n(to, n) + d[k] : d[k]);
            kr_vstore_n(dp + k * v->H + j, n, v->cell == KR_RNN_GRU && k == 2 ? d[3] : d[k]);
        }
        kr_vstore_n(b->before + m * v->H + j, n, load_or_zero(state_before(v, r, m, 0), j, n));
    }
}

/* ---- sequences ---- */

static void step_back(const back *b, const kr_rnn_run *runs, int n, int64_t t) {
    const kr_rnn_view *v = &b->v;
    const kr_tensor *w = &v->c->in[KR_RNN_W];
    const float *from[KR_RNN_TOGETHER];
    float *to[KR_RNN_TOGETHER];
    for (int i = 0; i < n; i++) {
        int64_t m = runs[i].first + t;
        row_back(b, &runs[i], m);
        from[i] = b->dp + m * v->GH;
        to[i] = runs[i].next;
    }
    kr_rnn_product(w->data, w->stride[0], v->GH, v->H, from, to, n);
    for (int i = 0; i < n; i++) {
        bool cut = kr_rnn_starts(v, runs[i].first + t);
        kr_rnn_take(runs[i].h, cut ? NULL : runs[i].next, v->H);
        if (cut) kr_rnn_take(runs[i].memory, NULL, v->H);
    }
}

/* Slots that no sequence has keep zeros. */
static void end(const kr_rnn_view *v, const kr_rnn_run *r) {
    float *out = kr_rnn_out(v, KR_RNN_DSTATE_IN, r->slot);
    for (int64_t j = 0; out && j < v->H; j += KR_W) {
        int64_t n = v->H - j;
        kr_vstore_n(out + j, n, kr_vload_n(out + j, n) + kr_vload(r->h + j));
        if (v->cell != KR_RNN_LSTM) continue;
        float *c = out + v->H + j;
        kr_vstore_n(c, n, kr_vload_n(c, n) + kr_vload(r->memory + j));
    }
}

static void walk(const back *b, int64_t s, int n) {
    const kr_rnn_view *v = &b->v;
    kr_rnn_run all[KR_RNN_TOGETHER], now[KR_RNN_TOGETHER];
    bool lstm = v->cell == KR_RNN_LSTM;
    int64_t longest = 0;
    for (int i = 0; i < n; i++) {
        kr_rnn_run *r = &all[i];
        *r = kr_rnn_sequence(v, s + i, b->own);
        kr_rnn_take(r->h, kr_rnn_state(v, KR_RNN_DSTATE, r->slot, 0), v->H);
        kr_rnn_take(r->memory, lstm ? kr_rnn_state(v, KR_RNN_DSTATE, r->slot, 1) : NULL, v->H);
        if (r->T > longest) longest = r->T;
    }
    for (int64_t t = longest - 1; t >= 0; t--) {
        int active = 0;
        for (int i = 0; i < n; i++)
            if (all[i].T > t) now[active++] = all[i];
        step_back(b, now, active, t);
    }
    for (int i = 0; i < n; i++) end(v, &all[i]);
}

/* ---- sums over all rows ---- */

static void bias_back(const back *b) {
    const kr_rnn_view *v = &b->v;
    float *to = v->c->out[KR_RNN_DBIAS].data;
    bool add = v->c->accumulate >> KR_RNN_DBIAS & 1;
    int threads = to ? kr_threads_for(v->c, v->M * v->GH * 4) : 1;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        kr_part p = kr_my_part(v->GH, KR_W);
        for (int64_t j = p.begin; to && j < p.end; j += KR_W) {
            kr_vf sum = kr_vzero();
            for (int64_t m = 0; m < v->M; m++) sum += kr_vload_n(b->dp + m * v->GH + j, v->GH - j);
            kr_vstore_n(to + j, v->GH - j, add ? kr_vload_n(to + j, v->GH - j) + sum : sum);
        }
    }
}

/* Products this small are one thread's, so that their bytes are the same for any number. */
static void weight_back(const back *b) {
    enum { SMALL = 1 << 12 };
    const kr_rnn_view *v = &b->v;
    const kr_tensor *dw = &v->c->out[KR_RNN_DW];
    kr_gemm g = {.a_transposed = true,
                 .accumulate = v->c->accumulate >> KR_RNN_DW & 1,
                 .m = v->GH,
                 .n = v->H,
                 .k = v->M,
                 .a = b->dp,
                 .b = b->before,
                 .c = dw->data,
                 .lda = v->GH,
                 .ldb = v->H,
                 .ldc = dw->stride[0]};
    if (dw->data) kr_gemm_run(&g, v->GH * v->H < SMALL ? 1 : v->c->threads);
}

void KR_FN(kr_rnn_grad)(const kr_call *c) {
    back b = {.v = kr_rnn_unpack(c)};
    const kr_tensor *out = &c->out[KR_RNN_DSTATE_IN];
    int64_t S = b.v.S;
    b.own = c->scratch;
    b.dp = b.own + S * kr_rnn_own(b.v.H, b.v.G);
    b.before = b.dp + kr_rnn_line(b.v.M * b.v.GH);
    for (int64_t s = 0; out->data && !(c->accumulate >> KR_RNN_DSTATE_IN & 1) && s < out->shape[0];
         s++)
        memset((float *)out->data + s * out->stride[0], 0, (size_t)out->stride[0] * sizeof(float));
#pragma omp parallel num_threads(c->threads) if (c->threads > 1)
    {
        kr_part mine = kr_my_part(S, 1);
        for (int64_t s = mine.begin; s < mine.end; s += KR_RNN_TOGETHER)
            walk(&b, s, (int)(mine.end - s < KR_RNN_TOGETHER ? mine.end - s : KR_RNN_TOGETHER));
    }
    bias_back(&b);
    weight_back(&b);
}
