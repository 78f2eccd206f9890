/* bench_gpu_rows.c - the GPU's kernels that bench_gpu.c does not lay out by hand: one line of a
 * table for each op, a case of the op's own checker that is enlarged to the sizes of a model. */
#include <stdio.h>

#include "base/err.h"
#include "check/bench_gpu.h"

enum { VOCABULARY = 50280, MOST_SIZES = 8 };

/* What a size grows with. */
typedef enum measure {
    ONE, /* nothing: the size itself is given */
    B,   /* sequences */
    M,   /* rows: sequences times tokens */
    D,   /* the model's width */
    E,   /* its channels, 2 D, in whole pairs of heads */
    H,   /* heads of 64 channels */
    ME,  /* elements of an activation */
    DE,  /* of a weight */
    MEASURES
} measure;

/* A case is the first of the op's that has all the sizes `from` among its inputs' and outputs' (and
 * is called `name`, where that is given). Every `from` in it becomes `times` `of`; what is not
 * named stays, as do the attributes. Where an op has a form for bf16 activations, that is taken. */
typedef struct line {
    const char *op, *name;
    struct {
        int64_t from, times;
        measure of;
    } sizes[MOST_SIZES];
} line;

static const line lines[] = {
    /* norms */
    {"layernorm", NULL, {{63, 1, M}, {100, 1, D}}},
    {"layernorm_grad", NULL, {{63, 1, M}, {100, 1, D}}},
    {"gated_rmsnorm", NULL, {{600, 1, M}, {1040, 1, E}}},
    {"gated_rmsnorm_grad", NULL, {{600, 1, M}, {1040, 1, E}}},
    /* losses; logits of 256 tokens a sequence */
    {"cross_entropy", NULL, {{63, 256, B}, {17, VOCABULARY, ONE}}},
    {"cross_entropy_grad", NULL, {{63, 256, B}, {17, VOCABULARY, ONE}}},
    {"squared_error", NULL, {{63, 1, M}, {17, 1, D}}},
    {"squared_error_grad", NULL, {{63, 1, M}, {17, 1, D}}},
    {"linear_cross_entropy", NULL, {{20, 1, M}, {300, VOCABULARY, ONE}, {64, 1, D}}},
    /* rows */
    {"gather_rows", NULL, {{63, 1, M}, {17, 1, D}, {100, 256, B}}},
    {"gather_rows_grad", NULL, {{63, 1, M}, {17, 1, D}, {100, 256, B}}},
    {"segment_mean", NULL, {{63, 1, M}, {17, 1, D}, {9, 1, B}}},
    {"segment_mean_grad", NULL, {{17, 1, M}, {5, 1, D}, {3, 1, B}}},
    {"segment_share", NULL, {{17, 1, M}, {5, 1, D}, {3, 1, B}}},
    {"reverse_rows", NULL, {{63, 1, M}, {17, 1, E}, {9, 1, B}}},
    {"previous", NULL, {{100, 1, M}, {33, 2, E}, {7, 1, B}}},
    {"previous_grad", NULL, {{100, 1, M}, {33, 2, E}, {66, 4, E}, {7, 1, B}}},
    /* every element */
    {"neg_exp", NULL, {{63, 1, E}, {16, 16, ONE}}},
    {"neg_exp_grad", NULL, {{63, 1, E}, {16, 16, ONE}}},
    {"add", NULL, {{5, 1, M}, {17, 1, D}}},
    {"dropout", NULL, {{63, 1, M}, {100, 1, D}}},
    {"map", "silu", {{63, 1, ME}}},
    {"map_grad", "silu", {{63, 1, ME}}},
    {"gate", "silu", {{63, 1, ME}}},
    {"gate_grad", "silu", {{63, 1, ME}}},
    {"skip", NULL, {{63, 1, M}, {100, 1, E}}},
    {"skip_grad", NULL, {{63, 1, M}, {100, 1, E}}},
    {"row_scale", NULL, {{34, 2, E}, {17, 1, E}, {63, 1, D}}},
    {"row_scale_grad", NULL, {{34, 2, E}, {17, 1, E}, {63, 1, D}}},
    {"concat", NULL, {{17, 1, DE}}},
    {"concat_grad", NULL, {{17, 1, DE}, {34, 2, DE}}},
    {"fill", NULL, {{63, 1, M}, {100, 1, E}}},
    /* heads, angles, ranks: Mamba-3's, attention's */
    {"head_divide", NULL, {{63, 1, M}, {99, 1, E}, {3, 1, H}}},
    {"head_divide_grad", NULL, {{63, 1, M}, {99, 1, E}, {3, 1, H}}},
    {"trapezoid", NULL, {{63, 1, M}, {24, 1, H}}},
    {"trapezoid_grad", NULL, {{63, 1, M}, {24, 1, H}, {48, 2, H}}},
    {"phase", NULL, {{100, 1, M}, {8, 32, ONE}, {5, 1, H}, {7, 1, B}}},
    {"phase_grad", NULL, {{100, 1, M}, {8, 32, ONE}, {5, 1, H}, {40, 32, H}, {7, 1, B}}},
    {"turned_keys", NULL, {{63, 1, M}, {34, 128, ONE}, {68, 256, ONE}, {4, 1, H}, {36, 32, H}}},
    {"turned_keys_grad",
     NULL,
     {{63, 1, M}, {34, 128, ONE}, {68, 256, ONE}, {4, 1, H}, {36, 32, H}, {136, 128, H}}},
    {"spread", NULL, {{63, 1, M}, {102, 2, E}, {3, 1, H}, {17, 64, ONE}}},
    {"spread_grad", NULL, {{63, 1, M}, {102, 2, E}, {204, 4, E}, {3, 1, H}, {17, 64, ONE}}},
    {"gather", NULL, {{63, 1, M}, {102, 2, E}, {3, 1, H}, {17, 64, ONE}}},
    {"gather_grad", NULL, {{63, 1, M}, {102, 2, E}, {51, 1, E}, {3, 1, H}, {17, 64, ONE}}},
    {"rope", NULL, {{40, 1, M}, {128, 1, E}, {3, 1, B}}},
    {"rope_grad", NULL, {{40, 1, M}, {128, 1, E}, {3, 1, B}}},
    {"retention", NULL, {{0}}},
    /* the cells; 256 steps of 256 */
    {"rnn", NULL, {{100, 256, B}, {68, 1024, ONE}, {17, 256, ONE}, {9, 1, B}}},
    {"rnn_grad", NULL, {{100, 256, B}, {68, 1024, ONE}, {17, 256, ONE}, {9, 1, B}}},
    /* continuous systems to steps */
    {"discretise", NULL, {{7, 1, E}, {17, 32, ONE}}},
    {"discretise_grad", NULL, {{7, 1, E}, {17, 32, ONE}, {34, 64, ONE}}},
    {"discretise_dense", NULL, {{7, 1, D}, {17, 64, ONE}}},
    {"discretise_dense_grad", NULL, {{7, 1, D}, {17, 64, ONE}, {595, 2 * 64 * 64 + 64, ONE}}},
    {"discretise_low_rank", "rank 1", {{7, 1, E}, {17, 32, ONE}}},
    {"discretise_low_rank_grad",
     "rank 1",
     {{7, 1, E}, {17, 32, ONE}, {102, 6 * 32, ONE}, {34, 64, ONE}}},
    /* decoding: 128 rows; whole layers of 2.8B's and 2.7B's sizes, which no cache holds */
    {"mamba_step_scan",
     NULL,
     {{37, 128, ONE}, {72, 80, ONE}, {40, 48, ONE}, {96, 1, E}, {38, 129, ONE}}},
    {"mamba_step_out", NULL, {{40, 128, ONE}, {520, 1, E}, {132, 1, D}}},
    {"mamba_step_norm", NULL, {{37, 128, ONE}}},
    {"mamba_layer",
     NULL,
     {{768, 2560, ONE}, {1536, 5120, ONE}, {3072, 10240, ONE}, {80, 192, ONE}, {48, 160, ONE}}},
    {"mamba2_layer",
     NULL,
     {{768, 2560, ONE}, {1536, 5120, ONE}, {3352, 10576, ONE}, {1792, 5376, ONE}, {24, 80, ONE}}},
    {"sample", "greedy", {{5, 128, ONE}, {7, 128, ONE}, {1000, VOCABULARY, ONE}}},
    {"sample", "top p", {{9, 128, ONE}, {11, 128, ONE}, {5003, VOCABULARY, ONE}}},
};
enum { LINES = sizeof lines / sizeof *lines };

