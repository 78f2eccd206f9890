/* scan_case.c - the checker's cases of the recurrence: every member of the family on odd sizes.
 *
 * A case is a line of the table: a member, rows, sequences, and which optional arrays are there.
 * Values are drawn so that decays stay in (0, 1): A in [-2, 0] where it is multiplied or
 * exponentiated, in [0.3, 0.9] where it is the decay itself. */
#include "scan/scan_case.h"

#include "ops/case.h"

enum {
    SKIP = 1,   /* D */
    GATE = 2,   /* z */
    BIAS = 4,   /* dt_bias */
    RESET = 8,  /* segment starts */
    STATE = 16, /* state_in and state_out */
    ALL = 31,
    FAR = 32,       /* rows past 2^31 elements */
    HALF_STATE = 64 /* in the half form the states are bf16, too */
};

#define MAMBA1(E, n)                                                                               \
    {                                                                                              \
        .heads = 1, .width = E, .state = n, .groups = 1, .inputs = 1, .reads = 1, .kappa = 1,      \
        .decay = KRAIT_DECAY_MATRIX, .form = KRAIT_FORM_DT, .gain = KRAIT_GAIN_DT,                 \
        .a_constant = true, .dt_softplus = true, .skip_per_channel = true                          \
    }
#define MAMBA2(H, P, n, G)                                                                         \
    {                                                                                              \
        .heads = H, .width = P, .state = n, .groups = G, .inputs = 1, .reads = 1, .kappa = 1,      \
        .decay = KRAIT_DECAY_SCALAR, .form = KRAIT_FORM_DT, .gain = KRAIT_GAIN_DT,                 \
        .a_constant = true, .dt_softplus = true, .dt_min = 0.01, .dt_max = 2                       \
    }
#define GROUPED(H, P, n, G, R, Q, k, ...)                                                          \
    {                                                                                              \
        .heads = H, .width = P, .state = n, .groups = G, .inputs = R, .reads = Q, .kappa = k,      \
        __VA_ARGS__                                                                                \
    }
#define MEMBER(H, P, n, R, Q, k, ...) GROUPED(H, P, n, H, R, Q, k, __VA_ARGS__)

/* Mamba-3's: one decay a head, and a gain, both given for each row */
#define OF_EACH_ROW .decay = KRAIT_DECAY_SCALAR, .form = KRAIT_FORM_LOG, .gain = KRAIT_GAIN_GIVEN

#define LRU(lanes, f)                                                                              \
    MEMBER(1, lanes, 1, 2, 2, 1, .decay = KRAIT_DECAY_MATRIX, .form = f, .complex_state = true,    \
           .complex_lanes = true, .a_constant = true)

#define S4D(channels, n, f)                                                                        \
    MEMBER(channels, 1, n, 1, 1, 2, .decay = KRAIT_DECAY_VECTOR, .form = f, .complex_state = true, \
           .a_constant = true, .b_constant = true, .c_constant = true, .dt_constant = true)

#define REVERSE_MAMBA1(E, n)                                                                       \
    MEMBER(1, E, n, 1, 1, 1, .decay = KRAIT_DECAY_MATRIX, .form = KRAIT_FORM_DT,                   \
           .gain = KRAIT_GAIN_DT, .order = KRAIT_ORDER_REVERSE, .a_constant = true,                \
           .dt_softplus = true, .skip_per_channel = true)
#define REVERSE_S4D(channels, n)                                                                   \
    MEMBER(channels, 1, n, 1, 1, 2, .decay = KRAIT_DECAY_VECTOR, .form = KRAIT_FORM_GIVEN,         \
           .order = KRAIT_ORDER_REVERSE, .complex_state = true, .a_constant = true,                \
           .b_constant = true, .c_constant = true, .dt_constant = true)

/* S4 (complex), LSSL (of full rank) */
#define LOW(channels, n, K, k, imaginary)                                                          \
    MEMBER(channels, 1, n, 1, 1, k, .decay = KRAIT_DECAY_VECTOR, .complex_state = imaginary,       \
           .a_constant = true, .b_constant = true, .c_constant = true, .low_rank = K)

