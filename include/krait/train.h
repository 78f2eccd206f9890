/* train.h - data, training, evaluation, and the tools around them.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KRAIT_TRAIN_H
#define KRAIT_TRAIN_H

#include <krait/krait.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- sequence tasks -------------------------------------------------------------------------- */

/* A task makes examples whose answers are right or wrong, or numbers: from a seed (selective
 * copying, induction heads, ...) or from files. `krait_train` trains on one (recipe key "task"),
 * `krait_eval` measures its accuracy. */
typedef struct krait_task_info {
    const char *name, *about;
    int files;        /* 1: examples come from files */
    int64_t settings; /* how many */
} krait_task_info;

typedef struct krait_task_setting {
    const char *name, *help;
    char value[64], range[96]; /* the default; what it may be */
} krait_task_setting;

KRAIT_API int64_t krait_task_count(void);
KRAIT_API int krait_task_describe(int64_t index, krait_task_info *info);
KRAIT_API int krait_task_describe_setting(int64_t index, int64_t i, krait_task_setting *setting);

enum { KRAIT_TASK_TRAIN, KRAIT_TASK_VALID, KRAIT_TASK_TEST };

typedef struct krait_task_options {
    size_t size;
    const char *name;
    const char *const *sets; /* "key=value" of its settings */
    int64_t n_sets;
    const char *const *data; /* files and folders, of tasks that read them */
    int64_t n_data;
    uint64_t seed;
    int part; /* KRAIT_TASK_...: no example is in two of them */
} krait_task_options;
#define KRAIT_TASK_OPTIONS_INIT                                                                    \
    { sizeof(krait_task_options), NULL, NULL, 0, NULL, 0, 1, KRAIT_TASK_TRAIN }

typedef struct krait_task krait_task;
KRAIT_API int krait_task_open(krait_task **out, const krait_task_options *options, krait_error *e);
KRAIT_API void krait_task_close(krait_task **task);

typedef struct krait_task_facts {
    int64_t vocabulary; /* > 0: input is ids below it */
    int64_t channels;   /* > 0: input is rows of so many numbers */
    int64_t classes;    /* > 0: the answer is one label; 0: ids, at some of the rows */
    int64_t longest;    /* rows of the longest example */
    int64_t answers;    /* the most answers of an example */
    int64_t width;      /* > 0: the rows are a picture's, so many in a line */
    int64_t examples;   /* of the part; 0: without end */
    int64_t numbers;    /* > 0: the answer is so many numbers instead, */
    int each_row;       /* of the example, or of each of its rows */
} krait_task_facts;
KRAIT_API int krait_task_facts_of(const krait_task *task, krait_task_facts *facts);

/* One example of T rows: its input is ids or values, its answer targets, a label or numbers; what
 * krait_task_facts says. The arrays belong to the task: they are valid until the next
 * krait_task_make or krait_task_close of it. */
typedef struct krait_task_example {
    int64_t rows;        /* T */
    const int32_t *ids;  /* [T], each below `vocabulary`; NULL: the input is values */
    const float *values; /* [T,channels], in the task's own units; NULL: the input is ids */
    /* [T]: the id to be said at that row, -1: nothing is asked there; NULL: the answer is a label
     * or numbers */
    const int32_t *targets;
    int32_t label; /* below `classes`; -1: the answer is no label */
    /* [numbers] of the whole example, or, with each_row, [T,numbers]; in the task's own units.
     * NULL: the answer is no number */
    const float *numbers;
} krait_task_example;
/* Makes example `index` (from 0): it depends on settings, seed, part and index alone (and on the
 * files). Errors: KRAIT_ERR_ARGUMENT where there is no such example, KRAIT_ERR_IO or
 * KRAIT_ERR_FORMAT where a file has changed or is bad, KRAIT_ERR_MEMORY; then *example is as it
 * was. */
KRAIT_API int krait_task_make(krait_task *task, int64_t index, krait_task_example *example,
                              krait_error *e);
/* An id and a label as people read them; returns text or a string that lives as long as the task.
 */
KRAIT_API const char *krait_task_token(const krait_task *task, int32_t id, char text[16]);
KRAIT_API const char *krait_task_label(const krait_task *task, int32_t label, char text[16]);

/* ---- training ------------------------------------------------------------------------------- */

typedef enum krait_event_kind {
    /* once, before the first step: `text` describes model, data and memory, a fact a line */
    KRAIT_EVENT_PLAN,
    KRAIT_EVENT_STEP, /* after each step */
    /* after each evaluation on held-out data: the state is carried from window to window, as
     * krait_eval carries it, whatever training does */
    KRAIT_EVENT_EVAL,
    KRAIT_EVENT_SAMPLE,     /* `text`: generated while training */
    KRAIT_EVENT_CHECKPOINT, /* `text`: its folder */
    KRAIT_EVENT_SKIPPED,    /* a step left out as an outlier; `text` says why */
    /* `text`: anything a user should know (an option without effect, a resumed run) */
    KRAIT_EVENT_NOTE
} krait_event_kind;

