/* loader.c - windows of B lanes over the documents of a token store; loader.h says in which order.
 */
#include "data/text/loader.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"

typedef struct lane {
    int64_t rank; /* of its document in the epoch's order */
    int64_t at;   /* next token, in the store */
    kr_store_part document;
    int64_t length; /* of the lane's stretch */
} lane;

struct kr_loader {
    kr_loader_options o;
    int64_t first,
        documents; /* documents of the part: store documents [first, first + documents) */
    bool cut_end;  /* the part ends inside a document */
    int64_t tokens, batches;
    kr_loader_position now;
    uint64_t turn;  /* offset of the ring in this epoch */
    uint64_t order; /* key of the order of documents in this epoch */
    int half_bits;  /* of the permutation's domain */
    lane *lanes;    /* [B] */
    struct mark {
        int64_t ring;
        int64_t lane;
    } * marks; /* [B]: where lanes go on, sorted along the ring */
};

/* The document at or before a token: largest i in [0, n) with starts[i] <= at. */
static int64_t document_at(const int64_t *starts, int64_t n, int64_t at) {
    int64_t low = 0, high = n;
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (starts[middle] <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

void kr_store_split(const kr_store *s, double fraction, kr_store_part *train,
                    kr_store_part *held_out) {
    int64_t n = kr_store_tokens(s), documents = kr_store_documents(s);
    const int64_t *starts = kr_store_starts(s);
    int64_t wanted = (int64_t)((double)n * fraction), cut = n - wanted;
    if (wanted > 0 && wanted < n) {
        int64_t i = document_at(starts, documents, cut), near = starts[i];
        if (starts[i + 1] - cut < cut - near) near = starts[i + 1];
        int64_t moved = near > cut ? near - cut : cut - near;
        if (near > 0 && near < n && moved < wanted / 2) cut = near;
    }
    *train = (kr_store_part){0, cut};
    *held_out = (kr_store_part){cut, n};
}

/* ---- the order of an epoch -------------------- */

static uint64_t mix(uint64_t v) {
    v = (v ^ v >> 30) * 0xBF58476D1CE4E5B9u;
    v = (v ^ v >> 27) * 0x94D049BB133111EBu;
    return v ^ v >> 31;
}

/* A permutation of [0, documents) without a table: a Feistel network over the next even number of
 * bits, walked until it lands inside (Black & Rogaway, "Ciphers with arbitrary finite domains",
 * 2002). */
static int64_t permuted(const kr_loader *l, int64_t rank) {
    if (!l->o.shuffle || l->documents < 2) return rank;
    uint64_t mask = ((uint64_t)1 << l->half_bits) - 1, v = (uint64_t)rank;
    do {
        uint64_t left = v >> l->half_bits, right = v & mask;
        for (uint64_t round = 1; round <= 4; round++) {
            uint64_t next = left ^ (mix(l->order + round * 0x9E3779B97F4A7C15u + right) & mask);
            left = right;
            right = next;
        }
        v = left << l->half_bits | right;
    } while (v >= (uint64_t)l->documents);
    return (int64_t)v;
}

/* The tokens of the document with this rank, clipped to the part. */
static kr_store_part document(const kr_loader *l, int64_t rank) {
    int64_t i = l->first + permuted(l, rank);
    const int64_t *starts = kr_store_starts(l->o.store);
    kr_store_part d = {starts[i], starts[i + 1]};
    if (d.begin < l->o.part.begin) d.begin = l->o.part.begin;
    if (d.end > l->o.part.end) d.end = l->o.part.end;
    return d;
}

static int64_t stretch_begin(const kr_loader *l, int64_t b) {
    int64_t base = l->tokens / l->o.lanes, more = l->tokens % l->o.lanes;
    return b * base + (b < more ? b : more);
}

static int along_ring(const void *a, const void *b) {
    const struct mark *x = a, *y = b;
    if (x->ring != y->ring) return x->ring < y->ring ? -1 : 1;
    return (x->lane > y->lane) - (x->lane < y->lane);
}

/* Puts every lane where window `now.window` of epoch `now.epoch` begins: one walk along the ring.
 */
static void place_lanes(kr_loader *l) {
    int64_t B = l->o.lanes;
    kr_rng r = kr_rng_make(l->o.seed, (uint64_t)l->now.epoch + 0x6B726C6F61646572u);
    l->order = (uint64_t)kr_rng_u32(&r) << 32 | kr_rng_u32(&r);
    l->turn = l->o.shuffle ? kr_rng_below(&r, (uint64_t)l->tokens) : 0;
    for (int64_t b = 0; b < B; b++) {
        int64_t begin = stretch_begin(l, b), length = stretch_begin(l, b + 1) - begin;
        int64_t skip = l->now.window * l->o.window;
        l->lanes[b].length = length;
        uint64_t ring = l->turn + (uint64_t)(begin + (skip < length ? skip : length));
        l->marks[b] = (struct mark){(int64_t)(ring % (uint64_t)l->tokens), b};
    }
    qsort(l->marks, (size_t)B, sizeof *l->marks, along_ring);
    int64_t rank = 0, before = 0;
    kr_store_part d = document(l, 0);
    for (int64_t i = 0; i < B; i++) {
        while (l->marks[i].ring >= before + d.end - d.begin) {
            before += d.end - d.begin;
            d = document(l, ++rank);
        }
        lane *a = &l->lanes[l->marks[i].lane];
        a->rank = rank;
        a->at = d.begin + l->marks[i].ring - before;
        a->document = d;
    }
}

/* ---- opening -------------------- */

static void measure(kr_loader *l) {
    const kr_store_part *p = &l->o.part;
    const int64_t *starts = kr_store_starts(l->o.store);
    int64_t all = kr_store_documents(l->o.store);
    l->tokens = p->end - p->begin;
    l->first = document_at(starts, all, p->begin);
    int64_t last = document_at(starts, all, p->end - 1);
    l->documents = last - l->first + 1;
    l->cut_end = starts[last + 1] != p->end;
    l->batches = (stretch_begin(l, 1) + l->o.window - 1) / l->o.window;
    while (l->half_bits < 31 && ((int64_t)1 << 2 * l->half_bits) < l->documents) l->half_bits++;
    uint64_t h = kr_store_hash(l->o.store);
    const uint64_t facts[] = {(uint64_t)p->begin, (uint64_t)p->end,      (uint64_t)l->o.lanes,
                              l->o.seed,          (uint64_t)l->o.window, l->o.shuffle};
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++) h = mix(h * 31 + facts[i]);
    l->now.check = h;
}

static int check_options(const kr_loader_options *o, krait_error *e) {
    if (!o->store || o->lanes < 1 || o->window < 1 || o->epochs < 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "a loader needs a store, lanes and a window");
    if (o->part.begin < 0 || o->part.end > kr_store_tokens(o->store))
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "the part of a loader is outside the store");
    if (o->part.end - o->part.begin < 2)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "this part of the data holds %lld tokens: at least 2 are needed: give more "
                       "text or another held-out fraction",
                       (long long)(o->part.end - o->part.begin));
    return 0;
}

