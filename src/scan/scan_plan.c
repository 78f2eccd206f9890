/* scan_plan.c - which plan computes a call, and the sizes of its pieces. */
#include "scan/scan_plan.h"

const char *kr_scan_plan_name(kr_scan_plan p) {
    static const char *const names[] = {"reference",   "lanes", "lanes, one step",
                                        "rows",        "chunk", "complex lanes",
                                        "convolution", "modes", "steps"};
    return names[p];
}

/* Vectors over channels: each state has its own decay, formed from a constant A. One head of P
 * channels, or (VECTOR, P = 1) H heads of one: both lie in memory the same way. */
static bool lanes_fit(const krait_scan_desc *d) {
    bool own = d->decay == KRAIT_DECAY_MATRIX || (d->decay == KRAIT_DECAY_VECTOR && d->width == 1);
    return own && d->form == KRAIT_FORM_DT && d->a_constant && !d->b_constant && !d->c_constant &&
           !d->dt_constant && d->inputs == 1 && d->reads == 1 && d->gain != KRAIT_GAIN_GIVEN;
}

/* Vectors over N: the decay does not depend on the channel. */
static bool rows_fit(const krait_scan_desc *d, bool backward) {
    if (d->decay == KRAIT_DECAY_MATRIX || d->low_rank) return false;
    if (!backward) return true;
    return !d->b_constant && !d->c_constant && !d->dt_constant && d->inputs <= KR_SCAN_RANKS &&
           d->reads <= KR_SCAN_RANKS;
}

/* Chunks of products: one decay a head, or none, and in a chunk a row at least. */
static bool chunk_may(const krait_scan_desc *d) {
    if (d->decay != KRAIT_DECAY_NONE && d->decay != KRAIT_DECAY_SCALAR) return false;
    return !d->b_constant && !d->c_constant && !d->dt_constant && d->inputs <= KR_SCAN_PRODUCT &&
           d->reads <= KR_SCAN_PRODUCT;
}

/* Logarithms of decays are summed: a decay that is given must be above 0. */
static bool chunk_fits(const kr_call *c) {
    const krait_scan_desc *d = c->attr;
    if (!chunk_may(d)) return false;
    if (d->decay == KRAIT_DECAY_NONE || d->form != KRAIT_FORM_GIVEN) return true;
    for (int64_t h = 0; d->a_constant && h < d->heads; h++)
        if (!(((const float *)c->in[KR_SCAN_A].data)[h] > 0)) return false;
    return d->a_constant;
}

/* Products pay once a sequence has some rows and a head channels enough to fill a vector. */
static bool chunk_pays(const kr_call *c) {
    const krait_scan_desc *d = c->attr;
    return d->width >= KR_SCAN_CHUNK_WIDTH &&
           c->in[KR_SCAN_X].shape[0] >= KR_SCAN_CHUNK_LEAST * c->in[KR_SCAN_SEQS].shape[0];
}

static bool each_sequence_one_row(const kr_call *c) {
    const kr_tensor *seqs = &c->in[KR_SCAN_SEQS];
    if (seqs->shape[0] != c->in[KR_SCAN_X].shape[0]) return false;
    for (int64_t s = 0; s < seqs->shape[0]; s++)
        if (((const int64_t *)seqs->data)[s * seqs->stride[0] + 1] != 1) return false;
    return true;
}

static bool absent(const kr_call *c, int i) { return i >= c->n_in || !c->in[i].data; }

bool kr_scan_y_is_states(const krait_scan_desc *d) {
    return d->complex_lanes && d->a_constant && d->form != KRAIT_FORM_DT && d->kappa == 1 &&
           d->read == KRAIT_READ_AFTER && d->order != KRAIT_ORDER_INDEX;
}

/* Complex lanes whose decay is constant in time. */
static bool complex_fits(const kr_call *c) {
    const krait_scan_desc *d = c->attr;
    return kr_scan_y_is_states(d) && absent(c, KR_SCAN_D) && absent(c, KR_SCAN_Z);
}

/* Everything but x is constant in time: one kernel for all rows. */
static bool conv_fits(const krait_scan_desc *d) {
    return d->complex_state && !d->complex_lanes && d->decay == KRAIT_DECAY_VECTOR &&
           d->form != KRAIT_FORM_DT && d->gain == KRAIT_GAIN_ONE && d->read == KRAIT_READ_AFTER &&
           d->order != KRAIT_ORDER_INDEX && d->width == 1 && d->groups == d->heads &&
           d->inputs == 1 && d->reads == 1 && d->a_constant && d->b_constant && d->c_constant;
}

/* The same, complex or not, whatever the rank. */
static bool steps_fit(const kr_call *c) {
    krait_scan_desc d = *(const krait_scan_desc *)c->attr;
    if (d.form != KRAIT_FORM_GIVEN || !absent(c, KR_SCAN_Z)) return false;
    if (!d.complex_state && !d.low_rank) return false;
    d.complex_state = true;
    return conv_fits(&d);
}

