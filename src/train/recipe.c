/* recipe.c - the table of recipe keys and what is driven by it: parsing, checks, help, echo. */
#include "train/recipe.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include <krait/train.h>

#include "base/err.h"
#include "base/json.h"
#include "mixers/mixer.h"

#define INT_KEY(n, d, lo, hi, text) KR_SETTING_INT_OF(kr_recipe, n, d, lo, hi, text)
#define REAL_KEY(n, d, lo, hi, text) KR_SETTING_REAL_OF(kr_recipe, n, d, lo, hi, text)
#define BOOL_KEY(n, d, text) KR_SETTING_BOOL_OF(kr_recipe, n, d, text)
#define TEXT_KEY(n, choices, text) KR_SETTING_TEXT_OF(kr_recipe, n, choices, text)
#define MANY 1e15

/* Two parts: what decides the numbers that a run computes, in which a resumed run must agree, and
 * behind `about` what may change. The keys before `task` shape the model, as do those of
 * model and mixer. */
static const kr_setting keys[] = {
    INT_KEY(vocabulary, 0, 0, 1 << 24, "ids of the model; 0: as many as the tokenizer has"),
    INT_KEY(pad_vocabulary, 8, 1, 1024, "rows of the embedding are a multiple of this"),
    TEXT_KEY(task, NULL, "the sequence task to train on (krait task lists them); none: text"),
    TEXT_KEY(tokenizer, NULL, "\"bytes\", or the path of a tokenizer.json"),
    INT_KEY(batch, 8, 1, 1 << 20, "sequences read side by side"),
    INT_KEY(window, 256, 1, 1 << 24, "tokens of each sequence in one step"),
    INT_KEY(accumulate, 1, 1, 1 << 16, "micro-batches whose gradients make one step"),
    REAL_KEY(held_out, 0.05, 0, 0.9, "share of the data kept for evaluation"),
    BOOL_KEY(carry_state, false,
             "a window begins in the state that the one before it left, as in every evaluation"),
    BOOL_KEY(reset, true, "documents packed into one window do not see each other"),
    REAL_KEY(dropout, 0, 0, 0.99, "share of what each part of a layer makes that is left out"),
    BOOL_KEY(dropout_tied, false, "dropout leaves out the same columns in all rows of a sequence"),
    INT_KEY(seed, 1, 0, 9007199254740992.0, "of initial weights, data order and samples"),
    TEXT_KEY(precision, "auto|f32|bf16", "of activations; auto: bf16 on a GPU, f32 on the CPU"),
    TEXT_KEY(about, NULL, "what this recipe is for"),
    INT_KEY(steps, 1000, 1, MANY, "number of optimiser steps"),
    INT_KEY(tokens, 0, 0, MANY, "tokens to train on, instead of steps; 0: off"),
    REAL_KEY(learning_rate, 0.003, 0, 100, "peak learning rate"),
    REAL_KEY(min_learning_rate, 1e-5, 0, 100, "where the schedule ends"),
    REAL_KEY(recurrent_learning_rate, 1, 0, 100,
             "factor of the rate for parameters of the recurrence, where a mixer has such a group"),
    TEXT_KEY(schedule, "cosine|wsd|constant", "after the warm-up; wsd is stable, then decays"),
    INT_KEY(warmup, 100, 0, MANY, "steps of linear warm-up; unasked, a tenth of a shorter run"),
    INT_KEY(decay, 0, 0, MANY, "wsd: steps of the decay at the end; 0: a fifth of all"),
    TEXT_KEY(decay_shape, "linear|sqrt", "wsd: how it decays; sqrt is 1 - sqrt(progress)"),
    REAL_KEY(beta1, 0.9, 0, 0.999999, "AdamW: decay of the mean of gradients"),
    REAL_KEY(beta2, 0.95, 0, 0.999999, "AdamW: decay of the mean of squares"),
    REAL_KEY(eps, 1e-8, 1e-30, 1, "AdamW: added to the root"),
    REAL_KEY(weight_decay, 0.1, 0, 10,
             "AdamW: decay of matrices (never of A_log, D, biases, norms, embeddings)"),
    REAL_KEY(clip, 1, 0, 1e9, "largest norm of the gradient; 0: off"),
    REAL_KEY(outlier, 0, 0, 1e6,
             "leave out steps whose loss or gradient norm is this many deviations high; 0: off"),
    BOOL_KEY(recompute, false,
             "keep fewer activations, compute them again (on a GPU the cheap ones always are)"),
    INT_KEY(log_every, 10, 1, MANY, "steps between lines of the log"),
    INT_KEY(eval_every, 200, 0, MANY, "steps between evaluations; 0: only at the end"),
    INT_KEY(eval_batches, 8, 1, 1e9, "batches of held-out data in an evaluation"),
    INT_KEY(sample_every, 0, 0, MANY, "steps between samples; 0: off"),
    INT_KEY(sample_tokens, 128, 1, 1 << 20, "length of a sample"),
    REAL_KEY(sample_temperature, 0.8, 0, 100, "of a sample; 0: the likeliest token"),
    TEXT_KEY(sample_prompt, NULL, "what a sample continues"),
    INT_KEY(checkpoint_every, 500, 0, MANY, "steps between checkpoints; 0: only at the end"),
    INT_KEY(keep, 3, 1, 1 << 20, "checkpoints that are kept"),
    {.name = NULL}};