int kr_loader_open(kr_loader **out, const kr_loader_options *o, krait_error *e) {
    *out = NULL;
    KR_TRY(check_options(o, e));
    kr_loader *l = kr_calloc(1, sizeof *l);
    if (!l) return kr_fail_memory(e, "the data loader");
    l->o = *o;
    measure(l);
    l->lanes = kr_calloc((size_t)o->lanes, sizeof *l->lanes);
    l->marks = kr_calloc((size_t)o->lanes, sizeof *l->marks);
    if (!l->lanes || !l->marks) {
        kr_loader_close(&l);
        return kr_fail_memory(e, "the data loader");
    }
    place_lanes(l);
    *out = l;
    return 0;
}

void kr_loader_close(kr_loader **loader) {
    kr_loader *l = *loader;
    if (!l) return;
    kr_free(l->lanes);
    kr_free(l->marks);
    kr_free(l);
    *loader = NULL;
}

void kr_loader_position_get(const kr_loader *l, kr_loader_position *p) { *p = l->now; }

int kr_loader_seek(kr_loader *l, const kr_loader_position *p, krait_error *e) {
    if (p->check != l->now.check)
        return kr_fail(e, KRAIT_ERR_MISMATCH,
                       "the data position belongs to other data or to another batch, window or "
                       "seed: continue with those the run began with");
    if (p->epoch < 0 || p->window < 0 || p->window >= l->batches)
        return kr_fail(e, KRAIT_ERR_FORMAT,
                       "the data position (epoch %lld, window %lld) is damaged",
                       (long long)p->epoch, (long long)p->window);
    l->now = *p;
    place_lanes(l);
    return 0;
}

