/* scan_gpu.c - which members the GPU's kernels do, and the pieces that they cut a call into. */
#include "scan/scan_gpu.h"

#include "base/err.h"

static bool absent(const kr_call *c, int i) { return i >= c->n_in || !c->in[i].data; }

/* Real numbers, all of which vary in time but A. */
static bool varies(const krait_scan_desc *d) {
    return !d->complex_state && !d->b_constant && !d->c_constant && !d->dt_constant;
}

static bool one_input(const krait_scan_desc *d) { return d->inputs == 1 && d->reads == 1; }

/* Mamba's own kernels. */
static bool lanes_fit(const krait_scan_desc *d) {
    return varies(d) && one_input(d) && d->kappa == 1 && d->decay == KRAIT_DECAY_MATRIX &&
           d->form == KRAIT_FORM_DT && d->gain == KRAIT_GAIN_DT && d->a_constant &&
           d->groups == 1 && d->state <= 256;
}

/* Of 16 states, padded; and groups of 8 channels in a block of threads with all of their states. */
static int blocks_of(const krait_scan_desc *d) {
    return (int)((d->state + KR_SCAN_GPU_STATES - 1) / KR_SCAN_GPU_STATES);
}
static int octets_of(int blocks) { return blocks == 1 ? 4 : blocks == 2 ? 2 : 1; }

#if defined(KR_CUDA) /* in scan_seq.cu and scan_back.cu */
bool kr_scan_lanes_has_room(int octets, int blocks, kr_dtype type);
bool kr_scan_lanes_grad_has_room(int octets, int blocks, kr_dtype type);
#endif

/* Whether the card's shared memory has room for them: 99 KB a block have it for 112 states in f32.
 */
static bool lanes_have_room(const kr_call *c) {
#if defined(KR_CUDA)
    kr_dtype type = c->in[KR_SCAN_X].dtype;
    int blocks = blocks_of(c->attr), octets = octets_of(blocks);
    return c->n_in > KR_SCAN_INS ? kr_scan_lanes_grad_has_room(octets, blocks, type)
                                 : kr_scan_lanes_has_room(octets, blocks, type);
#else
    (void)c;
    return true;
#endif
}

/* Whether the card has room for chunks of matrix products. */
static bool has_room(const kr_call *c) {
#if defined(KR_CUDA)
    kr_dtype type = c->in[KR_SCAN_X].dtype;
    if (c->n_in > KR_SCAN_INS) return kr_scan_matrix_grad_has_room(c->attr, type);
    return kr_scan_matrix_has_room(c->attr, type);
#else
    (void)c;
    return true;
#endif
}

/* At least so many rows a sequence, on average. */
static bool rows_each(const kr_call *c, int64_t fewest) {
    return c->in[KR_SCAN_X].shape[0] >= fewest * c->in[KR_SCAN_SEQS].shape[0];
}

/* One decay a head, not below 0, or none: chunks of matrix products. */
static bool matrix_decay(const krait_scan_desc *d) {
    if (d->decay == KRAIT_DECAY_NONE) return true;
    if (d->decay != KRAIT_DECAY_SCALAR) return false;
    return d->form == KRAIT_FORM_LOG || (d->form == KRAIT_FORM_DT && d->a_constant);
}

static bool matrix_fits(const krait_scan_desc *d) {
    bool inputs = d->inputs == 1 || !kr_scan_uses_dt(d);
    return varies(d) && matrix_decay(d) && inputs && d->inputs <= KR_MATRIX_INPUTS &&
           d->reads <= d->inputs && d->width <= KR_MATRIX_P && d->state <= KR_MATRIX_N;
}

/* Few rows are taken one by one, where they have one input. Which way a forward pass goes changes
 * no scratch: neither needs any. */
static bool matrix_takes(const kr_call *c) {
    bool back = c->n_in > KR_SCAN_INS, few = !back && !rows_each(c, KR_MATRIX_STEP);
    return matrix_fits(c->attr) && (one_input(c->attr) || !few) && has_room(c);
}

/* Whether it has, too, for Mamba-2's own kernels: where not, they get no scratch. */
static bool ssd_has_room(void) {
#if defined(KR_CUDA)
    return kr_scan_ssd_has_room();
#else
    return true;
#endif
}