/* A state comes in or goes out. */
static bool keeps_states(const kr_call *c, bool backward) {
    int out = backward ? KR_SCAN_DSTATE_IN : KR_SCAN_OUT_STATE;
    if (!absent(c, KR_SCAN_STATE) || (c->n_out > out && c->out[out].data)) return true;
    return backward && !absent(c, KR_SCAN_DSTATE);
}

/* Given enough rows, none of their sequences longer than its transforms; and no gate. */
static bool conv_pays(const kr_call *c, bool backward) {
    const kr_tensor *x = &c->in[KR_SCAN_X], *seqs = &c->in[KR_SCAN_SEQS];
    const krait_scan_desc *d = c->attr;
    if (d->low_rank && (d->low_rank > KR_CAUCHY_RANKS || keeps_states(c, backward))) return false;
    if (c->in[KR_SCAN_Z].data || x->shape[0] < KR_SCAN_CONV_LEAST * seqs->shape[0]) return false;
    if (backward && !c->in[KR_SCAN_DY].data) return false;
    if (backward && c->n_out > KR_SCAN_Y_AGAIN && c->out[KR_SCAN_Y_AGAIN].data) return false;
    int64_t longest = 0;
    for (int64_t s = 0; s < seqs->shape[0]; s++) {
        int64_t rows = ((const int64_t *)seqs->data)[s * seqs->stride[0] + 1];
        if (rows > longest) longest = rows;
    }
    if (longest > (int64_t)1 << (KR_SCAN_CONV_SIZES - 1)) return false;
    return !d->low_rank || x->shape[0] >= KR_SCAN_CAUCHY_LEAST * longest;
}

kr_scan_plan kr_scan_pick(const kr_call *c, bool backward) {
    const krait_scan_desc *d = c->attr;
    if (complex_fits(c)) return KR_SCAN_COMPLEX;
    if (conv_fits(d) && conv_pays(c, backward)) return KR_SCAN_CONV;
    if (conv_fits(d) && !d->low_rank && !backward) return KR_SCAN_MODES;
    if (steps_fit(c)) return KR_SCAN_STEPS;
    if (d->complex_state || d->low_rank || d->read != KRAIT_READ_AFTER ||
        d->order == KRAIT_ORDER_INDEX)
        return KR_SCAN_REFERENCE;
    if (!lanes_fit(d) && chunk_pays(c) && chunk_fits(c)) return KR_SCAN_MATRIX;
    if (!lanes_fit(d)) return rows_fit(d, backward) ? KR_SCAN_ROWS : KR_SCAN_REFERENCE;
    return !backward && each_sequence_one_row(c) ? KR_SCAN_LANES_STEP : KR_SCAN_LANES;
}

void kr_scan_cut_lanes(const krait_scan_desc *d, int64_t M, kr_scan_cut *s) {
    int64_t N = d->state, C = KR_SCAN_CHUNK;
    s->E = kr_scan_lanes(d);
    s->N = N;
    s->G = d->groups;
    s->width = s->E / s->G;
    int64_t most = s->G < KR_SCAN_PARTS ? KR_SCAN_PARTS / s->G : 1;
    s->parts = (s->width + KR_SCAN_GROUP - 1) / KR_SCAN_GROUP;
    if (s->parts > most) s->parts = most;
    s->lanes = kr_scan_line((s->width + s->parts - 1) / s->parts);
    s->parts = (s->width + s->lanes - 1) / s->lanes;
    s->slabs = KR_SCAN_PARTS;
    s->per_bc = s->parts * M * s->G * 2 * N;
    s->per_A = s->slabs * s->E * (N + 2);
    s->per_thread = s->lanes * (N * (4 + M / C + 1) + 6 * C + 4) + C * N * 4 * KR_SCAN_LINE;
}

int64_t kr_scan_rows_forward(const krait_scan_desc *d) {
    return kr_scan_line(d->width * d->state) + kr_scan_line(d->state) + kr_scan_line(d->width) +
           kr_scan_line(d->inputs * d->width);
}

void kr_scan_cut_rows(const krait_scan_desc *d, int64_t M, kr_scan_rows_cut *s) {
    int64_t each = d->heads / d->groups, ranks = d->inputs + d->reads, C = KR_SCAN_CHUNK;
    int64_t P = d->width, N = d->state;
    int64_t most = d->groups < KR_SCAN_PARTS ? KR_SCAN_PARTS / d->groups : 1;
    s->parts = each < most ? each : most;
    s->slabs = KR_SCAN_PARTS;
    s->per_bc = s->parts * M * ranks * d->groups * N;
    s->per_A = s->slabs * d->heads * (P + N + 1);
    s->per_thread = 2 * kr_scan_line(P * N) + kr_scan_line(C * KR_SCAN_TILE * N) +
                    2 * kr_scan_line(C * N) + kr_scan_line(C * ranks * N) +
                    2 * kr_scan_line(C * d->inputs * P) + 2 * kr_scan_line(C * d->reads * P) +
                    kr_scan_line(C) + kr_scan_line((M / C + 1) * P * N);
}