typedef struct krait_train_event {
    krait_event_kind kind;
    int64_t step, steps;  /* 1-based after the step is done; total */
    int64_t tokens;       /* seen so far */
    double loss;          /* nats a token of this step (STEP) or of the held-out part (EVAL) */
    double bits_per_byte; /* EVAL */
    double grad_norm, learning_rate;
    double tokens_per_second, seconds, seconds_left;
    const char *text;
    /* EVAL of a task: its answers, the share of them that is right, and the share of examples all
     * of whose answers are */
    int64_t answers;
    double accuracy, accuracy_whole; /* NaN where answers are numbers: loss is the square error */
} krait_train_event;

typedef struct krait_train_options {
    size_t size;
    const char *recipe;      /* a JSON file; NULL: every value from its default and `sets` */
    const char *const *data; /* files and folders of text, "-" for stdin, or token id files */
    int64_t n_data;
    int data_is_ids; /* 1: data holds decimal token ids, a document a line */
    const char *out; /* folder of the run: checkpoints, logs, and the final model */
    /* 1: continue from the newest checkpoint in `out` (none there: start) */
    int resume;
    /* start from this model's weights instead of fresh ones; NULL: fresh */
    const char *init_model;
    const char *const *sets; /* "key=value" overrides of the recipe */
    int64_t n_sets;
    int threads;
    /* Return non-zero to stop after a checkpoint. May be NULL. */
    int (*on_event)(void *user, const krait_train_event *event);
    void *user;
    const char *device; /* NULL or "cpu"; "cuda" or "cuda:N": an NVIDIA GPU */
} krait_train_options;
#define KRAIT_TRAIN_OPTIONS_INIT                                                                   \
    { sizeof(krait_train_options), NULL, NULL, 0, 0, NULL, 0, NULL, NULL, 0, 0, NULL, NULL, NULL }

/* Trains to the end of the recipe. The folder `out` then holds config.json, model.safetensors,
 * tokenizer.json (the final model), checkpoints/step-N/, log.jsonl and TensorBoard event files. */
KRAIT_API int krait_train(const krait_train_options *options, krait_error *e);

/* Every recipe key with its default and meaning, a line each, for --help. */
KRAIT_API const char *krait_recipe_keys(void);

/* ---- training by hand ------------------------------------------------------------------------ */

/* A fresh model as a recipe's keys describe it (shape, tokenizer, seed). recipe: a JSON file, NULL:
 * the defaults; sets: "key=value" over them. A recipe for a task is refused: its data decide part
 * of the shape. */
KRAIT_API int krait_recipe_model(krait_model **out, const char *recipe, const char *const *sets,
                                 int64_t n_sets, krait_error *e);

typedef struct krait_trainer krait_trainer;

typedef struct krait_trainer_options {
    size_t size;
    int64_t tokens, documents;                    /* the most of one backward (1024, 64) */
    double beta1, beta2, eps, weight_decay, clip; /* AdamW (0.9 0.95 1e-8 0.1); clip 1, 0: off */
    int threads;
    const char *device; /* NULL or "cpu"; "cuda" or "cuda:N": an NVIDIA GPU */
    /* 1: activations in bf16, on a GPU; weights, sums and moments stay f32 */
    int half;
} krait_trainer_options;
#define KRAIT_TRAINER_OPTIONS_INIT                                                                 \
    { sizeof(krait_trainer_options), 1024, 64, 0.9, 0.95, 1e-8, 0.1, 1.0, 0, NULL, 0 }

/* Trains a copy of the model's weights in f32; the model itself stays as it is. */
KRAIT_API int krait_trainer_create(krait_trainer **out, const krait_model *model,
                                   const krait_trainer_options *options, krait_error *e);
KRAIT_API void krait_trainer_close(krait_trainer **trainer);
/* Adds the gradient of the mean next-token loss of n documents, each from a zero state, to what is
 * there; loss (may be NULL) gets that mean in nats. */
KRAIT_API int krait_trainer_backward(krait_trainer *t, const int32_t *const *ids,
                                     const int64_t *counts, int64_t n, double *loss,
                                     krait_error *e);
/* Clips the gradient, moves the weights by AdamW at this rate, and forgets the gradient. grad_norm
 * (may be NULL) gets the norm before clipping. A norm that is not finite: the weights stay, the
 * gradient is forgotten all the same, and the next backward starts afresh. */
KRAIT_API int krait_trainer_update(krait_trainer *t, double rate, double *grad_norm,
                                   krait_error *e);
