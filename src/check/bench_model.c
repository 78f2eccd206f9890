/* bench_model.c - a whole model: reading a prompt, decoding one and many sequences, a training
 * step.
 *
 * A shape by name has random weights; anything else is opened as a model. Ceilings: reading every
 * weight once for each pass and moving the states, and two operations for each weight and token,
 * whichever takes longer. */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "check/bench.h"
#include "models/lm.h"
#include "models/model.h"
#include "serve/decoder.h"

enum { MANY = 32, MANY_ON_GPU = 128, STEPS = 8, VOCABULARY = 50280, NEW_TOKENS = 128 };

typedef struct subject {
    krait_model *model;
    krait_model_info info;
    krait_session *session;
    kr_decoder *decoder;
    krait_span *spans;
    krait_trainer *trainer;
    const int32_t **documents;
    int64_t *counts, n_spans, passes;
    int32_t *ids;
    float *logits;
} subject;

static int matrix_type(const char *name, kr_dtype *type, krait_error *e) {
    *type = KR_F32;
    if (!name) return 0;
    *type = KR_DTYPE_COUNT;
    for (int t = 0; t < KR_DTYPE_COUNT; t++)
        if (strcmp(name, kr_dtype_name((kr_dtype)t)) == 0) *type = (kr_dtype)t;
    if (*type == KR_F32 || *type == KR_BF16 || *type == KR_F16) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "bench: no type \"%s\"; use f32, bf16 or f16", name);
}

static bool half_states(const kr_bench *b) {
    return b->o.state_type && strcmp(b->o.state_type, "bf16") == 0;
}

/* What a row's name adds where its states are not as usual. */
static const char *of_states(const kr_bench *b) { return half_states(b) ? ", bf16 states" : ""; }

static int state_type(const kr_bench *b, krait_dtype *type, krait_error *e) {
    const char *name = b->o.state_type;
    *type = half_states(b) ? KRAIT_BF16 : KRAIT_F32;
    if (!name || *type == KRAIT_BF16 || strcmp(name, "f32") == 0) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "bench: no type of states \"%s\"; use f32 or bf16", name);
}

static int random_model(krait_model **out, const kr_bench *b, int64_t width, int64_t layers,
                        kr_dtype type, krait_error *e) {
    kr_config c;
    kr_weights w = {0};
    int rc = kr_config_make(&c, kr_bench_mixer(b->o.model), width, layers, VOCABULARY, NULL, e);
    if (rc == 0) rc = kr_lm_rough_weights(&c, type, &w, e);
    if (rc == 0) rc = kr_model_from_weights(out, &c, &w, NULL, e);
    if (rc < 0) kr_weights_free(&w);
    return rc < 0 ? rc : kr_model_place(*out, b->o.device, e);
}

static int open_subject(subject *s, const kr_bench *b, krait_error *e) {
    kr_dtype type;
    int64_t width, layers;
    krait_model_options o = KRAIT_MODEL_OPTIONS_INIT;
    KR_TRY(matrix_type(b->o.dtype, &type, e));
    o.keep_dtype = 0;
    o.dtype = (krait_dtype)type;
    o.without_tokenizer = 1;
    o.device = b->o.device;
    if (kr_bench_shape(b->o.model, &width, &layers))
        KR_TRY(random_model(&s->model, b, width, layers, type, e));
    else
        KR_TRY(krait_model_open(&s->model, b->o.model, &o, e));
    krait_model_describe(s->model, &s->info);
    return kr_lm_check_next(&s->model->config, e);
}