static const struct {
    const char *name;
    int64_t M, S;
    unsigned with;
    krait_scan_desc d;
} table[] = {
    {"mamba1 T=1 N=16", 1, 1, ALL, MAMBA1(48, 16)},
    {"mamba1 step of 5", 5, 5, ALL, MAMBA1(100, 16)},
    {"mamba1 step of 5 N=17", 5, 5, ALL & ~RESET, MAMBA1(33, 17)},
    {"mamba1 T=63 N=1", 63, 1, ALL, MAMBA1(17, 1)},
    {"mamba1 T=100 N=17", 100, 1, ALL & ~RESET, MAMBA1(33, 17)},
    {"mamba1 ragged", 100, 4, ALL, MAMBA1(65, 16)},
    {"mamba1 ragged, odd E, bare", 63, 3, 0, MAMBA1(7, 16)},
    {"mamba1 ragged, no state", 131, 3, SKIP | GATE | BIAS, MAMBA1(130, 8)},
    {"mamba1 T=300, cut in pieces on the GPU", 300, 1, ALL, MAMBA1(20, 16)},
    {"mamba1 ragged T=517, cut", 517, 2, ALL & ~RESET, MAMBA1(33, 7)},
    {"mamba1 ragged N=33", 70, 2, ALL, MAMBA1(20, 33)},
    {"mamba1 T=300 N=100, cut", 300, 1, ALL, MAMBA1(20, 100)},
    {"mamba1 ragged N=256", 70, 2, ALL, MAMBA1(20, 256)},
    {"mamba1 step of 3 N=256", 3, 3, ALL, MAMBA1(20, 256)},
    {"mamba1 more sequences than rows", 2, 4, ALL, MAMBA1(20, 16)},
    {"mamba2 T=1", 1, 1, ALL, MAMBA2(3, 8, 16, 1)},
    {"mamba2 step of 4", 4, 4, ALL, MAMBA2(4, 16, 32, 2)},
    {"mamba2 step of 3, halves", 3, 3, (ALL & ~GATE) | HALF_STATE, MAMBA2(2, 64, 128, 1)},
    {"mamba2 step of 5, halves, N=17", 5, 5, (ALL & ~GATE) | HALF_STATE, MAMBA2(4, 33, 17, 2)},
    {"mamba2 ragged, halves", 150, 3, (ALL & ~GATE) | HALF_STATE, MAMBA2(2, 64, 128, 2)},
    {"mamba2 T=70, halves, N=24", 70, 2, (ALL & ~GATE) | HALF_STATE, MAMBA2(4, 16, 24, 1)},
    {"mamba2 T=63", 63, 1, ALL, MAMBA2(4, 16, 17, 2)},
    {"mamba2 ragged, odd", 100, 3, ALL, MAMBA2(3, 5, 33, 3)},
    {"mamba2 P=64 N=128", 70, 2, SKIP | STATE, MAMBA2(2, 64, 128, 1)},
    {"mamba2 T=63 P=9 N=1", 63, 1, ALL, MAMBA2(3, 9, 1, 1)},
    {"mamba2 step of 4, no gate", 4, 4, ALL & ~GATE, MAMBA2(4, 16, 32, 2)},
    {"mamba2 step of 7, P=64 N=128", 7, 5, ALL & ~GATE, MAMBA2(2, 64, 128, 1)},
    {"mamba2 step of 3, some of none, P=64", 3, 5, ALL & ~GATE, MAMBA2(2, 64, 128, 2)},
    {"mamba2 step of 5, P=40 N=30", 5, 5, ALL & ~GATE, MAMBA2(3, 40, 30, 3)},
    {"mamba2 T=63, no gate", 63, 1, ALL & ~GATE, MAMBA2(4, 16, 17, 2)},
    {"mamba2 ragged, odd, no gate", 100, 3, ALL & ~GATE, MAMBA2(3, 5, 33, 3)},
    {"mamba2 T=64 P=16", 64, 1, ALL & ~RESET, MAMBA2(4, 16, 17, 2)},
    {"mamba2 T=100 P=17, ragged", 100, 2, ALL, MAMBA2(6, 17, 33, 3)},
    {"mamba2 T=300 P=64 N=128", 300, 2, ALL, MAMBA2(2, 64, 128, 1)},
    {"mamba2 T=200 P=64 N=64, two groups, no gate", 200, 3, ALL & ~GATE, MAMBA2(4, 64, 64, 2)},
    {"mamba2 T=140 P=64 N=128, no gate", 140, 2, ALL & ~GATE, MAMBA2(2, 64, 128, 1)},
    {"mamba2 of 260 heads", 8, 1, SKIP | BIAS | RESET, MAMBA2(260, 64, 64, 1)},
    {"retention P=64 N=64, reverse", 150, 2, STATE | RESET,
     MEMBER(2, 64, 64, 1, 1, 1, .decay = KRAIT_DECAY_SCALAR, .form = KRAIT_FORM_DT,
            .a_constant = true, .order = KRAIT_ORDER_REVERSE, .dt_softplus = true)},
    {"linear attention", 63, 2, STATE | RESET, MEMBER(2, 9, 7, 1, 1, 1, .decay = KRAIT_DECAY_NONE)},
    {"mamba1, far rows", 7, 2, ALL | FAR, MAMBA1(20, 5)},
    {"mamba1 steps, far rows", 3, 3, ALL | FAR, MAMBA1(20, 5)},
    {"mamba2, far rows", 7, 2, ALL | FAR, MAMBA2(2, 4, 9, 1)},
    {"mamba2 in chunks, far rows", 34, 2, ALL | FAR, MAMBA2(2, 8, 9, 1)},
    {"retnet", 40, 1, STATE,
     MEMBER(3, 8, 8, 1, 1, 1, .decay = KRAIT_DECAY_SCALAR, .a_constant = true)},
    {"gla", 63, 2, ALL & ~BIAS,
     MEMBER(2, 8, 5, 1, 1, 1, .decay = KRAIT_DECAY_VECTOR, .form = KRAIT_FORM_LOG)},
    {"gla P=64 N=64", 20, 2, STATE | RESET,
     MEMBER(2, 64, 64, 1, 1, 1, .decay = KRAIT_DECAY_VECTOR, .form = KRAIT_FORM_LOG)},
    {"gla N=200", 18, 1, STATE | SKIP,
     MEMBER(2, 5, 200, 1, 1, 1, .decay = KRAIT_DECAY_VECTOR, .form = KRAIT_FORM_LOG)},
    {"gla, reverse", 40, 2, ALL & ~BIAS,
     MEMBER(3, 7, 9, 1, 1, 1, .decay = KRAIT_DECAY_VECTOR, .form = KRAIT_FORM_LOG,
            .order = KRAIT_ORDER_REVERSE)},
    {"selective attention", 63, 2, ALL & ~SKIP,
     MEMBER(3, 6, 9, 1, 1, 0.5, .decay = KRAIT_DECAY_MATRIX, .form = KRAIT_FORM_DT,
            .a_constant = true, .dt_softplus = true)},
    {"one group, P=64 N=64, all given", 18, 1, ALL & ~BIAS,
     GROUPED(4, 64, 64, 1, 1, 1, 0.5, OF_EACH_ROW)},
    {"matrix decay given a row", 17, 2, STATE,
     MEMBER(2, 3, 5, 1, 1, 1, .decay = KRAIT_DECAY_MATRIX)},
    {"retention, channels that fill no block", 20, 2, STATE | RESET,
     MEMBER(2, 36, 64, 1, 1, 1, .decay = KRAIT_DECAY_SCALAR, .form = KRAIT_FORM_LOG,
            .a_constant = true)},
    {"mamba3 rank 1", 63, 2, SKIP | GATE | STATE | RESET, MEMBER(2, 8, 16, 2, 1, 1, OF_EACH_ROW)},
    {"mamba3 rank 1, in chunks", 131, 2, SKIP | GATE | STATE | RESET,
     MEMBER(2, 16, 33, 2, 1, 1, OF_EACH_ROW)},
    {"mamba3 rank 4, in chunks", 70, 2, SKIP | STATE, MEMBER(2, 8, 18, 8, 4, 1, OF_EACH_ROW)},
    {"mamba3 rank 2", 20, 1, SKIP | GATE | STATE, MEMBER(2, 4, 6, 4, 2, 1, OF_EACH_ROW)},
    {"mamba3 P=64 N=128", 140, 3, SKIP | GATE | STATE | RESET,
     MEMBER(2, 64, 128, 2, 1, 1, OF_EACH_ROW)},
    {"mamba3 rank 3, reverse", 50, 2, SKIP | GATE | STATE | RESET,
     MEMBER(3, 20, 12, 6, 3, 0.5, OF_EACH_ROW, .order = KRAIT_ORDER_REVERSE)},
    {"mamba3 step of 4", 4, 4, SKIP | GATE | STATE, MEMBER(3, 8, 16, 2, 1, 1, OF_EACH_ROW)},
    {"mamba3 rank 2, 130 states", 20, 2, SKIP | GATE | STATE | RESET,
     MEMBER(2, 5, 130, 4, 2, 1, OF_EACH_ROW)},
    {"linear attention P=64 N=64, scaled", 150, 2, STATE | RESET,
     MEMBER(2, 64, 64, 1, 1, 0.125, .decay = KRAIT_DECAY_NONE)},
    {"decay and gain of each row, P=64 N=64", 140, 2, SKIP | STATE | RESET,
     GROUPED(4, 64, 64, 2, 1, 1, 0.5, OF_EACH_ROW)},
    {"decay and gain of each row, step of 5", 5, 5, SKIP | STATE,
     GROUPED(4, 16, 32, 2, 1, 1, 0.5, OF_EACH_ROW)},
    {"linear attention, step of 4", 4, 4, STATE,
     MEMBER(2, 16, 16, 1, 1, 0.25, .decay = KRAIT_DECAY_NONE)},
    {"a skip of each channel, P=40, gate", 40, 1, SKIP | GATE | STATE,
     GROUPED(2, 40, 16, 1, 1, 1, 1, .decay = KRAIT_DECAY_SCALAR, .form = KRAIT_FORM_LOG,
             .a_constant = true, .skip_per_channel = true)},
    {"two inputs, heads that share b", 40, 2, SKIP | STATE,
     GROUPED(4, 8, 12, 2, 2, 1, 1, OF_EACH_ROW)},
    {"s4d", 63, 2, SKIP | STATE,
     MEMBER(5, 1, 8, 1, 1, 2, .decay = KRAIT_DECAY_VECTOR, .form = KRAIT_FORM_DT,
            .complex_state = true, .a_constant = true, .b_constant = true, .c_constant = true,
            .dt_constant = true)},
    {"s4d, decay given", 100, 3, SKIP | STATE | RESET, S4D(17, 6, KRAIT_FORM_GIVEN)},
    {"s4d, no state", 63, 2, SKIP, S4D(3, 32, KRAIT_FORM_GIVEN)},
    {"s4d, logarithms, bare", 300, 1, 0, S4D(33, 5, KRAIT_FORM_LOG)},
    {"s4d T=2500", 2500, 2, SKIP | STATE, S4D(2, 32, KRAIT_FORM_GIVEN)},
    {"s4d, one row", 8, 1, STATE | SKIP, S4D(9, 1, KRAIT_FORM_GIVEN)},
    {"s4d step of 5", 5, 5, STATE | SKIP, S4D(17, 32, KRAIT_FORM_GIVEN)},
    {"s4d, few rows, logarithms, gate", 7, 3, STATE | RESET | GATE, S4D(33, 19, KRAIT_FORM_LOG)},
    {"s4d, few rows, far", 7, 2, STATE | SKIP | FAR, S4D(20, 4, KRAIT_FORM_GIVEN)},
    {"s4d, one step, no state", 1, 1, 0, S4D(5, 3, KRAIT_FORM_GIVEN)},
    {"s4d, far rows", 18, 2, STATE | RESET | SKIP | FAR, S4D(20, 4, KRAIT_FORM_GIVEN)},
    {"s4", 100, 3, SKIP | STATE | RESET, LOW(17, 6, 1, 2, true)},
    {"s4, no state", 133, 12, SKIP, LOW(3, 8, 1, 2, true)},
    {"s4 of rank 2, bare", 300, 12, 0, LOW(33, 5, 2, 2, true)},
    {"s4 step of 5", 5, 5, SKIP | STATE, LOW(20, 4, 1, 2, true)},
    {"lssl", 70, 2, SKIP | STATE | RESET, LOW(5, 7, 7, 1, false)},
    {"s4 of rank 2, many modes", 50, 2, ALL & ~BIAS & ~GATE, LOW(5, 37, 2, 2, true)},
    {"lssl N=40", 30, 2, SKIP | STATE, LOW(3, 40, 40, 1, false)},
    {"s4, reverse", 40, 2, SKIP | STATE | RESET,
     MEMBER(6, 1, 20, 1, 1, 2, .decay = KRAIT_DECAY_VECTOR, .order = KRAIT_ORDER_REVERSE,
            .complex_state = true, .a_constant = true, .b_constant = true, .c_constant = true,
            .low_rank = 1)},
    {"s4, far rows", 18, 2, STATE | RESET | SKIP | FAR, LOW(20, 4, 1, 2, true)},
    {"low rank with a gate", 20, 2, ALL & ~BIAS, LOW(3, 4, 2, 1, true)},
    {"lru", 63, 2, STATE | RESET, LRU(9, KRAIT_FORM_LOG)},
    {"lru ragged, decay given", 131, 3, STATE | RESET, LRU(130, KRAIT_FORM_GIVEN)},
    {"lru step of 5", 5, 5, STATE, LRU(70, KRAIT_FORM_LOG)},
    {"lru, no state", 100, 1, 0, LRU(64, KRAIT_FORM_LOG)},
    {"lru more sequences than rows", 2, 4, STATE | RESET, LRU(20, KRAIT_FORM_LOG)},
    {"lru, far rows", 7, 2, STATE | RESET | FAR, LRU(20, KRAIT_FORM_LOG)},
    {"lru with skip and gate", 20, 2, ALL & ~BIAS, LRU(5, KRAIT_FORM_LOG)},
    {"complex, varying in time", 30, 2, ALL & ~BIAS,
     MEMBER(2, 3, 4, 2, 1, 1, .decay = KRAIT_DECAY_VECTOR, .form = KRAIT_FORM_LOG,
            .complex_state = true)},
    {"complex N=100", 18, 1, STATE | SKIP,
     MEMBER(2, 3, 100, 1, 1, 1, .decay = KRAIT_DECAY_VECTOR, .form = KRAIT_FORM_LOG,
            .complex_state = true)},
    {"reverse", 63, 3, ALL,
     MEMBER(1, 8, 4, 1, 1, 1, .decay = KRAIT_DECAY_MATRIX, .form = KRAIT_FORM_DT,
            .gain = KRAIT_GAIN_DT, .order = KRAIT_ORDER_REVERSE, .dt_softplus = true)},
    {"mamba1, reverse", 63, 3, ALL, REVERSE_MAMBA1(33, 16)},
    {"mamba1, reverse, cut", 517, 1, ALL, REVERSE_MAMBA1(20, 7)},
    {"mamba2, reverse, P=64 N=128", 70, 2, STATE | RESET,
     MEMBER(1, 64, 128, 1, 1, 1, .decay = KRAIT_DECAY_SCALAR, .form = KRAIT_FORM_DT,
            .gain = KRAIT_GAIN_DT, .a_constant = true, .order = KRAIT_ORDER_REVERSE,
            .dt_softplus = true)},
    {"s4d, reverse", 100, 3, SKIP | STATE | RESET, REVERSE_S4D(17, 6)},
    {"s4d, reverse, no state", 400, 2, SKIP, REVERSE_S4D(3, 32)},
    {"lru, reverse", 131, 3, STATE | RESET,
     MEMBER(1, 20, 1, 2, 2, 1, .decay = KRAIT_DECAY_MATRIX, .form = KRAIT_FORM_LOG,
            .complex_state = true, .complex_lanes = true, .a_constant = true,
            .order = KRAIT_ORDER_REVERSE)},
    {"read before the write", 40, 2, ALL & ~BIAS,
     MEMBER(2, 4, 4, 1, 1, 1, .decay = KRAIT_DECAY_VECTOR, .form = KRAIT_FORM_LOG,
            .read = KRAIT_READ_BEFORE)},
    {"read at the end", 40, 2, ALL & ~BIAS,
     MEMBER(2, 4, 4, 1, 1, 1, .decay = KRAIT_DECAY_NONE, .read = KRAIT_READ_FINAL)},
};

