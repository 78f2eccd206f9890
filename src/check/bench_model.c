/* bench_model.c - a whole model: reading a prompt, decoding one and many sequences, a training
 * step.
 *
 * A shape by name has random weights; anything else is opened as a model. Ceilings: reading every
 * weight once for each pass, and two operations for each weight and token, whichever takes longer.
 */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "check/bench.h"
#include "models/lm.h"
#include "models/model.h"

enum { MANY = 32, STEPS = 8, VOCABULARY = 50280 };

typedef struct subject {
    krait_model *wide;  /* as opened, or random in f32 */
    krait_model *model; /* what is timed: wide, or its matrices in another type */
    krait_model_info info;
    krait_session *session;
    krait_span spans[MANY];
    krait_trainer *trainer;
    const int32_t **documents;
    int64_t *counts, n_spans, passes;
    int32_t *ids;
    float *logits;
} subject;

static int random_model(krait_model **out, const char *shape, krait_error *e) {
    int64_t width, layers;
    kr_config c;
    kr_weights w = {0};
    if (!kr_bench_shape(shape, &width, &layers)) return krait_model_open(out, shape, NULL, e);
    kr_config_mamba(&c, width, layers, VOCABULARY);
    int rc = kr_lm_init_weights(&c, 1, &w, e);
    if (rc == 0) rc = kr_model_from_weights(out, &c, &w, NULL, e);
    if (rc < 0) kr_weights_free(&w);
    return rc;
}

static int matrix_type(const char *name, kr_dtype *type, krait_error *e) {
    *type = KR_F32;
    if (!name) return 0;
    *type = KR_DTYPE_COUNT;
    for (int t = 0; t < KR_DTYPE_COUNT; t++)
        if (strcmp(name, kr_dtype_name((kr_dtype)t)) == 0) *type = (kr_dtype)t;
    if (*type == KR_F32 || *type == KR_BF16 || *type == KR_F16) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "bench: no type \"%s\"; use f32, bf16 or f16", name);
}

static int open_subject(subject *s, const kr_bench *b, krait_error *e) {
    kr_dtype type;
    kr_weights w = {0};
    KR_TRY(matrix_type(b->o.dtype, &type, e));
    KR_TRY(random_model(&s->wide, b->o.model, e));
    s->model = s->wide;
    krait_model_describe(s->wide, &s->info);
    if (strcmp(s->info.dtype, kr_dtype_name(type)) != 0) {
        s->model = NULL;
        int rc = kr_model_converted(s->wide, type, &w, e);
        if (rc == 0) rc = kr_model_from_weights(&s->model, &s->wide->config, &w, NULL, e);
        if (rc < 0) kr_weights_free(&w);
        KR_TRY(rc);
    }
    krait_model_describe(s->model, &s->info);
    return 0;
}

static void close_subject(subject *s) {
    krait_session_close(&s->session);
    krait_trainer_close(&s->trainer);
    if (s->model != s->wide) krait_model_close(&s->model);
    krait_model_close(&s->wide);
    kr_free(s->documents);
    kr_free(s->counts);
    kr_free(s->ids);
    kr_free(s->logits);
}

static int random_ids(subject *s, int64_t n, krait_error *e) {
    kr_rng r = kr_rng_make(2, 3);
    kr_free(s->ids);
    s->ids = kr_calloc((size_t)n, sizeof *s->ids);
    if (!s->ids) return kr_fail_memory(e, "the benchmark's tokens");
    for (int64_t i = 0; i < n; i++)
        s->ids[i] = (int32_t)kr_rng_below(&r, (uint64_t)s->info.vocabulary);
    return 0;
}

/* ---- sessions ---- */

static int run_passes(void *user, krait_error *e) {
    subject *s = user;
    for (int64_t i = 0; i < s->passes; i++)
        KR_TRY(krait_session_forward(s->session, s->spans, s->n_spans, s->logits, e));
    return 0;
}

/* Tokens a second that the machine allows when each pass reads all weights once and takes `tokens`
 * through them; `rows` of them through the head. */
static double ceiling(const kr_bench *b, const subject *s, double tokens, double rows) {
    double head = (double)s->info.vocabulary * (double)s->info.width;
    double body = (double)s->info.parameters - head;
    double reading = (double)s->info.weight_bytes / b->read_rate;
    double computing = 2 * (body * tokens + head * rows) / b->gemm_rate;
    return tokens / (reading > computing ? reading : computing);
}

