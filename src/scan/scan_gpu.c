/* scan_gpu.c - which members the GPU's kernels do, and the pieces of their backward pass. */
#include "scan/scan_gpu.h"

#include "base/err.h"

static const char *missing(const krait_scan_desc *d) {
    if (d->complex_state) return "complex states";
    if (d->decay != KRAIT_DECAY_MATRIX || d->form != KRAIT_FORM_DT || d->gain != KRAIT_GAIN_DT)
        return "members other than decay MATRIX, form DT, gain DT (Mamba)";
    if (!d->a_constant || d->b_constant || d->c_constant || d->dt_constant)
        return "A that varies in time, or constant b, c or dt";
    if (d->groups != 1 || d->inputs != 1 || d->reads != 1 || d->kappa != 1)
        return "several groups, inputs or reads";
    if (d->read != KRAIT_READ_AFTER) return "reads other than after the write";
    if (d->order == KRAIT_ORDER_INDEX) return "order INDEX";
    return d->state > 256 ? "more than 256 states" : NULL;
}

int kr_scan_gpu_check(const kr_call *c, krait_error *e) {
    const char *what = missing(c->attr);
    if (!what) return 0;
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "scan: on the GPU there are no kernels for %s", what);
}

static int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Few channels in all: time is cut, until there are warps enough for a large card. */
static int64_t chunk_of(int64_t E, int64_t M, int64_t S) {
    if (E * S >= 8 * 1024) return INT64_MAX / 2;
    return at_least(KR_SCAN_GPU_CHUNK,
                    ceil_div(ceil_div(M, KR_SCAN_GPU_PIECES), KR_SCAN_GPU_CHUNK) *
                        KR_SCAN_GPU_CHUNK);
}

static int64_t take(int64_t *at, int64_t floats) {
    int64_t from = *at;
    *at += (floats + 63) / 64 * 64;
    return from;
}

/* The number of pieces grows with M and S whether time is cut or not, so that a plan made for some
 * M and S has room for any fewer. */
void kr_scan_gpu_plan(const kr_call *c, kr_scan_gpu_cut *s) {
    const krait_scan_desc *d = c->attr;
    int64_t E = s->E = kr_scan_lanes(d), M = s->M = c->in[KR_SCAN_X].shape[0], at = 0;
    int64_t S = s->S = c->in[KR_SCAN_SEQS].shape[0];
    s->blocks = (int)ceil_div(d->state, KR_SCAN_GPU_STATES);
    s->octets = s->blocks == 1 ? 4 : s->blocks == 2 ? 2 : 1;
    s->parts = ceil_div(E, 8 * s->octets);
    if (s->blocks > 1 && s->parts > 8) s->parts = 8;
    s->chunk = chunk_of(E, M, S);
    int64_t most = at_least(M / KR_SCAN_GPU_CHUNK < KR_SCAN_GPU_PIECES ? M / KR_SCAN_GPU_CHUNK
                                                                       : KR_SCAN_GPU_PIECES,
                            0) +
                   S;
    s->pieces = M / s->chunk + S;
    int64_t steps = M / KR_SCAN_GPU_STEPS + S + 1, n = KR_SCAN_GPU_STATES * (int64_t)s->blocks;
    s->starts = take(&at, steps * E * n);
    s->sums = take(&at, steps * E);
    s->ends = take(&at, most * E * n);
    s->backs = take(&at, most * E * n);
    s->decays = take(&at, most * E * n);
    s->bc = take(&at, s->parts * M * 2 * n);
    s->a = take(&at, most * E * (n + 2));
    s->total = at;
}

size_t kr_scan_gpu_scratch(const kr_call *c) {
    kr_scan_gpu_cut s;
    krait_error e;
    if (kr_scan_gpu_check(c, &e) < 0) return 0;
    kr_scan_gpu_plan(c, &s);
    return (size_t)s.total * sizeof(float);
}