static void close_subject(subject *s) {
    kr_decoder_free(s->decoder);
    krait_session_close(&s->session);
    krait_trainer_close(&s->trainer);
    krait_model_close(&s->model);
    kr_free(s->spans);
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

/* s->ids as B documents of T tokens. */
static int lay_documents(subject *s, int64_t B, int64_t T, krait_error *e) {
    kr_free(s->documents);
    kr_free(s->counts);
    s->documents = kr_calloc((size_t)B, sizeof *s->documents);
    s->counts = kr_calloc((size_t)B, sizeof *s->counts);
    if (!s->documents || !s->counts) return kr_fail_memory(e, "the benchmark's documents");
    for (int64_t i = 0; i < B; i++) {
        s->documents[i] = s->ids + i * T;
        s->counts[i] = T;
    }
    return 0;
}

/* ---- sessions ---- */

static int run_passes(void *user, krait_error *e) {
    subject *s = user;
    for (int64_t i = 0; i < s->passes; i++)
        KR_TRY(krait_session_forward(s->session, s->spans, s->n_spans, s->logits, e));
    return 0;
}

/* Tokens a second that the machine allows when each pass reads all weights once, reads and writes
 * the states of `rows` lanes, and takes `tokens` through them; `rows` of them through the head. */
static double ceiling(const kr_bench *b, const subject *s, double tokens, double rows) {
    double head = (double)s->info.vocabulary * (double)s->info.width;
    double body = (double)s->info.parameters - head;
    double states = 2 * rows * (double)kr_lm_state_bytes(&s->model->config, half_states(b));
    double reading = ((double)s->info.weight_bytes + states) / b->read_rate;
    bool halves = b->level == KR_LEVEL_CUDA && strcmp(s->info.dtype, "bf16") == 0;
    double computing = 2 * (body * tokens + head * rows) / (halves ? b->half_rate : b->gemm_rate);
    return tokens / (reading > computing ? reading : computing);
}

/* `lanes` sequences of `tokens` each in one pass, `passes` times. */
static int bench_session(subject *s, const kr_bench *b, const char *name, int64_t lanes,
                         int64_t tokens, int64_t passes, krait_error *e) {
    krait_session_options o = KRAIT_SESSION_OPTIONS_INIT;
    o.lanes = lanes;
    o.max_tokens = lanes * tokens;
    o.threads = b->o.threads;
    KR_TRY(state_type(b, &o.state_type, e));
    KR_TRY(random_ids(s, lanes * tokens, e));
    KR_TRY(krait_session_create(&s->session, s->model, &o, e));
    kr_free(s->logits);
    s->logits = kr_calloc((size_t)(lanes * s->info.vocabulary), sizeof *s->logits);
    kr_free(s->spans);
    s->spans = kr_calloc((size_t)lanes, sizeof *s->spans);
    if (!s->logits || !s->spans) return kr_fail_memory(e, "the benchmark's logits");
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
    bool gpu = b->level == KR_LEVEL_CUDA;
    int64_t tokens = b->o.tokens ? b->o.tokens : gpu ? 2048 : 512;
    int64_t lanes = b->o.batch ? b->o.batch : 1;
    if (lanes == 1)
        snprintf(name, sizeof name, "prefill %lld tokens%s", (long long)tokens, of_states(b));
    else
        snprintf(name, sizeof name, "prefill %lld x %lld tokens%s", (long long)lanes,
                 (long long)tokens, of_states(b));
    return bench_session(s, b, name, lanes, tokens, 1, e);
}

/* NEW_TOKENS steps of all lanes; one is queued before the tokens of the one ahead of it are read.
 */
static int run_steps(void *user, krait_error *e) {
    subject *s = user;
    for (int i = 0; i < NEW_TOKENS || kr_decoder_unread(s->decoder) > 0; i++) {
        if (i < NEW_TOKENS) KR_TRY(kr_decoder_step(s->decoder, e));
        int64_t ahead = i < NEW_TOKENS ? KR_DECODER_STEPS - 1 : 0;
        while (kr_decoder_unread(s->decoder) > ahead)
            KR_TRY(kr_decoder_read(s->decoder, s->ids, e));
    }
    return 0;
}

static int start_lanes(subject *s, int64_t lanes, int64_t prompt, krait_error *e) {
    krait_sampler_options greedy = KRAIT_SAMPLER_OPTIONS_INIT;
    greedy.temperature = 0;
    for (int64_t i = 0; i < lanes; i++)
        s->spans[i] = (krait_span){i, s->ids + i * prompt, prompt - 1, KRAIT_WANT_NONE};
    if (prompt > 1) KR_TRY(krait_session_forward(s->session, s->spans, lanes, NULL, e));
    KR_TRY(kr_decoder_create(&s->decoder, s->session, s->info.vocabulary, &greedy, e));
    for (int64_t i = 0; i < lanes; i++)
        KR_TRY(kr_decoder_join(s->decoder, i, 1, s->ids + i * prompt, prompt, e));
    return 0;
}

/* On the GPU tokens are drawn there: it is generation that is timed, after prompts of `prompt`
 * tokens, which are read once, before. */
static int bench_generation(subject *s, const kr_bench *b, int64_t lanes, int64_t prompt,
                            krait_error *e) {
    krait_session_options o = KRAIT_SESSION_OPTIONS_INIT;
    char name[60];
    o.lanes = lanes;
    o.max_tokens = lanes * prompt < 16384 ? lanes * prompt : 16384;
    KR_TRY(state_type(b, &o.state_type, e));
    KR_TRY(random_ids(s, lanes * prompt, e));
    KR_TRY(krait_session_create(&s->session, s->model, &o, e));
    kr_free(s->spans);
    s->spans = kr_calloc((size_t)lanes, sizeof *s->spans);
    if (!s->spans) return kr_fail_memory(e, "the benchmark's lanes");
    KR_TRY(start_lanes(s, lanes, prompt, e));
    snprintf(name, sizeof name, "decode b%lld%s", (long long)lanes, of_states(b));
    kr_bench_report r = {.name = name,
                         .unit = "tok/s",
                         .amount = (double)(lanes * NEW_TOKENS),
                         .scale = 1,
                         .ceiling = ceiling(b, s, (double)lanes, (double)lanes),
                         .note = s->info.dtype};
    int rc = kr_bench_measure(b, &r, run_steps, s, NULL, e);
    kr_decoder_free(s->decoder);
    s->decoder = NULL;
    krait_session_close(&s->session);
    return rc;
}

static int bench_decode(subject *s, const kr_bench *b, krait_error *e) {
    char name[60];
    bool gpu = b->level == KR_LEVEL_CUDA;
    int64_t batch = b->o.batch, prompt = b->o.tokens ? b->o.tokens : 16;
    if (gpu && batch == 0) KR_TRY(bench_generation(s, b, 1, prompt, e));
    if (gpu) return bench_generation(s, b, batch ? batch : MANY_ON_GPU, prompt, e);
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

static void report_one(const kr_bench *b, const char *name, const char *unit, double value,
                       const char *note) {
    krait_bench_row row = {.name = name,
                           .unit = unit,
                           .median = value,
                           .minimum = value,
                           .maximum = value,
                           .note = note};
    if (b->o.on_row) b->o.on_row(b->o.user, &row);
}

/* before: what was free on the GPU ahead of the trainer. */
static void report_memory(const kr_bench *b, const subject *s, double step, size_t before) {
    struct rusage usage;
    size_t left, all;
    kr_device_memory(b->level, &left, &all);
    if (b->level == KR_LEVEL_CUDA) {
        report_one(b, "train: peak memory", "MB", ((double)before - (double)left) / 1048576,
                   "of the GPU, for weights, moments, gradients and activations");
        return;
    }
    getrusage(RUSAGE_SELF, &usage);
    double share = 100 * b->scan_seconds * (double)s->info.layers / step;
    if (share > 0 && strcmp(s->info.mixer, kr_bench_mixer(b->o.model)) == 0)
        report_one(b, "train: share of the scan", "%", share,
                   share <= 100 ? "a layer's scan timed alone, times the layers"
                                : "none: the machine was busy while the scan was timed alone");
    report_one(b, "train: peak memory", "MB", (double)usage.ru_maxrss / 1024,
               "of this whole process");
}

static int bench_train(subject *s, const kr_bench *b, krait_error *e) {
    bool gpu = b->level == KR_LEVEL_CUDA;
    int64_t B = b->o.batch ? b->o.batch : gpu ? 8 : 4;
    int64_t T = b->o.tokens ? b->o.tokens : gpu ? 2048 : 512;
    krait_trainer_options o = KRAIT_TRAINER_OPTIONS_INIT;
    char name[60];
    double step;
    size_t before, all;
    o.tokens = B * T;
    o.documents = B;
    o.threads = b->o.threads;
    o.device = b->o.device;
    o.half = gpu && strcmp(s->info.dtype, "bf16") == 0;
    KR_TRY(random_ids(s, B * T, e));
    KR_TRY(lay_documents(s, B, T, e));
    kr_device_memory(b->level, &before, &all);
    KR_TRY(krait_trainer_create(&s->trainer, s->model, &o, e));
    s->n_spans = B;
    snprintf(name, sizeof name, "train step B%lld T%lld", (long long)B, (long long)T);
    kr_bench_report r = {.name = name,
                         .unit = "tok/s",
                         .amount = (double)(B * T),
                         .scale = 1,
                         .ceiling = (o.half ? b->half_rate : b->gemm_rate) /
                                    (6 * (double)s->info.parameters),
                         .note = o.half ? "bf16" : "f32"};
    KR_TRY(kr_bench_measure(b, &r, train_step, s, &step, e));
    report_memory(b, s, step, before);
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
