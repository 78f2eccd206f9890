/* task_batches.c - the order of examples, making them on several threads, and laying them out. */
#include "train/task_batches.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"

int kr_task_batches_open(kr_task_batches *b, const kr_task_source *source, kr_task_part part,
                         const kr_config *c, int64_t lanes, int threads, krait_error *e) {
    int64_t n = source->examples[part];
    *b = (kr_task_batches){.source = source,
                           .part = part,
                           .pooling = c->pooling,
                           .threads = threads,
                           .lanes = lanes,
                           .epoch = -1};
    b->examples = kr_calloc((size_t)lanes, sizeof *b->examples);
    if (n > 0) b->order = kr_calloc((size_t)n, sizeof *b->order);
    if (b->examples && (b->order || n == 0)) return 0;
    kr_task_batches_close(b);
    return kr_fail_memory(e, "a task's batches");
}

void kr_task_batches_close(kr_task_batches *b) {
    for (int64_t i = 0; b->examples && i < b->lanes; i++) kr_example_free(&b->examples[i]);
    kr_free(b->examples);
    kr_free(b->order);
    *b = (kr_task_batches){0};
}

/* ---- order ---- */

/* Another one in each epoch of training; validation and test keep the task's own. */
static void shuffle(kr_task_batches *b, int64_t epoch) {
    int64_t n = b->source->examples[b->part];
    kr_rng r = kr_rng_make(b->source->seed, (uint64_t)epoch | (uint64_t)3 << 62);
    for (int64_t i = 0; i < n; i++) b->order[i] = i;
    for (int64_t i = n - 1; b->part == KR_TASK_TRAIN && i > 0; i--) {
        int64_t k = (int64_t)kr_rng_below(&r, (uint64_t)i + 1), v = b->order[i];
        b->order[i] = b->order[k];
        b->order[k] = v;
    }
    b->epoch = epoch;
}

static int64_t index_of(kr_task_batches *b, int64_t position) {
    int64_t n = b->source->examples[b->part];
    if (n == 0) return position;
    if (b->epoch != position / n) shuffle(b, position / n);
    return b->order[position % n];
}

uint64_t kr_task_batches_check(const kr_task_batches *b) {
    const kr_task_source *s = b->source;
    uint64_t hash = kr_hash_string(s->task->name) ^ s->seed * 0x9E3779B97F4A7C15u;
    for (const kr_setting *k = s->task->settings; k && k->name; k++) {
        uint64_t bits = kr_setting_bits(k, s->settings);
        if (bits != 0 || !k->later) hash = (hash ^ bits) * 0x100000001B3u;
    }
    return hash ^ (uint64_t)s->examples[b->part];
}

int kr_task_batches_seek(kr_task_batches *b, int64_t next, krait_error *e) {
    if (next < 0) return kr_fail(e, KRAIT_ERR_FORMAT, "a position in the task is negative");
    b->next = next;
    b->ahead = 0;
    return 0;
}

static int make_examples(kr_task_batches *b, int64_t n, krait_error *e) {
    int64_t *indices = kr_malloc((size_t)n * sizeof *indices);
    if (!indices) return kr_fail_memory(e, "a task's batch");
    for (int64_t i = 0; i < n; i++) indices[i] = index_of(b, b->next + i);
    int failed = 0;
#pragma omp parallel for num_threads(b->threads) schedule(dynamic) if (n > 1 && b->threads > 1)
    for (int64_t i = 0; i < n; i++) {
        krait_error own;
        int rc = kr_task_make(b->source, b->part, indices[i], &b->examples[i], &own);
        if (rc < 0) {
#pragma omp critical
            {
                if (e && !failed) *e = own;
                failed = rc;
            }
        }
    }
    kr_free(indices);
    return failed;
}

int kr_task_batches_make(kr_task_batches *b, int64_t n, krait_error *e) {
    int rc = b->ahead == n ? 0 : make_examples(b, n, e);
    b->ahead = 0;
    b->next += n;
    return rc;
}

void kr_task_batches_ahead(kr_task_batches *b) {
    b->ahead = make_examples(b, b->lanes, NULL) < 0 ? 0 : b->lanes;
}

/* ---- layout ---- */

kr_batch_shape kr_task_batches_shape(const kr_task_source *s, int pooling, int64_t count,
                                     int64_t lanes) {
    bool every = kr_task_tells(s) > 0 && pooling == KR_POOL_EVERY;
    return (kr_batch_shape){.count = count,
                            .lanes = lanes,
                            .rows = lanes * s->longest,
                            .picks = lanes * (every ? s->longest : s->answers),
                            .channels = s->channels,
                            .numbers = s->numbers,
                            .spans = kr_task_tells(s) > 0};
}

/* The rows of an example that have targets, from row `first` on; returns how many. */
static int64_t pick_rows(const kr_example *x, int64_t first, int64_t *picks, int32_t *targets) {
    int64_t n = 0;
    for (int64_t i = 0; i < x->count; i++) {
        if (x->targets[i] < 0) continue;
        picks[n] = first + i;
        targets[n++] = x->targets[i];
    }
    return n;
}

/* The spans that tell its label or numbers: all rows as one, the last, or each; and behind place p
 * what they are to tell. */
static int64_t pick_spans(const kr_task_batches *b, const kr_example *x, int64_t first, int64_t p,
                          kr_micro_batches *to) {
    const kr_task_source *s = b->source;
    int64_t K = s->numbers, *spans = to->picks + 3 * p;
    bool mean = b->pooling == KR_POOL_MEAN;
    int64_t n = b->pooling == KR_POOL_EVERY ? x->count : 1, at = first + (mean ? 0 : x->count - n);
    for (int64_t i = 0; i < n; i++) {
        spans[3 * i] = at + i;
        spans[3 * i + 1] = mean ? x->count : 1;
        spans[3 * i + 2] = 0;
        if (K)
            memcpy(to->wanted + (p + i) * K, x->numbers + (s->each_row ? i * K : 0),
                   (size_t)K * sizeof(float));
        else
            to->targets[p + i] = x->label;
    }
    return n;
}

static void lay_out(const kr_task_batches *b, kr_micro_batches *to, int64_t i) {
    const kr_batch_shape *s = &to->shape;
    int64_t m = 0, r = 0, C = s->channels;
    for (int64_t k = 0; k < b->lanes; k++) {
        const kr_example *x = &b->examples[k];
        int64_t at = i * s->rows + m, *seq = to->seqs + 3 * (i * s->lanes + k);
        if (C)
            memcpy(to->values + at * C, x->values, (size_t)(x->count * C) * sizeof(float));
        else
            memcpy(to->ids + at, x->ids, (size_t)x->count * sizeof(int32_t));
        seq[0] = m;
        seq[1] = x->count;
        seq[2] = k;
        int64_t p = i * s->picks + r;
        if (s->spans)
            r += pick_spans(b, x, m, p, to);
        else
            r += pick_rows(x, m, to->picks + p, to->targets + p);
        m += x->count;
    }
    to->m[i] = m;
    to->r[i] = r;
    to->s[i] = b->lanes;
    to->valid += r;
}

int kr_task_batches_fill(kr_task_batches *b, kr_micro_batches *to, krait_error *e) {
    to->valid = 0;
    for (int64_t i = 0; i < to->shape.count; i++) {
        KR_TRY(kr_task_batches_make(b, b->lanes, e));
        lay_out(b, to, i);
    }
    kr_micro_batches_seed(to);
    return 0;
}