/* `lanes` sequences of `tokens` each in one pass, `passes` times. */
static int bench_session(subject *s, const kr_bench *b, const char *name, int64_t lanes,
                         int64_t tokens, int64_t passes, krait_error *e) {
    krait_session_options o = KRAIT_SESSION_OPTIONS_INIT;
    o.lanes = lanes;
    o.max_tokens = lanes * tokens;
    o.threads = b->o.threads;
    KR_TRY(random_ids(s, lanes * tokens, e));
    KR_TRY(krait_session_create(&s->session, s->model, &o, e));
    kr_free(s->logits);
    s->logits = kr_calloc((size_t)(lanes * s->info.vocabulary), sizeof *s->logits);
    if (!s->logits) return kr_fail_memory(e, "the benchmark's logits");
    for (int64_t i = 0; i < lanes; i++)
        s->spans[i] = (krait_span){i, s->ids + i * tokens, tokens, KRAIT_WANT_LAST};
    s->n_spans = lanes;
    s->passes = passes;
    double all = (double)(lanes * tokens);
    kr_bench_report r = {.name = name,
                         .unit = "tok/s",
                         .amount = all * (double)passes,
                         .scale = 1,
                         .ceiling = ceiling(b, s, all, (double)lanes),
                         .note = s->info.dtype};
    int rc = kr_bench_measure(b, &r, run_passes, s, NULL, e);
    krait_session_close(&s->session);
    return rc;
}

static int bench_prefill(subject *s, const kr_bench *b, krait_error *e) {
    char name[60];
    int64_t tokens = b->o.tokens ? b->o.tokens : 512;
    snprintf(name, sizeof name, "prefill %lld tokens", (long long)tokens);
    return bench_session(s, b, name, 1, tokens, 1, e);
}

static int bench_decode(subject *s, const kr_bench *b, krait_error *e) {
    char name[60];
    int64_t batch = b->o.batch > MANY ? MANY : b->o.batch;
    if (b->o.batch > MANY)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "bench: a decode batch is at most %d", MANY);
    if (batch == 0) KR_TRY(bench_session(s, b, "decode b1", 1, 1, STEPS, e));
    if (batch == 0) batch = MANY;
    snprintf(name, sizeof name, "decode b%lld", (long long)batch);
    return bench_session(s, b, name, batch, 1, STEPS, e);
}

/* ---- training ---- */

static int train_step(void *user, krait_error *e) {
    subject *s = user;
    KR_TRY(krait_trainer_backward(s->trainer, s->documents, s->counts, s->n_spans, NULL, e));
    return krait_trainer_update(s->trainer, 1e-4, NULL, e);
}

static void report_share(const kr_bench *b, const subject *s, double step) {
    struct rusage usage;
    double share = 100 * b->scan_seconds * (double)s->info.layers / step;
    getrusage(RUSAGE_SELF, &usage);
    double megabytes = (double)usage.ru_maxrss / 1024;
    krait_bench_row scan = {.name = "train: share of the scan",
                            .unit = "%",
                            .median = share,
                            .minimum = share,
                            .maximum = share,
                            .note = "a layer's scan timed alone, times the layers"};
    krait_bench_row memory = {.name = "train: peak memory",
                              .unit = "MB",
                              .median = megabytes,
                              .minimum = megabytes,
                              .maximum = megabytes,
                              .note = "of this whole process"};
    if (b->o.on_row) b->o.on_row(b->o.user, &scan);
    if (b->o.on_row) b->o.on_row(b->o.user, &memory);
}

static int bench_train(subject *s, const kr_bench *b, krait_error *e) {
    int64_t B = b->o.batch ? b->o.batch : 4, T = b->o.tokens ? b->o.tokens : 512;
    krait_trainer_options o = KRAIT_TRAINER_OPTIONS_INIT;
    char name[60];
    double step;
    o.tokens = B * T;
    o.documents = B;
    o.threads = b->o.threads;
    KR_TRY(random_ids(s, B * T, e));
    KR_TRY(krait_trainer_create(&s->trainer, s->wide, &o, e));
    s->documents = kr_calloc((size_t)B, sizeof *s->documents);
    s->counts = kr_calloc((size_t)B, sizeof *s->counts);
    if (!s->documents || !s->counts) return kr_fail_memory(e, "the benchmark's documents");
    for (int64_t i = 0; i < B; i++) {
        s->documents[i] = s->ids + i * T;
        s->counts[i] = T;
    }
    s->n_spans = B;
    snprintf(name, sizeof name, "train step B%lld T%lld", (long long)B, (long long)T);
    kr_bench_report r = {.name = name,
                         .unit = "tok/s",
                         .amount = (double)(B * T),
                         .scale = 1,
                         .ceiling = b->gemm_rate / (6 * (double)s->info.parameters),
                         .note = "f32"};
    KR_TRY(kr_bench_measure(b, &r, train_step, s, &step, e));
    report_share(b, s, step);
    return 0;
}

static bool wants(const char *what, const char *part) { return !what || strcmp(what, part) == 0; }

int kr_bench_model(kr_bench *b, const char *what, krait_error *e) {
    subject s = {0};
    int rc = open_subject(&s, b, e);
    if (rc == 0 && wants(what, "prefill")) rc = bench_prefill(&s, b, e);
    if (rc == 0 && wants(what, "decode")) rc = bench_decode(&s, b, e);
    if (rc == 0 && wants(what, "train")) rc = bench_train(&s, b, e);
    close_subject(&s);
    return rc;
}