static kr_tensor rows(int64_t M, int64_t cols) {
    return kr_tensor_make(NULL, KR_F32, 2, (int64_t[]){M, cols});
}

static void fill(kr_case *k, int i, kr_tensor t, kr_fill kind, double a, double b) {
    k->in[i] = t;
    k->fill[i].kind = kind;
    k->fill[i].a = a;
    k->fill[i].b = b;
}

static void float_inputs(kr_case *k, const krait_scan_desc *d, int64_t M, unsigned with) {
    bool log = d->form != KRAIT_FORM_GIVEN, low = d->low_rank > 0;
    int64_t lanes = kr_scan_lanes(d);
    fill(k, KR_SCAN_X, rows(M, d->inputs * lanes), KR_FILL_NORMAL, 1, 0);
    if (kr_scan_uses_dt(d)) {
        fill(k, KR_SCAN_DT, rows(d->dt_constant ? 1 : M, kr_scan_dt_cols(d)),
             d->dt_softplus ? KR_FILL_NORMAL : KR_FILL_UNIFORM, d->dt_softplus ? 1.5 : 0.05, 1);
        if (with & BIAS) fill(k, KR_SCAN_BIAS, rows(1, kr_scan_dt_cols(d)), KR_FILL_NORMAL, 1, -1);
    }
    if (d->decay != KRAIT_DECAY_NONE)
        fill(k, KR_SCAN_A, rows(d->a_constant ? 1 : M, kr_scan_a_cols(d)), KR_FILL_UNIFORM,
             low   ? -0.15
             : log ? -2
                   : 0.3,
             low   ? 0.15
             : log ? 0
                   : 0.65);
    if (!d->complex_lanes) {
        fill(k, KR_SCAN_B, rows(d->b_constant ? 1 : M, kr_scan_b_cols(d)), KR_FILL_NORMAL, 1, 0);
        fill(k, KR_SCAN_C, rows(d->c_constant ? 1 : M, kr_scan_c_cols(d)), KR_FILL_NORMAL, 1, 0);
    }
    if (with & SKIP) fill(k, KR_SCAN_D, rows(1, kr_scan_d_cols(d)), KR_FILL_NORMAL, 1, 0);
    if (with & GATE) fill(k, KR_SCAN_Z, rows(M, d->reads * lanes), KR_FILL_NORMAL, 2, 0);
    if (d->gain == KRAIT_GAIN_GIVEN)
        fill(k, KR_SCAN_GAIN, rows(M, d->inputs * d->heads), KR_FILL_UNIFORM, 0.1, 1);
}

