/* recipe.c - the table of recipe keys and what is driven by it: parsing, checks, help, echo. */
#include "train/recipe.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <krait/train.h>

#include "base/err.h"
#include "base/json.h"

typedef enum kind { INT, REAL, BOOL, TEXT } kind;

typedef struct key {
    const char *name;
    kind type;
    size_t at, room; /* offset in kr_recipe; bytes of a text */
    const char *fallback;
    double low, high;
    const char *choices; /* "cosine|wsd": the only values of a text; NULL: any */
    bool fixed;          /* decides what the run computes so far: a resumed run must agree */
    const char *meaning;
} key;

#define AT(field) offsetof(kr_recipe, field)
#define INT_KEY(n, d, lo, hi, fixed, text)                                                         \
    { #n, INT, AT(n), 0, d, lo, hi, NULL, fixed, text }
#define REAL_KEY(n, d, lo, hi, fixed, text)                                                        \
    { #n, REAL, AT(n), 0, d, lo, hi, NULL, fixed, text }
#define BOOL_KEY(n, d, fixed, text)                                                                \
    { #n, BOOL, AT(n), 0, d, 0, 1, NULL, fixed, text }
#define TEXT_KEY(n, d, choices, fixed, text)                                                       \
    { #n, TEXT, AT(n), sizeof((kr_recipe *)0)->n, d, 0, 0, choices, fixed, text }
#define MANY 1e15

/* The keys behind `about` and before `tokenizer` are the model's shape. */
static const key keys[] = {
    TEXT_KEY(about, "", NULL, false, "what this recipe is for"),
    TEXT_KEY(mixer, "mamba1", NULL, true, "the mixer of every layer"),
    INT_KEY(layers, "4", 1, 4096, true, "number of layers"),
    INT_KEY(width, "128", 1, 1 << 20, true, "width of the residual stream"),
    INT_KEY(expand, "2", 1, 64, true, "inner width = expand * width"),
    INT_KEY(state, "16", 1, 256, true, "state size N of each channel"),
    INT_KEY(kernel, "4", 1, 64, true, "width of the causal convolution"),
    INT_KEY(dt_rank, "0", 0, 1 << 20, true,
            "rank of the step size projection; 0: width/16, rounded up"),
    INT_KEY(vocabulary, "0", 0, 1 << 24, true, "ids of the model; 0: as many as the tokenizer has"),
    INT_KEY(pad_vocabulary, "8", 1, 1024, true, "rows of the embedding are a multiple of this"),
    BOOL_KEY(conv_bias, "true", true, "the convolution has a bias"),
    BOOL_KEY(linear_bias, "false", true, "the projections in and out have biases"),
    REAL_KEY(dt_min, "0.001", 1e-8, 10, true, "smallest initial step size"),
    REAL_KEY(dt_max, "0.1", 1e-8, 10, true, "largest initial step size"),
    TEXT_KEY(tokenizer, "bytes", NULL, true, "\"bytes\", or the path of a tokenizer.json"),
    INT_KEY(batch, "8", 1, 1 << 20, true, "sequences read side by side"),
    INT_KEY(window, "256", 1, 1 << 24, true, "tokens of each sequence in one step"),
    INT_KEY(accumulate, "1", 1, 1 << 16, true, "micro-batches whose gradients make one step"),
    REAL_KEY(held_out, "0.05", 0, 0.9, true, "share of the data kept for evaluation"),
    BOOL_KEY(
        carry_state, "false", true,
        "each window starts from the state the one before it left (truncated backpropagation)"),
    BOOL_KEY(reset, "true", true, "documents packed into one window do not see each other"),
    INT_KEY(seed, "1", 0, 9007199254740992.0, true, "of initial weights, data order and samples"),
    INT_KEY(steps, "1000", 1, MANY, false, "number of optimiser steps"),
    INT_KEY(tokens, "0", 0, MANY, false, "tokens to train on, instead of steps; 0: off"),
    REAL_KEY(learning_rate, "0.003", 0, 100, false, "peak learning rate"),
    REAL_KEY(min_learning_rate, "1e-5", 0, 100, false, "where the schedule ends"),
    TEXT_KEY(schedule, "cosine", "cosine|wsd|constant", false,
             "after the warm-up: cosine, wsd (stable, then decay), constant"),
    INT_KEY(warmup, "100", 0, MANY, false, "steps of linear warm-up"),
    INT_KEY(decay, "0", 0, MANY, false, "wsd: steps of the decay at the end; 0: a fifth of all"),
    TEXT_KEY(decay_shape, "linear", "linear|sqrt", false, "wsd: linear, or 1 - sqrt(progress)"),
    REAL_KEY(beta1, "0.9", 0, 0.999999, false, "AdamW: decay of the mean of gradients"),
    REAL_KEY(beta2, "0.95", 0, 0.999999, false, "AdamW: decay of the mean of squares"),
    REAL_KEY(eps, "1e-8", 1e-30, 1, false, "AdamW: added to the root"),
    REAL_KEY(weight_decay, "0.1", 0, 10, false,
             "AdamW: decay of matrices (never of A_log, D, biases, norms, embeddings)"),
    REAL_KEY(clip, "1", 0, 1e9, false, "largest norm of the gradient; 0: off"),
    REAL_KEY(outlier, "0", 0, 1e6, false,
             "leave out steps whose loss or gradient norm is this many deviations high; 0: off"),
    BOOL_KEY(recompute, "false", false,
             "keep fewer activations, compute them again (on a GPU the cheap ones always are)"),
    TEXT_KEY(precision, "auto", "auto|f32|bf16", true,
             "of activations; auto: bf16 on a GPU, f32 on the CPU"),
    INT_KEY(log_every, "10", 1, MANY, false, "steps between lines of the log"),
    INT_KEY(eval_every, "200", 0, MANY, false, "steps between evaluations; 0: only at the end"),
    INT_KEY(eval_batches, "8", 1, MANY, false, "batches of held-out data in an evaluation"),
    INT_KEY(sample_every, "0", 0, MANY, false, "steps between samples; 0: off"),
    INT_KEY(sample_tokens, "128", 1, 1 << 20, false, "length of a sample"),
    REAL_KEY(sample_temperature, "0.8", 0, 100, false, "of a sample; 0: the likeliest token"),
    TEXT_KEY(sample_prompt, "", NULL, false, "what a sample continues"),
    INT_KEY(checkpoint_every, "500", 0, MANY, false,
            "steps between checkpoints; 0: only at the end"),
    INT_KEY(keep, "3", 1, 1 << 20, false, "checkpoints that are kept"),
};
enum { KEYS = sizeof keys / sizeof keys[0] };
_Static_assert(KEYS <= 64, "kr_recipe.given has 64 bits");

static void *field(const kr_recipe *r, const key *k) { return (char *)(uintptr_t)r + k->at; }

/* ---- near names ---- */

/* Edits that turn a into b (insert, delete, replace), for names under 64 bytes. */
static int edits(const char *a, const char *b) {
    int row[64], n = (int)strlen(b);
    if (n > 63 || strlen(a) > 63) return INT_MAX;
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[n];
}

static int unknown_key(const char *from, const char *name, krait_error *e) {
    char near[200] = "";
    for (int distance = 1; distance <= 4; distance++)
        for (int i = 0; i < KEYS; i++) {
            bool part = strlen(name) > 2 && strstr(keys[i].name, name);
            int d = part ? 1 : edits(name, keys[i].name);
            if (d != distance || d * 2 > (int)strlen(name) + 1) continue;
            size_t used = strlen(near);
            snprintf(near + used, sizeof near - used, "%s%s", used ? ", " : "", keys[i].name);
        }
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s: unknown recipe key \"%.60s\"; %s%s", from, name,
                   *near ? "did you mean: " : "`krait train --help` lists the keys", near);
}

/* ---- values ---- */

static int out_of_range(const char *from, const key *k, krait_error *e) {
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s: %s must be %s from %.10g to %.10g", from, k->name,
                   k->type == INT ? "a whole number" : "a number", k->low, k->high);
}

static int set_number(kr_recipe *r, const char *from, const key *k, double x, krait_error *e) {
    if (!(x >= k->low && x <= k->high)) return out_of_range(from, k, e);
    if (k->type == REAL) {
        *(double *)field(r, k) = x;
        return 0;
    }
    int64_t whole = (int64_t)x;
    if ((double)whole != x) return out_of_range(from, k, e);
    *(int64_t *)field(r, k) = whole;
    return 0;
}

static bool is_choice(const char *choices, const char *text) {
    size_t n = strlen(text);
    for (const char *p = choices; p; p = strchr(p, '|')) {
        p += *p == '|';
        if (n && strncmp(p, text, n) == 0 && (p[n] == '|' || p[n] == 0)) return true;
    }
    return false;
}

static int set_text(kr_recipe *r, const char *from, const key *k, const char *text,
                    krait_error *e) {
    if (strlen(text) >= k->room)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s: %s is longer than %zu bytes", from, k->name,
                       k->room - 1);
    if (k->choices && !is_choice(k->choices, text))
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s: %s must be one of %s, is \"%.60s\"", from,
                       k->name, k->choices, text);
    strcpy(field(r, k), text);
    return 0;
}