enum { KEYS = sizeof keys / sizeof keys[0] - 1 };
_Static_assert(KEYS <= 64, "kr_recipe.given has 64 bits");

/* ---- four tables ---- */

typedef enum part { MODEL, MIXER, TASK, OWN, PARTS } part;

static const kr_setting no_settings[] = {{.name = NULL}};

static const kr_setting *table_of(const kr_recipe *r, part p) {
    const kr_mixer *m = kr_mixer_find(r->config.mixer);
    const kr_task *task = kr_task_find(r->task);
    if (p == MIXER) return m ? m->settings : no_settings;
    if (p == TASK) return task && task->settings ? task->settings : no_settings;
    return p == MODEL ? kr_config_settings : keys;
}

static const void *values_of(const kr_recipe *r, part p) {
    return p == OWN     ? (const void *)r
           : p == MODEL ? (const void *)&r->config
           : p == TASK  ? (const void *)r->task_settings
                        : (const void *)r->config.settings;
}

static void *place_of(kr_recipe *r, part p) { return (void *)(uintptr_t)values_of(r, p); }

static const kr_setting *find_key(const kr_recipe *r, const char *name, part *in) {
    const kr_setting *k = NULL;
    for (int p = 0; p < PARTS && !k; p++) {
        *in = (part)p;
        k = kr_settings_find(table_of(r, *in), name, strlen(name));
    }
    return k;
}

static uint64_t bit_of(const kr_recipe *r, part p, const kr_setting *k) {
    return (uint64_t)1 << (k - table_of(r, p));
}

static bool was_given(const kr_recipe *r, part p, const kr_setting *k) {
    return (r->given[p] & bit_of(r, p, k)) != 0;
}

/* The mixers that have such a setting; returns how many. */
static int mixers_with(const char *name, char *names, size_t size) {
    int n = 0;
    *names = 0;
    for (int i = 0; kr_mixers[i]; i++) {
        if (!kr_settings_find(kr_mixers[i]->settings, name, strlen(name))) continue;
        size_t used = strlen(names);
        snprintf(names + used, size - used, "%s%s", n++ ? ", " : "", kr_mixers[i]->name);
    }
    return n;
}

static int unknown_key(const kr_recipe *r, const char *from, const char *name, krait_error *e) {
    char near[840] = "", others[200];
    int n = mixers_with(name, others, sizeof others);
    if (n)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "%s: mixer %s has no setting \"%.60s\"; mixer%s %s ha%s one", from,
                       r->config.mixer, name, n > 1 ? "s" : "", others, n > 1 ? "ve" : "s");
    for (int p = PARTS - 1; p >= 0; p--) {
        char some[200];
        kr_settings_near(table_of(r, (part)p), name, some, sizeof some);
        size_t used = strlen(near);
        if (*some) snprintf(near + used, sizeof near - used, "%s%s", used ? ", " : "", some);
    }
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s: unknown recipe key \"%.60s\"; %s%s", from, name,
                   *near ? "did you mean: " : "`krait train --help` lists the keys", near);
}

/* ---- reading ---- */

