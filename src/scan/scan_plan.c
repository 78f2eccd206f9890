/* scan_plan.c - which plan computes a call, and the sizes of its pieces. */
#include "scan/scan_plan.h"

const char *kr_scan_plan_name(kr_scan_plan p) {
    static const char *const names[] = {"reference", "lanes", "lanes, one step", "rows"};
    return names[p];
}

/* Vectors over channels: each state has its own decay, formed from a constant A. One head of P
 * channels, or (VECTOR, P = 1) H heads of one: both lie in memory the same way. */
static bool lanes_fit(const krait_scan_desc *d) {
    bool own = d->decay == KRAIT_DECAY_MATRIX || (d->decay == KRAIT_DECAY_VECTOR && d->width == 1);
    return own && d->form == KRAIT_FORM_DT && d->a_constant && !d->b_constant && !d->c_constant &&
           !d->dt_constant && d->inputs == 1 && d->reads == 1 && d->gain != KRAIT_GAIN_GIVEN;
}

static bool each_sequence_one_row(const kr_call *c) {
    const kr_tensor *seqs = &c->in[KR_SCAN_SEQS];
    if (seqs->shape[0] != c->in[KR_SCAN_X].shape[0]) return false;
    for (int64_t s = 0; s < seqs->shape[0]; s++)
        if (((const int64_t *)seqs->data)[s * seqs->stride[0] + 1] != 1) return false;
    return true;
}

kr_scan_plan kr_scan_pick(const kr_call *c, bool backward) {
    const krait_scan_desc *d = c->attr;
    if (d->complex_state || d->read != KRAIT_READ_AFTER || d->order == KRAIT_ORDER_INDEX)
        return KR_SCAN_REFERENCE;
    if (!lanes_fit(d)) return KR_SCAN_REFERENCE;
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

size_t kr_scan_vec_scratch(const kr_call *c, bool backward) {
    const krait_scan_desc *d = c->attr;
    int64_t M = c->in[KR_SCAN_X].shape[0];
    if (!lanes_fit(d)) return 0;
    if (!backward) return (size_t)(c->threads * KR_SCAN_GROUP * (2 * d->state + 2));
    kr_scan_cut s;
    kr_scan_cut_lanes(d, M, &s);
    return (size_t)(kr_scan_line(s.per_bc) + kr_scan_line(s.per_A) +
                    c->threads * kr_scan_line(s.per_thread));
}