/* ---- sizes ---- */

static bool shape_has(const kr_tensor *t, int64_t size) {
    for (int d = 0; d < t->rank; d++)
        if (t->shape[d] == size) return true;
    return false;
}

static bool case_has(const kr_case *k, int64_t size) {
    for (int i = 0; i < k->n_in; i++)
        if (shape_has(&k->in[i], size)) return true;
    for (int i = 0; i < k->n_out; i++)
        if (shape_has(&k->out[i], size)) return true;
    return false;
}

static bool is_of(const kr_case *k, const line *l) {
    if (k->large || (l->name && strcmp(k->name, l->name) != 0)) return false;
    for (int s = 0; s < MOST_SIZES && l->sizes[s].from; s++)
        if (!case_has(k, l->sizes[s].from)) return false;
    return true;
}

static int find_case(const kr_op *op, const line *l, kr_case *k, krait_error *e) {
    for (int i = 0; memset(k, 0, sizeof *k), op && op->cases(i, k); i++)
        if (is_of(k, l)) return 0;
    return kr_fail(e, KRAIT_ERR_MISMATCH, "bench: %s: no case%s%s of its checker has the sizes",
                   l->op, l->name ? " " : "", l->name ? l->name : "");
}

static int64_t enlarge(const line *l, const int64_t *measures, int64_t size) {
    for (int s = 0; s < MOST_SIZES && l->sizes[s].from; s++)
        if (l->sizes[s].from == size) return l->sizes[s].times * measures[l->sizes[s].of];
    return size;
}

