/* scan_gpu.c - which members the GPU's kernels do, and the pieces of their
 * backward pass. */
#include "scan/scan_gpu.h"

#include "base/err.h"

/* What Mamba's kernels do not do. */
static const char *missing_lanes(const krait_scan_desc *d) {
    if (d->form != KRAIT_FORM_DT || d->gain != KRAIT_GAIN_DT)
        return "decay MATRIX with a form or gain other than DT";
    if (!d->a_constant) return "decay MATRIX that varies in time by itself";
    if (d->groups != 1) return "decay MATRIX with several groups";
    return d->state > 256 ? "decay MATRIX with more than 256 states" : NULL;
}

/* What the kernels for one decay a head do not do. */
static const char *missing_matrix(const krait_scan_desc *d) {
    if (d->decay == KRAIT_DECAY_SCALAR && (d->form != KRAIT_FORM_DT || !d->a_constant))
        return "decay SCALAR with a form other than DT, or that varies in time by "
               "itself";
    if (d->gain == KRAIT_GAIN_GIVEN) return "decay SCALAR with a given gain";
    if (d->width > KR_MATRIX_P) return "decay SCALAR with more than 64 channels a head";
    return d->state > KR_MATRIX_N ? "decay SCALAR with more than 128 states" : NULL;
}

bool kr_scan_gpu_matrix(const krait_scan_desc *d) {
    return d->decay == KRAIT_DECAY_SCALAR || d->decay == KRAIT_DECAY_NONE;
}

static bool absent(const kr_call *c, int i) { return i >= c->n_in || !c->in[i].data; }

/* What the kernels for complex lanes do not do. */
static const char *missing_complex(const kr_call *c) {
    const krait_scan_desc *d = c->attr;
    if (!d->a_constant || d->form == KRAIT_FORM_DT) return "complex lanes whose A varies in time";
    if (!absent(c, KR_SCAN_D) || !absent(c, KR_SCAN_Z)) return "complex lanes with D or z";
    if (d->kappa != 1) return "complex lanes with a kappa other than 1";
    if (d->read != KRAIT_READ_AFTER) return "reads other than after the write";
    return d->order == KRAIT_ORDER_INDEX ? "order INDEX" : NULL;
}

static const char *missing(const kr_call *c) {
    const krait_scan_desc *d = c->attr;
    if (d->complex_lanes) return missing_complex(c);
    if (d->complex_state) return "complex states";
    if (d->decay == KRAIT_DECAY_VECTOR) return "decay VECTOR";
    if (d->b_constant || d->c_constant || d->dt_constant) return "constant b, c or dt";
    if (d->inputs != 1 || d->reads != 1 || d->kappa != 1)
        return "several inputs or reads, or a kappa other than 1";
    if (d->read != KRAIT_READ_AFTER) return "reads other than after the write";
    if (d->order == KRAIT_ORDER_INDEX) return "order INDEX";
    return kr_scan_gpu_matrix(d) ? missing_matrix(d) : missing_lanes(d);
}

int kr_scan_gpu_check(const kr_call *c, krait_error *e) {
    const char *what = missing(c);
    if (!what && kr_scan_gpu_matrix(c->attr) && c->in[KR_SCAN_Z].data)
        what = "a gate inside, with one decay a head";
    if (!what) return 0;
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "scan: on the GPU there are no kernels for %s", what);
}

static int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Few channels in all: time is cut, so that blocks of threads fill a large card: as few pieces as
 * fill it well, since what passes through a long piece is soon 0. */
enum { CHANNELS_ENOUGH = 8 * 1024, LANES_ENOUGH = 64 * 1024, BLOCKS = 396 };

static int64_t chunk_of(int64_t E, int64_t M, int64_t S, int64_t parts) {
    int64_t best = 1, filled = 0, most = M / KR_SCAN_GPU_CHUNK;
    if (E * S >= CHANNELS_ENOUGH || M <= S * KR_SCAN_GPU_CHUNK) return INT64_MAX / 2;
    if (most > KR_SCAN_GPU_PIECES) most = KR_SCAN_GPU_PIECES;
    for (int64_t n = 1; n <= most && filled < 95; n++) {
        int64_t blocks = n * parts, percent = 100 * blocks / (ceil_div(blocks, BLOCKS) * BLOCKS);
        if (percent > filled) filled = percent, best = n;
    }
    return ceil_div(ceil_div(M, best), KR_SCAN_GPU_CHUNK) * KR_SCAN_GPU_CHUNK;
}

/* Of complex lanes, which have a thread each. */
static int64_t lanes_chunk(int64_t E, int64_t M, int64_t S) {
    int64_t chunk = ceil_div(ceil_div(M, KR_SCAN_GPU_PIECES), KR_SCAN_GPU_CHUNK);
    if (E * S >= LANES_ENOUGH || M <= S * KR_SCAN_GPU_CHUNK) return INT64_MAX / 2;
    return at_least(1, chunk) * KR_SCAN_GPU_CHUNK;
}

/* The most pieces of a call with at most M rows and S sequences that is cut; 0:
 * none is. */
