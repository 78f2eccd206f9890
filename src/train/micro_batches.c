/* micro_batches.c - the memory of one step's micro-batches, fetching windows of text, binding. */
#include "train/micro_batches.h"

#include "base/err.h"
#include "base/mem.h"

static int64_t picks_of(const kr_batch_shape *s) { return s->picks * (s->spans ? 3 : 1); }
static int64_t targets_of(const kr_batch_shape *s) { return s->picks ? s->picks : s->rows; }
static int64_t target_width(const kr_batch_shape *s) { return s->numbers ? s->numbers : 1; }

/* Parts of the block in order: those of 8 bytes, of 4, of 1. */
size_t kr_micro_batches_bytes(const kr_batch_shape *s) {
    int64_t wide = s->count * (5 + 3 * s->lanes + picks_of(s));
    int64_t inputs = s->rows * (s->channels ? s->channels : 1);
    int64_t narrow = s->count * (inputs + targets_of(s) * target_width(s)) + targets_of(s);
    return (size_t)wide * sizeof(int64_t) + (size_t)narrow * 4 + (size_t)(s->count * s->rows);
}

int kr_micro_batches_create(kr_micro_batches *b, const kr_batch_shape *s, krait_error *e) {
    int64_t A = s->count, B = s->lanes, M = s->rows, T = targets_of(s);
    *b = (kr_micro_batches){.shape = *s};
    b->block = kr_aligned(kr_micro_batches_bytes(s));
    if (!b->block) return kr_fail_memory(e, "the batches");
    b->m = b->block;
    b->r = b->m + A;
    b->s = b->r + A;
    b->seqs = b->s + A;
    b->draws = b->seqs + 3 * A * B;
    b->picks = b->draws + 2 * A;
    b->ids = (int32_t *)(b->picks + A * picks_of(s));
    b->values = (float *)b->ids;
    b->targets = b->ids + A * M * (s->channels ? s->channels : 1);
    b->wanted = (float *)b->targets;
    b->seed = (float *)(b->targets + A * T * target_width(s));
    b->reset = (uint8_t *)(b->seed + T);
    for (int64_t i = 0; i < A; i++) {
        b->m[i] = M;
        b->r[i] = s->picks;
        b->s[i] = B;
    }
    for (int64_t i = 0; i < A * B; i++) {
        b->seqs[3 * i] = i % B * (M / B);
        b->seqs[3 * i + 1] = M / B;
        b->seqs[3 * i + 2] = i % B;
    }
    return 0;
}

void kr_micro_batches_free(kr_micro_batches *b) {
    kr_free(b->block);
    *b = (kr_micro_batches){0};
}

void kr_micro_batches_seed(kr_micro_batches *b) {
    for (int64_t i = 0; i < targets_of(&b->shape); i++)
        b->seed[i] = b->valid ? 1.0f / (float)b->valid : 0;
}

void kr_micro_batches_draw(kr_micro_batches *b, int64_t seed, int64_t step) {
    for (int64_t i = 0; i < b->shape.count; i++) {
        b->draws[2 * i] = seed;
        b->draws[2 * i + 1] = step * b->shape.count + i;
    }
}

int kr_micro_batches_fetch(kr_micro_batches *b, kr_loader *l, krait_error *e) {
    b->valid = 0;
    for (int64_t i = 0; i < b->shape.count; i++) {
        int64_t at = i * b->shape.rows;
        kr_batch batch;
        int rc = kr_loader_next(l, b->ids + at, b->targets + at, b->reset + at, &batch, e);
        if (rc < 0) return rc;
        if (rc == 0) return kr_fail(e, KRAIT_ERR_ARGUMENT, "the data came to an end");
        b->valid += batch.tokens;
    }
    kr_micro_batches_seed(b);
    return 0;
}

int64_t kr_micro_batches_picks(const kr_micro_batches *b, int64_t i) {
    return b->shape.picks ? b->r[i] : 0;
}

int64_t kr_micro_batches_losses(const kr_micro_batches *b, int64_t i) {
    return b->shape.picks ? b->r[i] : b->m[i];
}

static int bind_input(const kr_micro_batches *b, int64_t i, kr_lm *lm, krait_error *e) {
    int64_t at = i * b->shape.rows, C = b->shape.channels;
    kr_tensor ids = kr_tensor_make(b->ids + at, KR_I32, 1, &b->m[i]);
    kr_tensor values = kr_tensor_make(b->values + at * C, KR_F32, 2, (const int64_t[]){b->m[i], C});
    KR_TRY(kr_graph_bind(lm->g, lm->values ? lm->values : lm->ids, lm->values ? &values : &ids, e));
    kr_tensor reset = kr_tensor_make(b->reset + at, KR_U8, 1, &b->m[i]);
    return lm->reset ? kr_graph_bind(lm->g, lm->reset, &reset, e) : 0;
}

static int bind_picks(const kr_micro_batches *b, int64_t i, kr_lm *lm, krait_error *e) {
    int64_t *picks = b->picks + i * picks_of(&b->shape);
    kr_tensor spans = kr_tensor_make(picks, KR_I64, 2, (const int64_t[]){b->r[i], 3});
    kr_tensor rows = kr_tensor_make(picks, KR_I64, 1, &b->r[i]);
    if (lm->spans) return kr_graph_bind(lm->g, lm->spans, &spans, e);
    return lm->rows ? kr_graph_bind(lm->g, lm->rows, &rows, e) : 0;
}

int kr_micro_batches_bind(const kr_micro_batches *b, int64_t i, kr_lm *lm, krait_error *e) {
    int64_t n = kr_micro_batches_losses(b, i), *seqs = b->seqs + 3 * i * b->shape.lanes;
    kr_tensor targets = kr_tensor_make(b->targets + i * targets_of(&b->shape), KR_I32, 1, &n);
    kr_tensor seed = kr_tensor_make(b->seed, KR_F32, 1, &n);
    kr_tensor cut = kr_tensor_make(seqs, KR_I64, 2, (const int64_t[]){b->s[i], 3});
    KR_TRY(bind_input(b, i, lm, e));
    KR_TRY(bind_picks(b, i, lm, e));
    int64_t K = b->shape.numbers;
    kr_tensor wanted = kr_tensor_make(b->wanted + i * targets_of(&b->shape) * K, KR_F32, 2,
                                      (const int64_t[]){n, K});
    if (lm->wanted) KR_TRY(kr_graph_bind(lm->g, lm->wanted, &wanted, e));
    if (lm->targets) KR_TRY(kr_graph_bind(lm->g, lm->targets, &targets, e));
    if (lm->seed) KR_TRY(kr_graph_bind(lm->g, lm->seed, &seed, e));
    kr_tensor draw = kr_tensor_make(b->draws + 2 * i, KR_I64, 1, (const int64_t[]){2});
    if (lm->draw) KR_TRY(kr_graph_bind(lm->g, lm->draw, &draw, e));
    return kr_graph_bind(lm->g, lm->seqs, &cut, e);
}