void kr_recipe_default(kr_recipe *r) {
    memset(r, 0, sizeof *r);
    kr_settings_default(keys, r);
    strcpy(r->tokenizer, "bytes");
    kr_config_default(&r->config, "mamba1");
}

/* The table of part p has become another: its settings begin at their defaults, but for those that
 * were given and that it has too. `of` and `name` are what it belongs to. */
static int take_over(kr_recipe *r, part p, const kr_recipe *old, const char *from, const char *of,
                     const char *name, krait_error *e) {
    const kr_setting *table = table_of(r, p);
    kr_settings_default(table, place_of(r, p));
    r->given[p] = 0;
    for (const kr_setting *k = table_of(old, p); k->name; k++) {
        if (!was_given(old, p, k)) continue;
        char text[64];
        const kr_setting *to = kr_settings_find(table, k->name, strlen(k->name));
        if (!to)
            return kr_fail(e, KRAIT_ERR_ARGUMENT, "%s: %s %s has no setting %s, which was given",
                           from, of, name, k->name);
        kr_setting_text(k, values_of(old, p), text);
        KR_TRY(kr_setting_parse(to, place_of(r, p), text, from, e));
        r->given[p] |= bit_of(r, p, to);
    }
    return 0;
}

static int take_mixer(kr_recipe *r, const char *from, const char *name, krait_error *e) {
    kr_recipe old = *r;
    if (!kr_mixer_find(name))
        return kr_config_make(&r->config, name, 1, 1, 1, NULL, e); /* says which there are */
    snprintf(r->config.mixer, sizeof r->config.mixer, "%s", name);
    return take_over(r, MIXER, &old, from, "mixer", name, e);
}

static int take_task(kr_recipe *r, const char *from, const char *name, krait_error *e) {
    kr_recipe old = *r;
    if (*name && !kr_task_need(name, e)) {
        kr_fail_prefix(e, "%s", from);
        return KRAIT_ERR_ARGUMENT;
    }
    snprintf(r->task, sizeof r->task, "%s", name);
    return take_over(r, TASK, &old, from, "task", name, e);
}

/* The keys that decide which other keys there are. */
static const char *const deciders[] = {"mixer", "task"};
enum { DECIDERS = sizeof deciders / sizeof *deciders };
typedef int take_fn(kr_recipe *r, const char *from, const char *name, krait_error *e);

/* What takes such a key; NULL: it is none. */
static take_fn *decides(part p, const char *name) {
    if (p == MODEL && strcmp(name, deciders[0]) == 0) return take_mixer;
    return p == OWN && strcmp(name, deciders[1]) == 0 ? take_task : NULL;
}

static bool is_decider(const char *name) {
    for (int i = 0; i < DECIDERS; i++)
        if (strcmp(name, deciders[i]) == 0) return true;
    return false;
}

static int take_member(kr_recipe *r, const char *from, const char *name, const json_t *value,
                       krait_error *e) {
    part p;
    const kr_setting *k = find_key(r, name, &p);
    if (!k) return unknown_key(r, from, name, e);
    take_fn *take = decides(p, name);
    if (take && json_is_string(value))
        KR_TRY(take(r, from, json_string_value(value), e));
    else
        KR_TRY(kr_setting_take(k, place_of(r, p), value, from, e));
    r->given[p] |= bit_of(r, p, k);
    return 0;
}

static int take_object(kr_recipe *r, const char *from, json_t *root, krait_error *e) {
    const char *name;
    json_t *value;
    if (!json_is_object(root))
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s: a recipe is a JSON object of keys and values",
                       from);
    for (int i = 0; i < DECIDERS; i++) {
        value = json_object_get(root, deciders[i]);
        if (value) KR_TRY(take_member(r, from, deciders[i], value, e));
    }
    json_object_foreach(root, name, value) {
        if (!is_decider(name)) KR_TRY(take_member(r, from, name, value, e));
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
    part p;
    const char *equals = strchr(assignment, '=');
    size_t n = equals ? (size_t)(equals - assignment) : 0;
    if (!equals || n == 0 || n >= sizeof name)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "--set %.100s: expected key=value", assignment);
    memcpy(name, assignment, n);
    name[n] = 0;
    const kr_setting *k = find_key(r, name, &p);
    if (!k) return unknown_key(r, "--set", name, e);
    take_fn *take = decides(p, name);
    if (take)
        KR_TRY(take(r, "--set", equals + 1, e));
    else
        KR_TRY(kr_setting_parse(k, place_of(r, p), equals + 1, "--set", e));
    r->given[p] |= bit_of(r, p, k);
    return 0;
}

