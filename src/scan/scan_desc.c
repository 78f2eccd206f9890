/* scan_desc.c - the members of the family by name, and the check of a description. */
#include <krait/scan.h>

#include <math.h>
#include <string.h>

#include "base/err.h"

static krait_scan_desc plain(int64_t H, int64_t P, int64_t N) {
    krait_scan_desc d;
    memset(&d, 0, sizeof d);
    d.heads = H;
    d.width = P;
    d.state = N;
    d.groups = 1;
    d.inputs = d.reads = 1;
    d.kappa = 1;
    return d;
}

krait_scan_desc krait_scan_mamba1(int64_t E, int64_t N) {
    krait_scan_desc d = plain(1, E, N);
    d.decay = KRAIT_DECAY_MATRIX;
    d.form = KRAIT_FORM_DT;
    d.gain = KRAIT_GAIN_DT;
    d.a_constant = d.dt_softplus = d.skip_per_channel = true;
    return d;
}

krait_scan_desc krait_scan_mamba2(int64_t H, int64_t P, int64_t N, int64_t G) {
    krait_scan_desc d = plain(H, P, N);
    d.groups = G;
    d.decay = KRAIT_DECAY_SCALAR;
    d.form = KRAIT_FORM_DT;
    d.gain = KRAIT_GAIN_DT;
    d.a_constant = d.dt_softplus = true;
    return d;
}

krait_scan_desc krait_scan_mamba3(int64_t H, int64_t P, int64_t N, int64_t R) {
    krait_scan_desc d = plain(H, P, N);
    d.groups = H;
    d.inputs = 2 * R;
    d.reads = R;
    d.decay = KRAIT_DECAY_SCALAR;
    d.form = KRAIT_FORM_LOG;
    d.gain = KRAIT_GAIN_GIVEN;
    return d;
}

krait_scan_desc krait_scan_s4d(int64_t channels, int64_t N) {
    krait_scan_desc d = plain(channels, 1, N);
    d.groups = channels;
    d.decay = KRAIT_DECAY_VECTOR;
    d.form = KRAIT_FORM_DT;
    d.complex_state = true;
    d.kappa = 2;
    d.a_constant = d.b_constant = d.c_constant = d.dt_constant = true;
    return d;
}

krait_scan_desc krait_scan_s4(int64_t channels, int64_t N, int64_t rank) {
    krait_scan_desc d = krait_scan_s4d(channels, N);
    d.form = KRAIT_FORM_GIVEN;
    d.low_rank = rank;
    return d;
}

krait_scan_desc krait_scan_lssl(int64_t channels, int64_t N) {
    krait_scan_desc d = krait_scan_s4(channels, N, N);
    d.complex_state = false;
    d.kappa = 1;
    return d;
}

krait_scan_desc krait_scan_lru(int64_t lanes) {
    krait_scan_desc d = plain(1, lanes, 1);
    d.inputs = d.reads = 2;
    d.decay = KRAIT_DECAY_MATRIX;
    d.form = KRAIT_FORM_LOG;
    d.complex_state = d.complex_lanes = d.a_constant = true;
    return d;
}

krait_scan_desc krait_scan_linear_attention(int64_t H, int64_t P, int64_t N) {
    krait_scan_desc d = plain(H, P, N);
    d.groups = H;
    return d;
}

krait_scan_desc krait_scan_retnet(int64_t H, int64_t P, int64_t N) {
    krait_scan_desc d = krait_scan_linear_attention(H, P, N);
    d.decay = KRAIT_DECAY_SCALAR;
    d.a_constant = true;
    return d;
}

krait_scan_desc krait_scan_gla(int64_t H, int64_t P, int64_t N) {
    krait_scan_desc d = krait_scan_linear_attention(H, P, N);
    d.decay = KRAIT_DECAY_VECTOR;
    d.form = KRAIT_FORM_LOG;
    return d;
}

static int bad(krait_error *e, const char *field, const char *wanted) {
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "scan: %s must be %s", field, wanted);
}

int krait_scan_check(const krait_scan_desc *d, krait_error *e) {
    const int64_t most = (int64_t)1 << 24; /* keeps every product of three sizes inside int64 */
    const struct {
        const char *name;
        int64_t value, most;
    } sizes[] = {{"heads", d->heads, most},   {"width", d->width, most},
                 {"state", d->state, 65536},  {"groups", d->groups, most},
                 {"inputs", d->inputs, 1024}, {"reads", d->reads, 1024}};
    for (int i = 0; i < 6; i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].most)
            return kr_fail(e, KRAIT_ERR_ARGUMENT, "scan: %s must be 1 to %lld, is %lld",
                           sizes[i].name, (long long)sizes[i].most, (long long)sizes[i].value);
    if (d->heads % d->groups) return bad(e, "heads", "a multiple of groups");
    if ((unsigned)d->decay > KRAIT_DECAY_MATRIX) return bad(e, "decay", "a krait_scan_decay");
    if ((unsigned)d->form > KRAIT_FORM_DT) return bad(e, "form", "a krait_scan_form");
    if ((unsigned)d->gain > KRAIT_GAIN_GIVEN) return bad(e, "gain", "a krait_scan_gain");
    if ((unsigned)d->read > KRAIT_READ_FINAL) return bad(e, "read", "a krait_scan_read");
    if ((unsigned)d->order > KRAIT_ORDER_INDEX) return bad(e, "order", "a krait_scan_order");
    if (!isfinite(d->kappa)) return bad(e, "kappa", "finite");
    if (d->complex_lanes && (!d->complex_state || d->decay != KRAIT_DECAY_MATRIX || d->state != 1 ||
                             d->inputs != 2 || d->reads != 2 || d->gain != KRAIT_GAIN_ONE))
        return bad(e, "complex_lanes",
                   "with complex_state, decay MATRIX, state 1, inputs 2, reads 2 and gain ONE");
    if (d->low_rank < 0 || d->low_rank > 4096) return bad(e, "low_rank", "0 to 4096");
    if (d->low_rank && (d->decay != KRAIT_DECAY_VECTOR || d->form != KRAIT_FORM_GIVEN))
        return bad(e, "low_rank", "with decay VECTOR and form GIVEN");
    if (!(d->dt_min >= 0) || !(d->dt_max >= 0)) return bad(e, "dt_min and dt_max", "0 or more");
    if (d->dt_max > 0 && d->dt_min > d->dt_max) return bad(e, "dt_min", "at most dt_max");
    return 0;
}