static void enlarge_tensor(const line *l, const int64_t *measures, bool sequences, kr_tensor *t) {
    int64_t shape[KR_MAX_RANK];
    for (int d = 0; d < t->rank; d++)
        shape[d] = sequences && d > 0 ? t->shape[d] : enlarge(l, measures, t->shape[d]);
    if (t->rank > 0) *t = kr_tensor_make(NULL, t->dtype, t->rank, shape);
}

/* Documents all begin where a sequence does. */
static void enlarge_case(const line *l, const int64_t *measures, kr_case *k) {
    k->tokens = enlarge(l, measures, k->tokens);
    for (int i = 0; i < k->n_in; i++) {
        kr_fill kind = k->fill[i].kind;
        enlarge_tensor(l, measures, kind == KR_FILL_SEQS, &k->in[i]);
        if (kind == KR_FILL_RESET) k->fill[i].kind = KR_FILL_ABSENT;
        if (kind == KR_FILL_INDEX)
            k->fill[i].a = (double)enlarge(l, measures, (int64_t)k->fill[i].a);
    }
    for (int i = 0; i < k->n_out; i++) enlarge_tensor(l, measures, false, &k->out[i]);
}

static void halve(const kr_op *op, kr_case *k) {
    if (k->half.none) return;
    for (int i = 0; i < k->n_in; i++)
        if ((op->half_in & ~k->half.wide) >> i & 1 && k->in[i].dtype == KR_F32)
            k->in[i].dtype = KR_BF16;
    for (int i = 0; i < k->n_out; i++)
        if (k->half.out >> i & 1) k->out[i].dtype = KR_BF16;
    if (k->half.attr) k->attr = k->half.attr;
}

/* "silu 16384x1536": the first array that is there. */
static void describe(const kr_case *k, const line *l, char *text, size_t size) {
    int i = 0, n = l->name ? snprintf(text, size, "%s ", l->name) : 0;
    while (i + 1 < k->n_in && k->fill[i].kind == KR_FILL_ABSENT) i++;
    const kr_tensor *t = k->fill[i].kind == KR_FILL_ABSENT ? &k->out[0] : &k->in[i];
    for (int d = 0; d < t->rank && (size_t)n < size; d++)
        n += snprintf(text + n, size - (size_t)n, "%s%lld", d ? "x" : "", (long long)t->shape[d]);
}

int kr_bench_gpu_rows(const kr_bench *b, krait_error *e) {
    int64_t seqs = b->o.batch ? b->o.batch : 8, rows = seqs * (b->o.tokens ? b->o.tokens : 2048);
    int64_t channels = (2 * b->width + 127) / 128 * 128; /* pairs of heads */
    const int64_t measures[MEASURES] = {[ONE] = 1,
                                        [B] = seqs,
                                        [M] = rows,
                                        [D] = b->width,
                                        [E] = channels,
                                        [H] = channels / 64,
                                        [ME] = rows * channels,
                                        [DE] = b->width * channels};
    for (int i = 0; i < LINES; i++) {
        const kr_op *op = kr_op_find(lines[i].op);
        char shape[60];
        kr_case k;
        KR_TRY(find_case(op, &lines[i], &k, e));
        enlarge_case(&lines[i], measures, &k);
        halve(op, &k);
        describe(&k, &lines[i], shape, sizeof shape);
        KR_TRY(kr_bench_gpu_op(b, op, &k, shape, false, e));
    }
    return 0;
}
