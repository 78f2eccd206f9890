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

static int check_choices(const krait_scan_desc *d, krait_error *e) {
    const struct {
        const char *name;
        unsigned value, most;
    } choices[] = {{"decay", (unsigned)d->decay, KRAIT_DECAY_MATRIX},
                   {"form", (unsigned)d->form, KRAIT_FORM_DT},
                   {"gain", (unsigned)d->gain, KRAIT_GAIN_GIVEN},
                   {"read", (unsigned)d->read, KRAIT_READ_FINAL},
                   {"order", (unsigned)d->order, KRAIT_ORDER_INDEX}};
    for (int i = 0; i < 5; i++)
        if (choices[i].value > choices[i].most)
            return kr_fail(e, KRAIT_ERR_ARGUMENT,
                           "scan: %s must be a krait_scan_%s, 0 to %u, is %d", choices[i].name,
                           choices[i].name, choices[i].most, (int)choices[i].value);
    return 0;
}

static int check_low_rank(const krait_scan_desc *d, krait_error *e) {
    if (d->low_rank < 0 || d->low_rank > 4096)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "scan: low_rank must be 0 to 4096, is %lld",
                       (long long)d->low_rank);
    if (d->low_rank == 0 || (d->decay == KRAIT_DECAY_VECTOR && d->form == KRAIT_FORM_GIVEN))
        return 0;
    return kr_fail(
        e, KRAIT_ERR_ARGUMENT,
        "scan: low_rank (%lld) needs decay %d (VECTOR, is %d) and form %d (GIVEN, is %d)",
        (long long)d->low_rank, KRAIT_DECAY_VECTOR, (int)d->decay, KRAIT_FORM_GIVEN, (int)d->form);
}

/* What one row and one sequence hold stays countable: heads x width x state and what multiplies it,
 * as floats, so that no size of a call of many rows or its scratch overflows. */
static int check_product(const krait_scan_desc *d, krait_error *e) {
    const int64_t most = (int64_t)1 << 40;
    const int64_t ranks = d->inputs > d->reads ? d->inputs : d->reads;
    const int64_t factors[] = {d->heads,
                               d->width,
                               d->state,
                               ranks,
                               d->complex_state ? 2 : 1,
                               d->low_rank ? 2 * d->low_rank + 1 : 1};
    int64_t product = 1;
    for (int i = 0; i < 6; i++) {
        if (product > most / factors[i])
            return kr_fail(e, KRAIT_ERR_ARGUMENT,
                           "scan: heads (%lld) x width (%lld) x state (%lld) x inputs or reads "
                           "(%lld), twice that if complex, times 1 + 2 low_rank (%lld) must be "
                           "at most %lld",
                           (long long)d->heads, (long long)d->width, (long long)d->state,
                           (long long)ranks, (long long)d->low_rank, (long long)most);
        product *= factors[i];
    }
    return 0;
}

int krait_scan_check(const krait_scan_desc *d, krait_error *e) {
    const int64_t most = (int64_t)1 << 24; /* of one size; check_product bounds them together */
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
    if (d->heads % d->groups)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "scan: heads (%lld) must be a multiple of groups (%lld)",
                       (long long)d->heads, (long long)d->groups);
    KR_TRY(check_choices(d, e));
    if (!isfinite(d->kappa))
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "scan: kappa must be finite, is %g", d->kappa);
    if (d->complex_lanes && (!d->complex_state || d->decay != KRAIT_DECAY_MATRIX || d->state != 1 ||
                             d->inputs != 2 || d->reads != 2 || d->gain != KRAIT_GAIN_ONE))
        return kr_fail(
            e, KRAIT_ERR_ARGUMENT,
            "scan: complex_lanes needs complex_state (%d), decay %d (MATRIX, is %d), state "
            "1 (%lld), inputs 2 (%lld), reads 2 (%lld) and gain %d (ONE, is %d)",
            d->complex_state, KRAIT_DECAY_MATRIX, (int)d->decay, (long long)d->state,
            (long long)d->inputs, (long long)d->reads, KRAIT_GAIN_ONE, (int)d->gain);
    KR_TRY(check_low_rank(d, e));
    if (!(d->dt_min >= 0) || !(d->dt_max >= 0))
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "scan: dt_min and dt_max must be 0 or more, are %g and %g", d->dt_min,
                       d->dt_max);
    if (d->dt_max > 0 && d->dt_min > d->dt_max)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "scan: dt_min (%g) must be at most dt_max (%g)",
                       d->dt_min, d->dt_max);
    return check_product(d, e);
}