bool kr_scan_ssd_fits(const kr_call *c) {
    const krait_scan_desc *d = c->attr;
    return ssd_has_room() && matrix_fits(d) && one_input(d) && d->kappa > 0 &&
           absent(c, KR_SCAN_Z) && c->in[KR_SCAN_X].dtype == KR_BF16 && d->width == KR_MATRIX_P &&
           (d->state == KR_MATRIX_N || d->state == KR_MATRIX_N / 2) && !d->skip_per_channel;
}

/* Everything but x is constant in time, a head a channel. */
static bool constant(const kr_call *c) {
    const krait_scan_desc *d = c->attr;
    return d->a_constant && d->b_constant && d->c_constant && d->form != KRAIT_FORM_DT &&
           d->decay == KRAIT_DECAY_VECTOR && d->gain == KRAIT_GAIN_ONE && d->width == 1 &&
           d->groups == d->heads && d->inputs == 1 && d->reads == 1 && absent(c, KR_SCAN_Z);
}

/* Backward of y. */
static bool conv_fits(const kr_call *c) {
    const krait_scan_desc *d = c->attr;
    bool backward = c->n_in > KR_SCAN_INS;
    return constant(c) && d->complex_state && !d->low_rank && d->state <= KR_SCAN_CONV_STATES &&
           !(backward && absent(c, KR_SCAN_DY));
}

static bool low_fits(const kr_call *c) {
    const krait_scan_desc *d = c->attr;
    return constant(c) && d->complex_state && d->low_rank >= 1 &&
           d->low_rank <= KR_SCAN_LOW_RANKS && d->state <= 32 * KR_SCAN_LOW_MODES;
}

static bool dense_fits(const kr_call *c) {
    const krait_scan_desc *d = c->attr;
    return constant(c) && !d->complex_state && d->low_rank && d->state <= KR_SCAN_DENSE_STATES;
}

bool kr_scan_half_states(const kr_call *c) {
    bool in = !absent(c, KR_SCAN_STATE) && c->in[KR_SCAN_STATE].dtype == KR_BF16;
    bool forward = c->n_in <= KR_SCAN_INS && c->n_out > KR_SCAN_OUT_STATE;
    return in || (forward && c->out[KR_SCAN_OUT_STATE].data &&
                  c->out[KR_SCAN_OUT_STATE].dtype == KR_BF16);
}

kr_scan_gpu_way kr_scan_gpu_pick(const kr_call *c) {
    const krait_scan_desc *d = c->attr;
    if (d->complex_lanes) return KR_SCAN_GPU_COMPLEX;
    if (lanes_fit(d) && lanes_have_room(c)) return KR_SCAN_GPU_LANES;
    if (low_fits(c)) return KR_SCAN_GPU_LOW;
    if (conv_fits(c) && rows_each(c, KR_SCAN_CONV_FEWEST)) return KR_SCAN_GPU_CONV;
    if (dense_fits(c) && rows_each(c, KR_SCAN_DENSE_FEWEST)) return KR_SCAN_GPU_DENSE;
    if (matrix_takes(c)) return KR_SCAN_GPU_MATRIX;
    return KR_SCAN_GPU_ROWS;
}

/* What the kernels for complex lanes do not do. */
static const char *missing_complex(const kr_call *c) {
    const krait_scan_desc *d = c->attr;
    if (!d->a_constant || d->form == KRAIT_FORM_DT) return "complex lanes whose A varies in time";
    if (!absent(c, KR_SCAN_D) || !absent(c, KR_SCAN_Z)) return "complex lanes with D or z";
    return d->kappa != 1 ? "complex lanes with a kappa other than 1" : NULL;
}

static const char *missing(const kr_call *c) {
    const krait_scan_desc *d = c->attr;
    if (d->low_rank && !d->a_constant) return "a decay of low rank that varies in time";
    if (d->read != KRAIT_READ_AFTER) return "reads other than after the write";
    if (d->order == KRAIT_ORDER_INDEX) return "order INDEX";
    if (d->complex_lanes) return missing_complex(c);
    if (kr_scan_half_states(c) && !(matrix_fits(d) && one_input(d) && has_room(c)))
        return "states in bf16 but of one decay a head and at most 64 channels and 128 states";
    if (kr_scan_gpu_pick(c) != KR_SCAN_GPU_ROWS) return NULL;
    if (d->b_constant && d->inputs > 1) return "several inputs with a constant b";
    if (d->c_constant && d->reads > 1) return "several reads with a constant c";
    return NULL;
}

