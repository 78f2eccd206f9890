/* scan_constant.cuh - members whose decay, b and c are constant in time and one head is one
 * channel, row by row on the GPU: what a call of theirs has, whatever its decay is. Backward each
 * sequence leaves its sums over time in scratch, its share; the shares are added in order. */
#ifndef KR_SCAN_CONSTANT_CUH
#define KR_SCAN_CONSTANT_CUH

#include "ops/parts.cuh"
#include "scan/scan_rows.cuh"

struct kr_constant_view : kr_scan_time, kr_scan_constants {
    int64_t K; /* rank */
    float kappa;
};

template <typename T>
struct kr_constant_out {
    const T *x;
    T *y;
    int64_t x_row, y_row;
    float *state; /* NULL: not wanted */
    int64_t state_slot;
    bool add;
};

template <typename T>
struct kr_constant_back {
    const T *x, *dy; /* dy NULL: zeros */
    T *dx, *y;       /* NULL: not wanted */
    int64_t x_row, dy_row, dx_row, y_row;
    bool add_dx;
    float *marks;                         /* states in front of chunks */
    float *one_A, *one_b, *one_c, *one_D; /* shares [S,H,...]; NULL: not wanted */
    float *dstate;
    int64_t dstate_slot;
};

static inline kr_constant_view kr_constant_view_of(const kr_call *c) {
    const krait_scan_desc *d = (const krait_scan_desc *)c->attr;
    kr_constant_view g = {};
    (kr_scan_time &)g = kr_scan_time_of(c, INT64_MAX / 2);
    (kr_scan_constants &)g = kr_scan_constants_of(c);
    g.K = d->low_rank;
    g.kappa = (float)d->kappa;
    return g;
}

template <typename T>
static kr_constant_out<T> kr_constant_out_of(const kr_call *c) {
    const kr_tensor *x = &c->in[KR_SCAN_X], *y = &c->out[KR_SCAN_OUT_Y];
    const kr_tensor *state = &c->out[KR_SCAN_OUT_STATE];
    kr_constant_out<T> o = {};
    o.x = (const T *)x->data, o.x_row = x->stride[0];
    o.y = (T *)y->data, o.y_row = y->stride[0];
    o.add = KR_ACC(c, KR_SCAN_OUT_Y) != 0;
    if (c->n_out > KR_SCAN_OUT_STATE && state->data)
        o.state = (float *)state->data, o.state_slot = state->stride[0];
    return o;
}

static inline const kr_tensor *kr_constant_wanted(const kr_call *c, int i) {
    return i < c->n_out && c->out[i].data ? &c->out[i] : NULL;
}

template <typename T>
static T *kr_constant_rows(const kr_call *c, int i, int64_t *row) {
    const kr_tensor *t = kr_constant_wanted(c, i);
    if (!t) return NULL;
    *row = t->stride[0];
    return (T *)t->data;
}

template <typename T>
static kr_constant_back<T> kr_constant_back_of(const kr_call *c, const kr_scan_shares &at) {
    const kr_tensor *x = &c->in[KR_SCAN_X], *dy = &c->in[KR_SCAN_DY];
    float *scratch = (float *)c->scratch;
    kr_constant_back<T> o = {};
    o.x = (const T *)x->data, o.x_row = x->stride[0];
    if (kr_data_in(c, KR_SCAN_DY)) o.dy = (const T *)dy->data, o.dy_row = dy->stride[0];
    o.dx = kr_constant_rows<T>(c, KR_SCAN_DX, &o.dx_row);
    o.y = kr_constant_rows<T>(c, KR_SCAN_Y_AGAIN, &o.y_row);
    o.add_dx = KR_ACC(c, KR_SCAN_DX) != 0;
    o.dstate = kr_constant_rows<float>(c, KR_SCAN_DSTATE_IN, &o.dstate_slot);
    if (o.dstate && !KR_ACC(c, KR_SCAN_DSTATE_IN)) /* slots that no sequence names */
        cudaMemsetAsync(o.dstate, 0, kr_tensor_bytes(&c->out[KR_SCAN_DSTATE_IN]), kr_cuda_stream());
    o.marks = scratch + at.marks;
    if (kr_constant_wanted(c, KR_SCAN_DA)) o.one_A = scratch + at.one_A;
    if (kr_constant_wanted(c, KR_SCAN_DB)) o.one_b = scratch + at.one_b;
    if (kr_constant_wanted(c, KR_SCAN_DC)) o.one_c = scratch + at.one_c;
    if (kr_constant_wanted(c, KR_SCAN_DD)) o.one_D = scratch + at.one_D;
    return o;
}

struct kr_constant_put {
    float *to;
    bool add;
    __device__ void operator()(int64_t i, float v) const { kr_put(to + i, v, add); }
};

/* The sequences' shares of what is constant in time. */
template <typename T>
static void kr_constant_add(const kr_call *c, const kr_constant_back<T> &o) {
    const struct {
        int out;
        const float *shares;
    } all[] = {{KR_SCAN_DA, o.one_A},
               {KR_SCAN_DB, o.one_b},
               {KR_SCAN_DC, o.one_c},
               {KR_SCAN_DD, o.one_D}};
    for (const auto &one : all) {
        const kr_tensor *t = &c->out[one.out];
        kr_constant_put put = {(float *)t->data, KR_ACC(c, one.out) != 0};
        if (one.shares)
            kr_sum_parts_launch(one.shares, c->in[KR_SCAN_SEQS].shape[0], kr_tensor_count(t), put);
    }
}

#endif
