/* micro_batches.c - fetching and binding the windows of one step. */
#include "train/micro_batches.h"

#include "base/err.h"
#include "base/mem.h"

size_t kr_micro_batches_bytes(int64_t count, int64_t lanes, int64_t window) {
    size_t rows = (size_t)(lanes * window), all = (size_t)count * rows;
    return (size_t)lanes * 3 * sizeof(int64_t) + all * (2 * sizeof(int32_t) + 1) +
           rows * sizeof(float);
}

int kr_micro_batches_create(kr_micro_batches *b, int64_t count, int64_t lanes, int64_t window,
                            krait_error *e) {
    *b = (kr_micro_batches){.count = count,
                            .lanes = lanes,
                            .window = window,
                            .rows = lanes * window};
    b->block = kr_aligned(kr_micro_batches_bytes(count, lanes, window));
    if (!b->block) return kr_fail_memory(e, "the batches");
    b->seqs = b->block;
    b->ids = (int32_t *)(b->seqs + 3 * lanes);
    b->targets = b->ids + count * b->rows;
    b->seed = (float *)(b->targets + count * b->rows);
    b->reset = (uint8_t *)(b->seed + b->rows);
    for (int64_t lane = 0; lane < lanes; lane++) {
        b->seqs[3 * lane] = lane * window;
        b->seqs[3 * lane + 1] = window;
        b->seqs[3 * lane + 2] = lane;
    }
    return 0;
}

void kr_micro_batches_free(kr_micro_batches *b) {
    kr_free(b->block);
    *b = (kr_micro_batches){0};
}

int kr_micro_batches_fetch(kr_micro_batches *b, kr_loader *l, krait_error *e) {
    b->valid = 0;
    for (int64_t i = 0; i < b->count; i++) {
        int64_t at = i * b->rows;
        kr_batch batch;
        int rc = kr_loader_next(l, b->ids + at, b->targets + at, b->reset + at, &batch, e);
        if (rc < 0) return rc;
        if (rc == 0) return kr_fail(e, KRAIT_ERR_ARGUMENT, "the data came to an end");
        b->valid += batch.tokens;
    }
    for (int64_t i = 0; i < b->rows; i++) b->seed[i] = b->valid ? 1.0f / (float)b->valid : 0;
    return 0;
}

int kr_micro_batches_bind(const kr_micro_batches *b, int64_t i, kr_lm *lm, krait_error *e) {
    int64_t at = i * b->rows;
    kr_tensor ids = kr_tensor_make(b->ids + at, KR_I32, 1, &b->rows);
    kr_tensor targets = kr_tensor_make(b->targets + at, KR_I32, 1, &b->rows);
    kr_tensor reset = kr_tensor_make(b->reset + at, KR_U8, 1, &b->rows);
    kr_tensor seed = kr_tensor_make(b->seed, KR_F32, 1, &b->rows);
    kr_tensor seqs = kr_tensor_make(b->seqs, KR_I64, 2, (const int64_t[]){b->lanes, 3});
    KR_TRY(kr_graph_bind(lm->g, lm->ids, &ids, e));
    KR_TRY(kr_graph_bind(lm->g, lm->targets, &targets, e));
    KR_TRY(kr_graph_bind(lm->g, lm->seed, &seed, e));
    KR_TRY(kr_graph_bind(lm->g, lm->seqs, &seqs, e));
    return lm->reset ? kr_graph_bind(lm->g, lm->reset, &reset, e) : 0;
}