static int set_from_text(kr_recipe *r, const char *from, const key *k, const char *text,
                         krait_error *e) {
    if (k->type == TEXT) return set_text(r, from, k, text, e);
    if (k->type == BOOL) {
        bool yes = strcmp(text, "true") == 0 || strcmp(text, "1") == 0;
        if (!yes && strcmp(text, "false") != 0 && strcmp(text, "0") != 0)
            return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s: %s must be true or false, is \"%.60s\"",
                           from, k->name, text);
        *(bool *)field(r, k) = yes;
        return 0;
    }
    char *end;
    double x = strtod(text, &end);
    if (end == text || *end)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s: %s must be a number, is \"%.60s\"", from,
                       k->name, text);
    return set_number(r, from, k, x, e);
}

static int set_from_json(kr_recipe *r, const char *from, const key *k, const json_t *value,
                         krait_error *e) {
    static const char *const wanted[] = {"a whole number", "a number", "true or false", "a text"};
    if (k->type == TEXT && json_is_string(value))
        return set_text(r, from, k, json_string_value(value), e);
    if (k->type == BOOL && json_is_boolean(value)) {
        *(bool *)field(r, k) = json_is_true(value);
        return 0;
    }
    if ((k->type == INT || k->type == REAL) && json_is_number(value))
        return set_number(r, from, k, json_number_value(value), e);
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s: %s must be %s", from, k->name, wanted[k->type]);
}