int kr_scan_gpu_check(const kr_call *c, krait_error *e) {
    const krait_scan_desc *d = c->attr;
    const char *what = missing(c);
    int64_t most = KR_SCAN_ROWS_STATES / (d->complex_state ? 2 : 1);
    if (what)
        return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "scan: on the GPU there are no kernels for %s",
                       what);
    if (kr_scan_gpu_pick(c) != KR_SCAN_GPU_ROWS || d->state <= most) return 0;
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                   "scan: on the GPU a channel has at most %lld%s numbers of state, not %lld",
                   (long long)most, d->complex_state ? " complex" : "", (long long)d->state);
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

/* The most pieces of a call with at most M rows and S sequences that is cut; 0: none is. */
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

/* The scratch grows with M and S whether time is cut or not, so that a plan made for some M and S
 * has room for any fewer. */
void kr_scan_gpu_plan(const kr_call *c, bool backward, kr_scan_gpu_cut *s) {
    const krait_scan_desc *d = c->attr;
    int64_t E = s->E = kr_scan_lanes(d), M = s->M = c->in[KR_SCAN_X].shape[0], at = 0;
    int64_t S = s->S = c->in[KR_SCAN_SEQS].shape[0];
    s->blocks = blocks_of(d);
    s->octets = octets_of(s->blocks);
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
    int64_t size = half ? 2 : 4, inputs = half ? KR_MATRIX_ROWS_HALF : KR_MATRIX_ROWS, at = 0;
    int64_t rows = inputs / d->inputs, each = d->groups < d->heads ? d->heads * d->state : 0;
    int64_t M = c->in[KR_SCAN_X].shape[0], S = c->in[KR_SCAN_SEQS].shape[0], H = d->heads;
    int64_t state = kr_matrix_padded(d->width) * ((d->state + 15) / 16 * 16);
    s->starts = 4 * take(&at, (M / rows + S) * H * state * size / 4);
    s->db = 4 * take(&at, (M * d->inputs * each * size + 3) / 4);
    s->dc = 4 * take(&at, (M * d->reads * each * size + 3) / 4);
    s->da = 4 * take(&at, S * H);
    s->dbias = 4 * take(&at, S * H);
    s->dd = 4 * take(&at, S * H * d->width);
    s->total = 4 * at;
}