/* The weights as they are now, as a model without tokenizer that can be saved or opened in a new
 * session (on the CPU); the trainer owns it, and its hash is that of the beginning. An update
 * changes it in place: sessions opened before must not be used after. From a GPU the weights are
 * copied at each call; NULL: that failed. */
KRAIT_API const krait_model *krait_trainer_model(const krait_trainer *t);

/* ---- evaluation ----------------------------------------------------------------------------- */

typedef struct krait_eval_options {
    size_t size;
    const char *const *data;
    int64_t n_data;
    int data_is_ids;
    /* NULL: language model loss; "lambada": accuracy of the last word, data is JSON lines; or the
     * name of a sequence task: accuracy of its answers, data only where the task reads files */
    const char *task;
    /* 0: each document whole, its state carried to any length; else windows of this many tokens */
    int64_t context;
    /* Predict this many tokens, the first of the data (0: all); a task stops after the question
     * that reaches it. */
    int64_t max_tokens;
    int threads;
    /* Each predicted token, document after document; pos counts from 0 within its own. Return
     * non-zero to stop. May be NULL. */
    int (*on_token)(void *user, int64_t doc, int64_t pos, int32_t id, double logprob);
    /* Progress: bytes or tokens done of all (0: unknown). May be NULL. */
    int (*on_progress)(void *user, int64_t done, int64_t all);
    void *user;
    /* Of a sequence task: its settings, seed, part (KRAIT_TASK_...), and how many examples (0: all
     * of a part that ends, else 1000). */
    const char *const *sets;
    int64_t n_sets;
    uint64_t seed;
    int part;
    int64_t examples;
    /* Each answer of a sequence task: its example and row (both from 0; of a label the last row),
     * the id or label that is right, the one that was said and its log-probability (natural, over
     * all ids or classes). Called in the thread of krait_eval; examples that are read side by side
     * come mixed, the rows of one in order. Return non-zero to stop: KRAIT_ERR_CANCELLED. May be
     * NULL, and must be where answers are numbers (KRAIT_ERR_ARGUMENT: nothing is right then). */
    int (*on_answer)(void *user, int64_t example, int64_t row, int32_t right, int32_t said,
                     double logprob);
} krait_eval_options;
#define KRAIT_EVAL_OPTIONS_INIT                                                                    \
    {                                                                                              \
        sizeof(krait_eval_options), NULL, 0, 0, NULL, 0, 0, 0, NULL, NULL, NULL, NULL, 0, 1,       \
            KRAIT_TASK_TEST, 0, NULL                                                               \
    }

#define KRAIT_EVAL_POSITIONS 32
typedef struct krait_eval_result {
    int64_t documents, tokens; /* predicted tokens */
    int64_t bytes;             /* of text that they stand for; 0: the model has no tokenizer */
    double loss, perplexity, bits_per_byte;
    /* Mean loss of positions [2^i, 2^(i+1)) of a document. count 0: none. */
    double position_loss[KRAIT_EVAL_POSITIONS];
    int64_t position_count[KRAIT_EVAL_POSITIONS];
    int64_t questions; /* tasks; of a sequence task its examples, and tokens are its answers */
    double accuracy, task_perplexity;
    double accuracy_whole; /* sequence tasks: share of examples all of whose answers are right */
    /* A sequence task whose answers are numbers: loss is the mean square of what they are off, both
     * accuracies and perplexities are NaN */
    double seconds;
} krait_eval_result;

KRAIT_API int krait_eval(const krait_model *model, const krait_eval_options *options,
                         krait_eval_result *result, krait_error *e);

/* ---- how far back a model looks ------------------------------------------------------------- */

typedef struct krait_reach_options {
    size_t size;
    int64_t length;  /* tokens of a window (1024), 1 to 2^31 - 1 */
    int64_t windows; /* the most of them (16), at least 1 */
    int threads;     /* 0: OMP_NUM_THREADS or all cores */
} krait_reach_options;
#define KRAIT_REACH_OPTIONS_INIT                                                                   \
    { sizeof(krait_reach_options), 1024, 16, 0 }

/* Cuts ids[0..count) into windows of `length` tokens, each from a zero state. sizes [length]:
 * sizes[k] is the size (Euclidean norm, in nats by a unit of the embedding) of the gradient of the
 * loss of the token behind a window by the embedding that entered k tokens before its end, the root
 * of the mean square over the windows. Returns how many windows there were, or a negative
 * krait_err, and then sizes says nothing. On the CPU, in f32; options may be NULL.
 * Refused: fewer than length + 1 ids, or an id that the model does not have (KRAIT_ERR_ARGUMENT); a
 * model that has no next token (KRAIT_ERR_UNSUPPORTED); a gradient that is not finite
 * (KRAIT_ERR_NUMERIC). */