static int find_key(const char *name) {
    for (int i = 0; i < KEYS; i++)
        if (strcmp(keys[i].name, name) == 0) return i;
    return -1;
}

/* ---- reading ---- */

void kr_recipe_default(kr_recipe *r) {
    memset(r, 0, sizeof *r);
    for (int i = 0; i < KEYS; i++)
        (void)set_from_text(r, "default", &keys[i], keys[i].fallback, NULL);
}

static int take_object(kr_recipe *r, const char *from, json_t *root, krait_error *e) {
    const char *name;
    json_t *value;
    if (!json_is_object(root))
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: a recipe is a JSON object of keys and values",
                       from);
    json_object_foreach(root, name, value) {
        int i = find_key(name);
        if (i < 0) return unknown_key(from, name, e);
        KR_TRY(set_from_json(r, from, &keys[i], value, e));
        r->given |= (uint64_t)1 << i;
    }
    return 0;
}

int kr_recipe_parse(kr_recipe *r, const char *text, size_t length, const char *from,
                    krait_error *e) {
    json_t *root;
    KR_TRY(kr_json_parse(&root, text, length, from, e));
    int rc = take_object(r, from, root, e);
    json_decref(root);
    return rc;
}

int kr_recipe_read(kr_recipe *r, const char *path, krait_error *e) {
    json_t *root;
    KR_TRY(kr_json_load(&root, path, 1 << 20, e));
    int rc = take_object(r, path, root, e);
    json_decref(root);
    return rc;
}

int kr_recipe_set(kr_recipe *r, const char *assignment, krait_error *e) {
    char name[64];
    const char *equals = strchr(assignment, '=');
    size_t n = equals ? (size_t)(equals - assignment) : 0;
    if (!equals || n == 0 || n >= sizeof name)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "--set %.100s: expected key=value", assignment);
    memcpy(name, assignment, n);
    name[n] = 0;
    int i = find_key(name);
    if (i < 0) return unknown_key("--set", name, e);
    r->given |= (uint64_t)1 << i;
    return set_from_text(r, "--set", &keys[i], equals + 1, e);
}

bool kr_recipe_given(const kr_recipe *r, const char *name) {
    int i = find_key(name);
    return i >= 0 && (r->given >> i & 1);
}

bool kr_recipe_shapes_model(const kr_recipe *r) {
    return (r->given & (((uint64_t)1 << find_key("tokenizer")) - 1) & ~(uint64_t)1) != 0;
}

/* ---- checks across keys ---- */