bool kr_recipe_given(const kr_recipe *r, const char *name) {
    part p;
    const kr_setting *k = find_key(r, name, &p);
    return k && was_given(r, p, k);
}

bool kr_recipe_shapes_model(const kr_recipe *r) {
    uint64_t own = bit_of(r, OWN, kr_settings_find(keys, "task", 4)) - 1;
    return r->given[MODEL] || r->given[MIXER] || (r->given[OWN] & own) != 0;
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
    int64_t level = r->steps - (wsd ? r->decay : 0);
    if (r->warmup > level && level >= 0 && !kr_recipe_given(r, "warmup")) r->warmup = level / 10;
    if (r->warmup > level)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "recipe: warmup (%lld) and decay (%lld) are longer than all %lld steps",
                       (long long)r->warmup, (long long)r->decay, (long long)r->steps);
    if (r->min_learning_rate > r->learning_rate)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "recipe: min_learning_rate (%g) is above learning_rate (%g)",
                       r->min_learning_rate, r->learning_rate);
    return 0;
}

/* Keys of text have no effect on a task (a run's recipe.json gives every key: the usual value is no
 * wish). */
static int check_task(const kr_recipe *r, krait_error *e) {
    static const char *const of_text[] = {"tokenizer",    "window",        "held_out",
                                          "carry_state",  "reset",         "tokens",
                                          "sample_every", "sample_tokens", "sample_temperature",
                                          "sample_prompt"};
    kr_recipe usual;
    kr_recipe_default(&usual);
    for (size_t i = 0; *r->task && i < sizeof of_text / sizeof *of_text; i++) {
        const kr_setting *k = kr_settings_find(keys, of_text[i], strlen(of_text[i]));
        if (!kr_setting_equal(k, r, &usual))
            return kr_fail(e, KRAIT_ERR_ARGUMENT, "recipe: %s has no effect with a task", k->name);
    }
    return 0;
}

int kr_recipe_finish(kr_recipe *r, krait_error *e) {
    KR_TRY(check_task(r, e));
    if (r->window > INT64_MAX / r->batch / r->accumulate || r->batch * r->window > INT32_MAX)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "recipe: batch * window is beyond 2^31 tokens");
    int64_t a_step = r->batch * r->window * r->accumulate;
    int64_t steps = r->tokens ? (r->tokens + a_step - 1) / a_step : r->steps;
    if (kr_recipe_given(r, "steps") && r->steps != steps)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "recipe: give steps or tokens, not both");
    r->steps = steps;
    if (r->carry_state && !r->reset)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "recipe: carry_state needs reset = true");
    if (r->dropout_tied && r->dropout == 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "recipe: dropout_tied has no effect: dropout is 0");
    return finish_schedule(r, e);
}

/* `of`: what has the ids. */
static int make_config(const kr_recipe *r, int64_t ids, const char *of, int32_t end, kr_config *c,
                       krait_error *e) {
    int64_t used = r->vocabulary ? r->vocabulary : ids;
    if (used < ids)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "recipe: vocabulary is %lld, %s has %lld ids",
                       (long long)used, of, (long long)ids);
    int64_t rows = (used + r->pad_vocabulary - 1) / r->pad_vocabulary * r->pad_vocabulary;
    *c = r->config;
    c->vocabulary = rows;
    c->vocabulary_used = used;
    c->bos = c->eos = end;
    KR_TRY(kr_config_finish(c, "recipe", e));
    return kr_settings_check_idle(table_of(r, MIXER), r->config.settings, "recipe", e);
}

int kr_recipe_config(const kr_recipe *r, int64_t tokenizer_ids, int32_t end, kr_config *c,
                     krait_error *e) {
    return make_config(r, tokenizer_ids, "the tokenizer", end, c, e);
}