/* Fewer rows have more slices, but never more rows times slices than these. */
void kr_scan_ssd_plan(const kr_call *c, kr_scan_ssd_cut *s) {
    const krait_scan_desc *d = c->attr;
    int64_t M = c->in[KR_SCAN_X].shape[0], S = c->in[KR_SCAN_SEQS].shape[0], H = d->heads, at = 0;
    int64_t each = H / d->groups, width = d->groups * d->state, slices = each;
    bool backward = c->n_in > KR_SCAN_INS;
    s->pieces = M / KR_MATRIX_ROWS_HALF + S;
    int64_t chunks = ceil_div(M, KR_MATRIX_ROWS_HALF) * d->groups;
    if (chunks * each > KR_SCAN_SSD_BLOCKS) slices = ceil_div(KR_SCAN_SSD_BLOCKS, chunks);
    s->heads = (int)ceil_div(each, slices);
    s->slices = (int)ceil_div(each, s->heads);
    int64_t rows = M + KR_SCAN_SSD_BLOCKS * KR_MATRIX_ROWS_HALF;
    if (rows > M * each) rows = M * each;
    int64_t states = s->pieces * H * KR_MATRIX_P * d->state / 2;
    s->times = 4 * take(&at, s->pieces * H * KR_SCAN_SSD_TIMES);
    s->before = 4 * take(&at, states);
    s->behind = s->db = s->dc = s->da = s->dbias = s->dd = 0;
    if (backward) {
        s->behind = 4 * take(&at, states);
        s->db = 4 * take(&at, ceil_div(rows * width, 2));
        s->dc = 4 * take(&at, ceil_div(rows * width, 2));
        s->da = 4 * take(&at, s->pieces * H);
        s->dbias = 4 * take(&at, s->pieces * H);
        s->dd = 4 * take(&at, s->pieces * H);
    }
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

/* The largest divisor of n that is at most `most`. */
static int64_t divisor(int64_t n, int64_t most) {
    while (n % most) most--;
    return most;
}

void kr_scan_gpu_tiles_of(const krait_scan_desc *d, kr_scan_gpu_tiles *s) {
    int64_t parts = d->complex_state ? 2 : 1, each = d->heads / d->groups;
    bool wide = d->low_rank || d->width < 3 || d->state * parts > 4 * 32;
    int64_t channels = wide ? 1 : 4, numbers = 16 / parts / channels, lanes = 1;
    while (lanes * numbers < d->state) lanes *= 2;
    int64_t units = ceil_div(d->width, channels), room = KR_SCAN_ROWS_THREADS / lanes;
    int64_t own = units < room ? units : room, heads = room / own;
    if (own < units) heads = 1;
    heads = heads >= each ? heads / each * each : divisor(each, heads);
    s->channels = (int)channels;
    s->lanes = (int)lanes;
    s->units = (int)own;
    s->heads = (int)heads;
    s->parts = ceil_div(units, own);
    s->group_parts = heads >= each ? s->parts : each / heads * s->parts;
    s->blocks = ceil_div(d->heads, heads) * s->parts;
}

void kr_scan_rows_scratch_plan(const kr_call *c, kr_scan_rows_scratch *s) {
    const krait_scan_desc *d = c->attr;
    kr_scan_gpu_tiles cut;
    int64_t M = c->in[KR_SCAN_X].shape[0], S = c->in[KR_SCAN_SEQS].shape[0], at = 0;
    int64_t H = d->heads, E = kr_scan_lanes(d), N = kr_scan_n(d);
    kr_scan_gpu_tiles_of(d, &cut);
    int64_t units = ceil_div(d->width, cut.channels), group = cut.group_parts > 1 ? M : 0;
    int64_t head = cut.parts > 1 ? M * cut.parts : 0;
    bool channels = d->decay == KRAIT_DECAY_MATRIX;
    s->marks = take(&at, (M / KR_SCAN_ROWS_CHUNK + S + 1) * cut.blocks * KR_SCAN_ROWS_THREADS * 16);
    s->b = take(&at, d->b_constant ? 0 : group * cut.group_parts * kr_scan_b_cols(d));
    s->c = take(&at, d->c_constant ? 0 : group * cut.group_parts * kr_scan_c_cols(d));
    s->A = take(&at, d->a_constant || channels ? 0 : head * kr_scan_a_cols(d));
    s->dt = take(&at, head * H);
    s->gain = take(&at, d->gain == KRAIT_GAIN_GIVEN ? head * d->inputs * H : 0);
    s->one_A = take(&at, S * (channels ? E : units * H) * kr_scan_a_width(d));
    s->one_b = take(&at, d->b_constant ? S * units * H * N : 0);
    s->one_c = take(&at, d->c_constant ? S * units * H * N : 0);
    s->one_D = take(&at, S * E);
    s->one_dt = take(&at, S * (channels ? E : units * H));
    s->total = at;
}

/* `states`: numbers of all states of a sequence as they are kept, in front of every `chunk` rows.
 */
static void shares(const kr_call *c, int64_t states, int64_t chunk, kr_scan_shares *s) {
    const krait_scan_desc *d = c->attr;
    int64_t M = c->in[KR_SCAN_X].shape[0], S = c->in[KR_SCAN_SEQS].shape[0], at = 0;
    s->marks = take(&at, (M / chunk + S + 1) * states);
    s->one_A = take(&at, S * d->heads * kr_scan_a_width(d));
    s->one_b = take(&at, S * d->heads * kr_scan_n(d));
    s->one_c = take(&at, S * d->heads * kr_scan_n(d));
    s->one_D = take(&at, S * d->heads);
    s->total = at;
}

void kr_scan_low_plan(const kr_call *c, kr_scan_shares *s) {
    int64_t states = kr_scan_low_blocks(c->attr) * KR_SCAN_LOW_THREADS * 2 * KR_SCAN_LOW_MODES;
    shares(c, states, KR_SCAN_LOW_CHUNK, s);
}

void kr_scan_dense_plan(const kr_call *c, kr_scan_shares *s) {
    const krait_scan_desc *d = c->attr;
    shares(c, d->heads * (d->state <= 32 ? 32 : 64), KR_SCAN_DENSE_CHUNK, s);
}

void kr_scan_gpu_conv_plan(const kr_call *c, bool backward, kr_scan_gpu_conv *s) {
    const krait_scan_desc *d = c->attr;
    int64_t M = c->in[KR_SCAN_X].shape[0], at = 0, n = 1;
    int64_t size = (int64_t)kr_dtype_size(c->in[KR_SCAN_X].dtype);
    while (n < M && n < KR_SCAN_CONV_ROWS) n *= 2;
    s->kernel = take(&at, n);
    s->held = take(&at, n);
    s->spectrum = take(&at, 4 * n);
    s->gradient = s->more = s->work = s->states = 0;
    if (backward) {
        s->gradient = take(&at, n);
        s->more = take(&at, 4 * n);
        s->work = take(&at, 2 * n);
        /* the least of cards has room for an eighth of the largest transform */
        s->states = take(&at, (M / (KR_SCAN_CONV_ROWS / 8) + 1) * 2 * d->state);
    }
    s->room = at;
    s->count = d->heads < KR_SCAN_CONV_BLOCKS ? d->heads : KR_SCAN_CONV_BLOCKS;
    at = 0;
    s->x = take(&at, ceil_div(d->heads * M * size, 4));
    s->dy = take(&at, backward ? ceil_div(d->heads * M * size, 4) : 0);
    s->blocks = take(&at, s->count * s->room);
    s->total = at;
}

/* Floats. A call with fewer rows, or more sequences, may go the one way or the other. */
static int64_t rows_scratch(const kr_call *c, bool backward) {
    kr_scan_rows_scratch s = {.total = 0};
    kr_scan_gpu_conv conv = {.total = 0};
    kr_scan_shares dense = {.total = 0};
    if (conv_fits(c)) kr_scan_gpu_conv_plan(c, backward, &conv);
    if (backward) kr_scan_rows_scratch_plan(c, &s);
    if (backward && dense_fits(c)) kr_scan_dense_plan(c, &dense);
    return at_least(at_least(s.total, conv.total), dense.total);
}

static int64_t lanes_scratch(const kr_call *c, bool backward) {
    kr_scan_gpu_cut s;
    kr_scan_gpu_plan(c, backward, &s);
    return s.total;
}

static int64_t complex_scratch(const kr_call *c, bool backward) {
    kr_scan_gpu_lanes s;
    kr_scan_gpu_lanes_plan(c, backward, &s);
    return s.total;
}

/* Bytes. Which of the two does a call is known when its arrays are. */
static int64_t matrix_scratch(const kr_call *c, bool backward) {
    kr_scan_matrix_cut m = {.total = 0};
    kr_scan_ssd_cut s = {.total = 0};
    kr_call fewer = *c;
    int64_t *S = &fewer.in[KR_SCAN_SEQS].shape[0], most = c->in[KR_SCAN_X].shape[0];
    if (!backward) most /= KR_MATRIX_STEP; /* kr_scan_cuda: more than these need none */
    if (*S > most) *S = most;              /* a run may have fewer than were planned for */
    if (backward) kr_scan_matrix_plan(c, &m);
    if (kr_scan_ssd_fits(c) && *S > 0) kr_scan_ssd_plan(backward ? c : &fewer, &s);
    return at_least(m.total, s.total);
}

static int64_t low_scratch(const kr_call *c, bool backward) {
    kr_scan_shares s;
    kr_scan_low_plan(c, &s);
    return backward ? s.total : 0;
}

static size_t scratch(const kr_call *c, bool backward) {
    krait_error e;
    if (kr_scan_gpu_check(c, &e) < 0) return 0;
    switch (kr_scan_gpu_pick(c)) {
    case KR_SCAN_GPU_COMPLEX: return (size_t)complex_scratch(c, backward) * sizeof(float);
    case KR_SCAN_GPU_LANES: return (size_t)lanes_scratch(c, backward) * sizeof(float);
    case KR_SCAN_GPU_LOW: return (size_t)low_scratch(c, backward) * sizeof(float);
    case KR_SCAN_GPU_CONV:
    case KR_SCAN_GPU_DENSE:
    case KR_SCAN_GPU_ROWS: return (size_t)rows_scratch(c, backward) * sizeof(float);
    case KR_SCAN_GPU_MATRIX: break;
    }
    return (size_t)matrix_scratch(c, backward);
}

size_t kr_scan_gpu_scratch(const kr_call *c) { return scratch(c, false); }
size_t kr_scan_gpu_scratch_grad(const kr_call *c) { return scratch(c, true); }