int64_t kr_scan_chunk_rows(const krait_scan_desc *d) {
    int64_t ranks = d->inputs > d->reads ? d->inputs : d->reads;
    return KR_SCAN_PRODUCT / (ranks > 0 ? ranks : 1);
}

void kr_scan_cut_chunk(const krait_scan_desc *d, int64_t M, kr_scan_rows_cut *s) {
    int64_t each = d->heads / d->groups, states = d->width * d->state;
    int64_t most = (each * states + KR_SCAN_CHUNK_STATES - 1) / KR_SCAN_CHUNK_STATES;
    kr_scan_cut_rows(d, M, s);
    if (s->parts > most) s->parts = most;
    s->per_bc = s->parts * M * (d->inputs + d->reads) * d->groups * d->state;
}

/* Heads of a part, at most. */
static int64_t part_heads(const krait_scan_desc *d) {
    kr_scan_rows_cut s;
    kr_scan_cut_chunk(d, 0, &s);
    return (d->heads / d->groups + s.parts - 1) / s.parts;
}

/* What both directions keep of a chunk: b, c, c transposed, scores; weights; [L16] three times. */
static int64_t chunk_shared(const krait_scan_desc *d) {
    int64_t C = kr_scan_chunk_rows(d), L = kr_scan_line(C * d->reads), N = kr_scan_line(d->state);
    return C * (d->inputs + d->reads) * N + kr_scan_line(d->state * L) + 2 * C * d->inputs * L +
           3 * L;
}

int64_t kr_scan_chunk_forward(const krait_scan_desc *d) {
    int64_t C = kr_scan_chunk_rows(d), P = kr_scan_line(d->width);
    return chunk_shared(d) + C * (d->inputs + d->reads) * P + part_heads(d) * d->state * P;
}

/* Beside the states in front of each chunk and the gradient of the last: of a chunk, sums of the
 * gradients of b and c and of the scores; X twice, dY three times, u; of a head, dX and its two
 * orders of states. */
int64_t kr_scan_chunk_backward(const krait_scan_desc *d, int64_t M) {
    int64_t C = kr_scan_chunk_rows(d), P = kr_scan_line(d->width), N = kr_scan_line(d->state);
    int64_t R = d->inputs, Q = d->reads, L = kr_scan_line(C * Q), state = d->width * N;
    int64_t chunk = C * (R + Q) * 2 * N + 2 * C * R * L + C * (3 * R + 3 * Q) * P +
                    kr_scan_line(d->width * L) + 5 * KR_SCAN_PRODUCT;
    return chunk_shared(d) + chunk + d->state * P + part_heads(d) * (M / C + 2) * state;
}

static size_t rows_scratch(const kr_call *c, bool backward) {
    const krait_scan_desc *d = c->attr;
    kr_scan_rows_cut s;
    if (!backward) {
        int64_t rows = kr_scan_rows_forward(d), chunk = kr_scan_chunk_forward(d);
        return (size_t)(c->threads * (chunk > rows ? chunk : rows));
    }
    kr_scan_cut_rows(d, c->in[KR_SCAN_X].shape[0], &s);
    int64_t chunk = kr_scan_chunk_backward(d, c->in[KR_SCAN_X].shape[0]);
    int64_t own = chunk > s.per_thread ? chunk : s.per_thread;
    return (size_t)(kr_scan_line(s.per_bc) + kr_scan_line(s.per_A) + c->threads * own);
}

size_t kr_scan_vec_scratch(const kr_call *c, bool backward) {
    const krait_scan_desc *d = c->attr;
    int64_t M = c->in[KR_SCAN_X].shape[0];
    if (d->complex_lanes)
        return (size_t)(backward ? kr_scan_complex_sums(d) + c->threads * kr_scan_complex_own(M)
                                 : kr_scan_complex_forward(d));
    if (conv_fits(d) || d->low_rank) {
        int64_t steps = backward ? kr_scan_steps_backward(d, M) : kr_scan_steps_forward(d);
        int64_t conv = conv_fits(d) ? kr_scan_conv_own(d, M) : 0;
        return (size_t)(kr_scan_conv_tables(M) + kr_scan_conv_unit(d, M) +
                        c->threads * (conv > steps ? conv : steps));
    }
    if (d->complex_state) return 0;
    if (!lanes_fit(d)) return rows_fit(d, backward) || chunk_may(d) ? rows_scratch(c, backward) : 0;
    if (!backward) return (size_t)(c->threads * KR_SCAN_GROUP * (2 * d->state + 2));
    kr_scan_cut s;
    kr_scan_cut_lanes(d, M, &s);
    return (size_t)(kr_scan_line(s.per_bc) + kr_scan_line(s.per_A) +
                    c->threads * kr_scan_line(s.per_thread));
}