int kr_loader_rewind(kr_loader *l, krait_error *e) {
    kr_loader_position p = {l->now.check, 0, 0};
    return kr_loader_seek(l, &p, e);
}

void kr_loader_describe(const kr_loader *l, kr_loader_info *info) {
    *info = (kr_loader_info){l->tokens, l->documents, l->batches};
}

/* ---- windows -------------------- */

/* What is to be predicted from the last token of a document: the end token that begins another one.
 */
static int32_t after_document(const kr_loader *l, const lane *a) {
    return l->cut_end && a->document.end == l->o.part.end ? -1 : kr_store_end(l->o.store);
}

static void next_document(kr_loader *l, lane *a) {
    a->rank = a->rank + 1 == l->documents ? 0 : a->rank + 1;
    a->document = document(l, a->rank);
    a->at = a->document.begin;
}

/* Fills n <= T positions of one lane, a run of tokens of one document at a time. */
static int fill_lane(kr_loader *l, lane *a, int64_t n, int32_t *ids, int32_t *targets,
                     uint8_t *reset, krait_error *e) {
    for (int64_t t = 0, run; t < n; t += run) {
        if (a->at == a->document.end) next_document(l, a);
        int64_t left = a->document.end - a->at;
        run = left < n - t ? left : n - t;
        KR_TRY(kr_store_read(l->o.store, a->at, run, ids + t, e));
        memcpy(targets + t, ids + t + 1, (size_t)(run - 1) * sizeof *targets);
        targets[t + run - 1] = after_document(l, a);
        if (run < left) KR_TRY(kr_store_read(l->o.store, a->at + run, 1, &targets[t + run - 1], e));
        reset[t] = a->at == a->document.begin || (t == 0 && l->now.window == 0);
        a->at += run;
    }
    return 0;
}

static void count_targets(const kr_loader *l, const int32_t *targets, int64_t n, kr_batch *batch) {
    const krait_tokenizer *t = kr_store_tokenizer(l->o.store);
    for (int64_t i = 0; i < n; i++) {
        if (targets[i] < 0) continue;
        batch->tokens++;
        if (t) batch->bytes += kr_tokenizer_id_bytes(t, targets[i]);
    }
}

static void move_on(kr_loader *l) {
    if (++l->now.window < l->batches) return;
    l->now.window = 0;
    l->now.epoch++;
    place_lanes(l);
}

int kr_loader_next(kr_loader *l, int32_t *ids, int32_t *targets, uint8_t *reset, kr_batch *batch,
                   krait_error *e) {
    if (l->o.epochs && l->now.epoch >= l->o.epochs) return 0;
    int64_t B = l->o.lanes, T = l->o.window, skip = l->now.window * T;
    memset(ids, 0, (size_t)(B * T) * sizeof *ids);
    memset(targets, 0xFF, (size_t)(B * T) * sizeof *targets); /* -1 */
    memset(reset, 0, (size_t)(B * T));
    *batch = (kr_batch){.epoch = l->now.epoch, .window = l->now.window};
    for (int64_t b = 0; b < B; b++) {
        lane *a = &l->lanes[b];
        int64_t left = a->length - skip, n = left < 0 ? 0 : left < T ? left : T;
        KR_TRY(fill_lane(l, a, n, ids + b * T, targets + b * T, reset + b * T, e));
        count_targets(l, targets + b * T, n, batch);
    }
    move_on(l);
    return 1;
}