static int64_t most_pieces(int64_t E, int64_t M, int64_t S, int64_t enough) {
    int64_t rows = M / KR_SCAN_GPU_CHUNK, sequences = enough / E + 1;
    if (M <= KR_SCAN_GPU_CHUNK) return 0;
    if (rows > KR_SCAN_GPU_PIECES) rows = KR_SCAN_GPU_PIECES;
    return rows + (S < sequences ? S : sequences);
}

static int64_t take(int64_t *at, int64_t floats) {
    int64_t from = *at;
    *at += (floats + 63) / 64 * 64;
    return from;
}

/* The scratch grows with M and S whether time is cut or not, so that a plan
 * made for some M and S has room for any fewer. */
void kr_scan_gpu_plan(const kr_call *c, bool backward, kr_scan_gpu_cut *s) {
    const krait_scan_desc *d = c->attr;
    int64_t E = s->E = kr_scan_lanes(d), M = s->M = c->in[KR_SCAN_X].shape[0], at = 0;
    int64_t S = s->S = c->in[KR_SCAN_SEQS].shape[0];
    s->blocks = (int)ceil_div(d->state, KR_SCAN_GPU_STATES);
    s->octets = s->blocks == 1 ? 4 : s->blocks == 2 ? 2 : 1;
    s->parts = ceil_div(E, 8 * s->octets);
    s->chunk = chunk_of(E, M, S, s->parts);
    if (s->blocks > 1 && s->parts > 8) s->parts = 8;
    int64_t most = most_pieces(E, M, S, CHANNELS_ENOUGH);
    s->pieces = M / s->chunk + S;
    int64_t steps = M / KR_SCAN_GPU_STEPS + S + 1, n = KR_SCAN_GPU_STATES * (int64_t)s->blocks;
    s->ends = take(&at, most * E * n);
    s->decays = take(&at, most * E * n);
    if (backward) {
        s->backs = take(&at, most * E * n);
        s->starts = take(&at, steps * E * n);
        s->sums = take(&at, steps * E);
        s->bc = take(&at, s->parts * M * 2 * n);
        s->a = take(&at, at_least(most, S) * E * (n + 2));
    }
    s->total = at;
}

void kr_scan_matrix_plan(const kr_call *c, kr_scan_matrix_cut *s) {
    const krait_scan_desc *d = c->attr;
    bool half = c->in[KR_SCAN_X].dtype == KR_BF16;
    int64_t size = half ? 2 : 4, rows = half ? KR_MATRIX_ROWS_HALF : KR_MATRIX_ROWS, at = 0;
    int64_t M = c->in[KR_SCAN_X].shape[0], S = c->in[KR_SCAN_SEQS].shape[0], H = d->heads;
    int64_t state = kr_matrix_padded(d->width) * ((d->state + 15) / 16 * 16);
    s->starts = 4 * take(&at, (M / rows + S) * H * state * size / 4);
    s->db = 4 * take(&at, (M * H * d->state * size + 3) / 4);
    s->dc = 4 * take(&at, (M * H * d->state * size + 3) / 4);
    s->da = 4 * take(&at, S * H);
    s->dbias = 4 * take(&at, S * H);
    s->dd = 4 * take(&at, S * H * d->width);
    s->total = 4 * at;
}

void kr_scan_gpu_lanes_plan(const kr_call *c, bool backward, kr_scan_gpu_lanes *s) {
    int64_t E = s->E = kr_scan_lanes(c->attr), M = s->M = c->in[KR_SCAN_X].shape[0], at = 0;
    int64_t S = s->S = c->in[KR_SCAN_SEQS].shape[0];
    s->chunk = lanes_chunk(E, M, S);
    s->pieces = M / s->chunk + S;
    int64_t most = most_pieces(E, M, S, LANES_ENOUGH);
    s->ends = take(&at, most * 2 * E);
    s->decays = take(&at, most * 2 * E);
    s->backs = s->marks = s->da = 0;
    if (backward) {
        s->backs = take(&at, most * 2 * E);
        s->marks = take(&at, (M / KR_SCAN_GPU_STEPS + S + 1) * 2 * E);
        s->da = take(&at, at_least(most, S) * 2 * E);
    }
    s->total = at;
}

static size_t scratch(const kr_call *c, bool backward) {
    kr_scan_gpu_cut s;
    kr_scan_gpu_lanes lanes;
    krait_error e;
    if (kr_scan_gpu_check(c, &e) < 0) return 0;
    if (((const krait_scan_desc *)c->attr)->complex_lanes) {
        kr_scan_gpu_lanes_plan(c, backward, &lanes);
        return (size_t)lanes.total * sizeof(float);
    }
    if (kr_scan_gpu_matrix(c->attr)) {
        kr_scan_matrix_cut m;
        kr_scan_matrix_plan(c, &m);
        return backward ? (size_t)m.total : 0;
    }
    kr_scan_gpu_plan(c, backward, &s);
    return (size_t)s.total * sizeof(float);
}

size_t kr_scan_gpu_scratch(const kr_call *c) { return scratch(c, false); }
size_t kr_scan_gpu_scratch_grad(const kr_call *c) { return scratch(c, true); }