static int finish_schedule(kr_recipe *r, krait_error *e) {
    bool wsd = strcmp(r->schedule, "wsd") == 0;
    kr_recipe usual;
    kr_recipe_default(&usual); /* a run's recipe.json gives every key: the usual value is no wish */
    if (wsd && r->decay == 0) r->decay = r->steps / 5 > 0 ? r->steps / 5 : 1;
    if (!wsd && (r->decay || strcmp(r->decay_shape, usual.decay_shape) != 0))
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "recipe: decay and decay_shape need schedule = wsd");
    if (strcmp(r->schedule, "constant") == 0 && r->min_learning_rate != usual.min_learning_rate)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "recipe: min_learning_rate has no effect with schedule = constant");
    if (r->warmup + (wsd ? r->decay : 0) > r->steps)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "recipe: warmup (%lld) and decay (%lld) are longer than all %lld steps",
                       (long long)r->warmup, (long long)r->decay, (long long)r->steps);
    if (r->min_learning_rate > r->learning_rate)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "recipe: min_learning_rate (%g) is above learning_rate (%g)",
                       r->min_learning_rate, r->learning_rate);
    return 0;
}

int kr_recipe_finish(kr_recipe *r, krait_error *e) {
    if (r->window > INT64_MAX / r->batch / r->accumulate || r->batch * r->window > INT32_MAX)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "recipe: batch * window is beyond 2^31 tokens");
    int64_t a_step = r->batch * r->window * r->accumulate;
    int64_t steps = r->tokens ? (r->tokens + a_step - 1) / a_step : r->steps;
    if (kr_recipe_given(r, "steps") && r->steps != steps)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "recipe: give steps or tokens, not both");
    r->steps = steps;
    if (r->dt_min > r->dt_max)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "recipe: dt_min (%g) is above dt_max (%g)", r->dt_min,
                       r->dt_max);
    if (r->carry_state && !r->reset)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "recipe: carry_state needs reset = true");
    return finish_schedule(r, e);
}

int kr_recipe_config(const kr_recipe *r, int64_t tokenizer_ids, int32_t end, kr_config *c,
                     krait_error *e) {
    int64_t used = r->vocabulary ? r->vocabulary : tokenizer_ids;
    if (used < tokenizer_ids)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "recipe: vocabulary is %lld, the tokenizer has %lld ids", (long long)used,
                       (long long)tokenizer_ids);
    int64_t rows = (used + r->pad_vocabulary - 1) / r->pad_vocabulary * r->pad_vocabulary;
    kr_config_mamba(c, r->width, r->layers, rows);
    snprintf(c->mixer, sizeof c->mixer, "%s", r->mixer);
    c->vocabulary_used = used;
    c->inner = r->expand * r->width;
    c->state = r->state;
    c->kernel = r->kernel;
    if (r->dt_rank) c->dt_rank = r->dt_rank;
    c->conv_bias = r->conv_bias;
    c->linear_bias = r->linear_bias;
    c->dt_min = r->dt_min;
    c->dt_max = r->dt_max;
    c->bos = c->eos = end;
    return kr_config_check(c, e);
}

/* ---- writing ---- */

static json_t *value_json(const kr_recipe *r, const key *k) {
    switch (k->type) {
    case INT: return json_integer(*(int64_t *)field(r, k));
    case REAL: return json_real(*(double *)field(r, k));
    case BOOL: return json_boolean(*(bool *)field(r, k));
    case TEXT: return json_string(field(r, k));
    }
    return NULL;
}

json_t *kr_recipe_json(const kr_recipe *r) {
    json_t *root = json_object();
    for (int i = 0; root && i < KEYS; i++)
        if (json_object_set_new(root, keys[i].name, value_json(r, &keys[i])) != 0) {
            json_decref(root);
            root = NULL;
        }
    return root;
}

static bool same_value(const kr_recipe *a, const kr_recipe *b, const key *k) {
    const void *x = field(a, k), *y = field(b, k);
    switch (k->type) {
    case INT: return *(const int64_t *)x == *(const int64_t *)y;
    case REAL: return *(const double *)x == *(const double *)y;
    case BOOL: return *(const bool *)x == *(const bool *)y;
    case TEXT: return strcmp(x, y) == 0;
    }
    return false;
}

const char *kr_recipe_difference(const kr_recipe *a, const kr_recipe *b, bool fixed, int *from) {
    while (*from < KEYS) {
        const key *k = &keys[(*from)++];
        if (k->fixed == fixed && !same_value(a, b, k)) return k->name;
    }
    return NULL;
}

const char *krait_recipe_keys(void) {
    static _Thread_local char text[KEYS * 160];
    size_t used = 0;
    for (int i = 0; i < KEYS && used < sizeof text; i++) {
        const char *fallback = *keys[i].fallback ? keys[i].fallback : "\"\"";
        int n = snprintf(text + used, sizeof text - used, "%-20s %-8s %s\n", keys[i].name, fallback,
                         keys[i].meaning);
        used += (size_t)n;
    }
    return text;
}