KRAIT_API int64_t krait_reach(const krait_model *model, const int32_t *ids, int64_t count,
                              const krait_reach_options *options, double *sizes, krait_error *e);

/* ---- tokenizer training --------------------------------------------------------------------- */

typedef struct krait_bpe_options {
    size_t size;
    int64_t vocabulary;    /* of the result, bytes and added tokens included */
    int64_t min_frequency; /* pairs seen less often are not merged (default 2) */
    const char *end_token; /* added token, id 0 (default "<|endoftext|>") */
    int (*on_progress)(void *user, int64_t done, int64_t all);
    void *user;
} krait_bpe_options;
#define KRAIT_BPE_OPTIONS_INIT                                                                     \
    { sizeof(krait_bpe_options), 4096, 2, "<|endoftext|>", NULL, NULL }

/* Learns a byte-level BPE vocabulary from files or folders and writes tokenizer.json at `out`. */
KRAIT_API int krait_tokenizer_train(const char *const *data, int64_t n_data, const char *out,
                                    const krait_bpe_options *options, krait_error *e);

/* ---- selftest and benchmark ----------------------------------------------------------------- */

typedef struct krait_check_row {
    const char *op, *kase, *level, *what; /* "rmsnorm", "T=63", "v4", "against ref" */
    int passed, skipped;
    double error, tolerance; /* relative */
    const char *detail;      /* on failure: what was found */
} krait_check_row;

typedef struct krait_check_options {
    size_t size;
    const char *only; /* rows whose op name contains this; NULL: all */
    /* flip one output value of this op after it ran: the check must then fail. NULL: off */
    const char *corrupt;
    int large; /* 1: also the rows with offsets past 2^31, or with very many sequences */
    int threads;
    void (*on_row)(void *user, const krait_check_row *row);
    void *user;
    const char *device; /* "cpu", "cuda" or "cuda:N"; NULL: cpu */
    /* 1 to `shares`: of all cases only every shares-th, beginning with this one, so that processes
     * can share them; shares 0: all */
    int share, shares;
} krait_check_options;
#define KRAIT_CHECK_OPTIONS_INIT                                                                   \
    { sizeof(krait_check_options), NULL, NULL, 0, 0, NULL, NULL, NULL, 0, 0 }

/* Runs every kernel row of every level this machine has, or those of the GPU. 0: all passed;
 * KRAIT_ERR_NUMERIC: some failed (all rows were run, unless a kernel left the GPU unusable). */
KRAIT_API int krait_selftest(const krait_check_options *options, krait_error *e);

/* How far step by step, whole and chunked forms of this model differ on the given documents, and
 * the gradient norm of the mean next-token loss for every tensor. */
typedef struct krait_model_check {
    /* largest difference of logits, relative to the largest logit of the whole form */
    double step_error, chunk_error;
    double loss;
    int64_t tensors;
    void (*on_tensor)(void *user, const char *name, double grad_norm);
    void *user;
} krait_model_check;
KRAIT_API int krait_selftest_model(const krait_model *model, const int32_t *const *ids,
                                   const int64_t *counts, int64_t documents,
                                   krait_model_check *check, krait_error *e);

typedef struct krait_bench_row {
    const char *name;                /* "decode b1", "scan forward" */
    const char *unit;                /* "tok/s", "GB/s", "GFLOP/s", "M updates/s" */
    double median, minimum, maximum; /* of the runs */
    double ceiling;                  /* what the machine allows, same unit; 0: none */
    const char *note;
    double ms; /* of one call of a kernel; 0: not measured */
} krait_bench_row;

typedef struct krait_bench_options {
    size_t size;
    const char *what; /* "machine", "ops", "scan", "prefill", "decode", "train", or NULL: all */
    /* a model, or a shape by name ("mamba-130m", random weights); NULL: mamba-130m */
    const char *model;
    const char *dtype;     /* "f32", "bf16", "f16"; NULL: f32 */
    int64_t batch, tokens; /* 0: defaults of each row */
    int runs;              /* default 5 */
    int threads;
    void (*on_row)(void *user, const krait_bench_row *row);
    void *user;
    const char *device;     /* "cpu", "cuda" or "cuda:N"; NULL: cpu */
    const char *state_type; /* krait_session_options.state_type: "f32", "bf16"; NULL: f32 */
} krait_bench_options;
#define KRAIT_BENCH_OPTIONS_INIT                                                                   \
    { sizeof(krait_bench_options), NULL, NULL, NULL, 0, 0, 5, 0, NULL, NULL, NULL, NULL }

KRAIT_API int krait_bench(const krait_bench_options *options, krait_error *e);

#ifdef __cplusplus
}
#endif
#endif