/* Everything absent at first, so that the indices that remain are the arrays of this case. */
static bool inputs(int index, kr_case *k, int n_in) {
    if (index >= (int)(sizeof table / sizeof *table)) return false;
    const krait_scan_desc *d = &table[index].d;
    int64_t M = table[index].M, S = table[index].S;
    k->name = table[index].name;
    k->n_in = n_in;
    k->tokens = M;
    k->attr = d;
    k->attr_size = sizeof *d;
    for (int i = 0; i < n_in; i++) k->fill[i].kind = KR_FILL_ABSENT;
    float_inputs(k, d, M, table[index].with);
    k->half.wide = (d->dt_constant ? 1u << KR_SCAN_DT : 0) | (d->a_constant ? 1u << KR_SCAN_A : 0) |
                   (d->b_constant ? 1u << KR_SCAN_B : 0) | (d->c_constant ? 1u << KR_SCAN_C : 0) |
                   (table[index].with & HALF_STATE ? 0 : 1u << KR_SCAN_STATE);
    fill(k, KR_SCAN_SEQS, kr_tensor_make(NULL, KR_I64, 2, (int64_t[]){S, 3}), KR_FILL_SEQS, 0, 0);
    if (table[index].with & RESET)
        fill(k, KR_SCAN_RESET, kr_tensor_make(NULL, KR_U8, 1, &M), KR_FILL_RESET, 0.1, 0);
    if (table[index].with & STATE)
        fill(k, KR_SCAN_STATE,
             kr_tensor_make(NULL, KR_F32, 3, (int64_t[]){S, kr_scan_lanes(d), kr_scan_n(d)}),
             KR_FILL_NORMAL, 1, 0);
    return true;
}