/* What is of ids alone has no effect on a task without them. */
static int check_ids(const kr_recipe *r, const kr_task_source *task, krait_error *e) {
    kr_recipe usual;
    kr_recipe_default(&usual);
    bool padded = r->pad_vocabulary != usual.pad_vocabulary;
    if (task->vocabulary == 0 && (r->vocabulary || padded))
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "recipe: %svocabulary has no effect with task %s, whose input is numbers",
                       r->vocabulary ? "" : "pad_", task->task->name);
    if (kr_task_tells(task) == 0 || r->config.tied) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT,
                   "recipe: tied has no effect with task %s, whose head tells %s", task->task->name,
                   task->classes ? "classes" : "numbers");
}

int kr_recipe_task_config(const kr_recipe *r, const kr_task_source *task, kr_config *c,
                          krait_error *e) {
    kr_recipe own = *r;
    char of[64];
    own.config.channels = task->channels;
    own.config.classes = task->classes;
    own.config.numbers = task->numbers;
    if (task->each_row && !kr_recipe_given(r, "pooling")) own.config.pooling = KR_POOL_EVERY;
    if (task->each_row && own.config.pooling != KR_POOL_EVERY)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "recipe: task %s asks at each row: pooling must be every", task->task->name);
    if ((r->config.channels && r->config.channels != task->channels) ||
        (r->config.classes && r->config.classes != task->classes) ||
        (r->config.numbers && r->config.numbers != task->numbers))
        return kr_fail(
            e, KRAIT_ERR_ARGUMENT,
            "recipe: task %s decides channels (%lld), classes (%lld) and numbers (%lld): "
            "leave them out",
            task->task->name, (long long)task->channels, (long long)task->classes,
            (long long)task->numbers);
    KR_TRY(check_ids(r, task, e));
    snprintf(of, sizeof of, "task %s", task->task->name);
    return make_config(&own, task->vocabulary, of, -1, c, e);
}

/* ---- writing ---- */

json_t *kr_recipe_json(const kr_recipe *r) {
    json_t *root = json_object();
    for (int p = 0; root && p < PARTS; p++)
        if (kr_settings_write(table_of(r, (part)p), values_of(r, (part)p), root) != 0) {
            json_decref(root);
            root = NULL;
        }
    return root;
}

/* Does a resumed run have to agree in this key? */
static bool is_fixed(part p, const kr_setting *k) {
    return p != OWN || k < kr_settings_find(keys, "about", 5);
}

const char *kr_recipe_difference(const kr_recipe *a, const kr_recipe *b, bool fixed, int *from) {
    int at = 0;
    for (int p = 0; p < PARTS; p++) {
        /* Of two mixers or tasks only the names can be compared. */
        bool comparable = table_of(a, (part)p) == table_of(b, (part)p);
        for (const kr_setting *k = table_of(a, (part)p); k->name; k++) {
            if (at++ < *from) continue;
            *from = at;
            if (is_fixed((part)p, k) == fixed && comparable &&
                !kr_setting_equal(k, values_of(a, (part)p), values_of(b, (part)p)))
                return k->name;
        }
    }
    return NULL;
}

/* ---- help ---- */

static size_t add_help(char *text, size_t used, size_t room, const kr_setting *k,
                       const void *defaults) {
    char value[64];
    for (; k->name && used < room; k++) {
        kr_setting_text(k, defaults, value);
        used += (size_t)snprintf(text + used, room - used, "%-24s %-8s %s%s%s\n", k->name,
                                 *value ? value : "\"\"", k->help, k->choices ? ": " : "",
                                 k->choices ? k->choices : "");
    }
    return used;
}

const char *krait_recipe_keys(void) {
    static _Thread_local char text[1 << 15];
    kr_recipe r;
    kr_recipe_default(&r);
    size_t used = add_help(text, 0, sizeof text, kr_config_settings, &r.config);
    used = add_help(text, used, sizeof text, keys, &r);
    for (int i = 0; kr_mixers[i] && used < sizeof text; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used, "\nwith mixer %s\n",
                                 kr_mixers[i]->name);
        kr_config_default(&r.config, kr_mixers[i]->name);
        used = add_help(text, used, sizeof text, kr_mixers[i]->settings, r.config.settings);
    }
    if (used < sizeof text)
        snprintf(text + used, sizeof text - used,
                 "\nwith a task: its settings, as krait task lists them\n");
    return text;
}