bool kr_scan_cases(int index, kr_case *k) {
    if (!inputs(index, k, KR_SCAN_INS)) return false;
    const krait_scan_desc *d = k->attr;
    if (table[index].with & FAR) kr_case_far(k);
    k->n_out = KR_SCAN_OUTS;
    k->tolerance = 1e-5;
    /* delta x goes into the states with 16 bits; with one decay a head so do what remains of it at
     * a chunk's end, and b */
    k->half.tolerance = d->decay == KRAIT_DECAY_MATRIX ? 5e-5 : 4e-3;
    k->out_absent[KR_SCAN_OUT_STATE] = !(table[index].with & STATE);
    k->out[KR_SCAN_OUT_STATE] = k->in[KR_SCAN_STATE];
    k->half.out = table[index].with & HALF_STATE ? 1u << KR_SCAN_OUT_STATE : 0;
    return true;
}

bool kr_scan_grad_cases(int index, kr_case *k) {
    static const int grad_of[] = {KR_SCAN_X, KR_SCAN_DT, KR_SCAN_A,    KR_SCAN_B,     KR_SCAN_C,
                                  KR_SCAN_D, KR_SCAN_Z,  KR_SCAN_BIAS, KR_SCAN_STATE, KR_SCAN_GAIN};
    if (!inputs(index, k, KR_SCAN_GRAD_INS)) return false;
    const krait_scan_desc *d = k->attr;
    k->n_out = KR_SCAN_BACK_OUTS;
    k->tolerance = 2e-5;
    /* what is summed into dt_bias is made of states in bf16; with one decay a head or a state
     * (Mamba-2, Mamba) dc is made of products of two such numbers */
    k->half.tolerance =
        d->decay == KRAIT_DECAY_SCALAR || d->decay == KRAIT_DECAY_MATRIX ? 1.6e-2 : 8e-3;
    fill(k, KR_SCAN_DY, rows(table[index].M, d->reads * kr_scan_lanes(d)), KR_FILL_NORMAL, 1, 0);
    if (table[index].with & STATE)
        fill(k, KR_SCAN_DSTATE, k->in[KR_SCAN_STATE], KR_FILL_NORMAL, 1, 0);
    for (int i = 0; i < KR_SCAN_GRAD_OUTS; i++)
        k->out_absent[i] = k->fill[grad_of[i]].kind == KR_FILL_ABSENT;
    k->out_absent[KR_SCAN_Y_AGAIN] = index % 3 == 2;
    if (table[index].with & FAR) kr_case_far(k);
    return true;
}

/* Those of scan_grad whose y is the states; any numbers will do as states. */
bool kr_scan_states_grad_cases(int index, kr_case *k) {
    int entries = (int)(sizeof table / sizeof *table);
    for (int i = 0; i < entries; i++) {
        if (!kr_scan_y_is_states(&table[i].d) || table[i].with & (SKIP | GATE) || index-- > 0)
            continue;
        if (!kr_scan_grad_cases(i, k)) return false;
        k->n_out = KR_SCAN_GRAD_OUTS;
        k->half.none = true;
        return true;
    }
    return false;
}
