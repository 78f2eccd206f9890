/* train_test.c - what a step computes: accumulation, carried states, outliers, bad numbers, and
 * that it learns. */
#define _DEFAULT_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/test_folder.h"
#include "train/trainer.h"

/* ---- a small model by hand ---- */

typedef struct small {
    kr_config c;
    kr_weights w;
    kr_lm lm;
    kr_lane_states states;
    kr_micro_batches batches;
} small;

static void build(small *s, int64_t count, int64_t lanes, int64_t window, bool carry) {
    krait_error e = {0};
    kr_lm_options o = {.graph = {.training = true, .threads = 2},
                       .tokens = lanes * window,
                       .sequences = lanes,
                       .slots = carry ? lanes : 0,
                       .reset = true,
                       .loss = true};
    memset(s, 0, sizeof *s);
    assert_int_equal(kr_config_make(&s->c, "mamba1", 24, 2, 40, NULL, NULL), 0);
    assert_int_equal(kr_device_level(&o.graph.level, &e), 0);
    assert_int_equal(kr_lm_init_weights(&s->c, 7, &s->w, &e), 0);
    kr_weights_sort(&s->w);
    assert_int_equal(kr_lm_build(&s->lm, &s->c, &o, &e), 0);
    assert_int_equal(kr_lm_bind_weights(&s->lm, &s->w, &e), 0);
    assert_int_equal(kr_graph_plan(s->lm.g, &e), 0);
    assert_int_equal(kr_graph_allocate(s->lm.g, &e), 0);
    assert_int_equal(kr_lane_states_create(&s->states, &s->lm, true, &e), 0);
    kr_batch_shape shape = {.count = count, .lanes = lanes, .rows = lanes * window};
    assert_int_equal(kr_micro_batches_create(&s->batches, &shape, &e), 0);
}

static void drop(small *s) {
    kr_micro_batches_free(&s->batches);
    kr_lane_states_free(&s->states);
    kr_lm_free(&s->lm);
    kr_weights_free(&s->w);
}

/* Token t of sequence k, the same whatever batch it is in. */
static int32_t token(int64_t k, int64_t t) {
    return (int32_t)(kr_hash_string((char[]){(char)(k + 1), (char)(t + 1), 0}) % 40);
}

static void fill(small *s, int64_t i, int64_t first_sequence, int64_t first_token) {
    kr_micro_batches *b = &s->batches;
    int64_t rows = b->shape.rows, window = rows / b->shape.lanes;
    for (int64_t m = 0; m < rows; m++) {
        int64_t k = first_sequence + m / window, t = first_token + m % window;
        b->ids[i * rows + m] = token(k, t);
        b->targets[i * rows + m] = t % 5 == 3 ? -1 : token(k, t + 1);
        b->reset[i * rows + m] = t == 0;
    }
}

static void set_seed(small *s) {
    int64_t valid = 0;
    for (int64_t i = 0; i < s->batches.shape.count * s->batches.shape.rows; i++)
        valid += s->batches.targets[i] >= 0;
    for (int64_t i = 0; i < s->batches.shape.rows; i++) s->batches.seed[i] = 1.0f / (float)valid;
}

static void run_one(small *s, int64_t i) {
    krait_error e = {0};
    assert_int_equal(kr_micro_batches_bind(&s->batches, i, &s->lm, &e), 0);
    if (kr_graph_run(s->lm.g, s->batches.shape.rows, 0, &e) < 0) fail_msg("%s", e.message);
}

/* The largest difference of any gradient, relative to the largest gradient. */
static double gradients_differ(const small *a, const small *b) {
    double worst = 0, largest = 0;
    for (int p = 0; p < kr_graph_param_count(a->lm.g); p++) {
        const kr_param_decl *d;
        const kr_tensor *x =
            kr_value_tensor(kr_graph_gradient(a->lm.g, kr_graph_param_at(a->lm.g, p, &d)));
        const kr_tensor *y =
            kr_value_tensor(kr_graph_gradient(b->lm.g, kr_graph_param_at(b->lm.g, p, &d)));
        for (int64_t i = 0; i < kr_tensor_count(x); i++) {
            double u = (double)((const float *)x->data)[i], v = (double)((const float *)y->data)[i];
            worst = fmax(worst, fabs(u - v));
            largest = fmax(largest, fabs(u));
        }
    }
    assert_true(largest > 0);
    return worst / largest;
}

static void accumulated_equals_one_batch(void **state) {
    (void)state;
    small one, two;
    build(&one, 1, 4, 20, false);
    build(&two, 2, 2, 20, false);
    fill(&one, 0, 0, 0);
    fill(&two, 0, 0, 0);
    fill(&two, 1, 2, 0);
    set_seed(&one);
    set_seed(&two);
    kr_graph_zero_gradients(one.lm.g);
    kr_graph_zero_gradients(two.lm.g);
    run_one(&one, 0);
    run_one(&two, 0);
    run_one(&two, 1);
    double differ = gradients_differ(&one, &two);
    print_message("  largest difference %.2g of the largest gradient\n", differ);
    assert_true(differ <= 1e-6);
    drop(&one);
    drop(&two);
}

static void carried_equals_the_long_window(void **state) {
    (void)state;
    enum { LANES = 3, LONG = 36, SHORT = 12 };
    small whole, parts;
    krait_error e = {0};
    double worst = 0;
    build(&whole, 1, LANES, LONG, true);
    build(&parts, 1, LANES, SHORT, true);
    fill(&whole, 0, 0, 0);
    set_seed(&whole);
    run_one(&whole, 0);
    const float *expected = kr_value_tensor(whole.lm.nll)->data;
    for (int64_t first = 0; first < LONG; first += SHORT) {
        fill(&parts, 0, 0, first);
        set_seed(&parts);
        run_one(&parts, 0);
        assert_int_equal(kr_lane_states_swap(&parts.states, &e), 0);
        const float *nll = kr_value_tensor(parts.lm.nll)->data;
        for (int64_t m = 0; m < LANES * SHORT; m++) {
            float x = expected[m / SHORT * LONG + first + m % SHORT];
            worst = fmax(worst, fabs((double)(nll[m] - x)));
        }
    }
    print_message("  losses of three windows differ from the long one's by %.2g\n", worst);
    assert_true(worst <= 1e-5);
    drop(&whole);
    drop(&parts);
}

/* ---- outliers ---- */

static void outliers_are_found(void **state) {
    (void)state;
    static kr_outlier o;
    kr_rng r = kr_rng_make(5, 6);
    double z = 0;
    int which = -1, found = 0;
    for (int i = 0; i < 1000; i++)
        found += kr_outlier_step(&o, 3 + 0.1 * kr_rng_normal(&r), 1 + 0.1 * kr_rng_normal(&r), 6,
                                 &z, &which);
    assert_int_equal(found, 0);
    assert_false(kr_outlier_step(&o, 3.2, 1.2, 6, &z, &which));
    assert_true(kr_outlier_step(&o, 4.5, 1, 6, &z, &which) && which == 0 && z > 10);
    assert_true(kr_outlier_step(&o, 3, 3, 6, &z, &which) && which == 1);
    assert_false(kr_outlier_step(&o, 90, 90, 0, &z, &which)); /* off */
}

/* ---- whole runs ---- */

static char folder[64];
static const char *const data[] = {KR_SOURCE_DIR "/src/base"};
static double first_eval, last_eval, last_bits;
static int evals, samples;

static int watch(void *user, const krait_train_event *event) {
    (void)user;
    if (event->kind == KRAIT_EVENT_SAMPLE) samples += strlen(event->text) > 2;
    if (event->kind != KRAIT_EVENT_EVAL) return 0;
    if (evals++ == 0) first_eval = event->loss;
    last_eval = event->loss;
    last_bits = event->bits_per_byte;
    return 0;
}

static krait_train_options options(const char *name, const char *const *sets, int64_t n_sets) {
    static char out[128];
    krait_train_options o = KRAIT_TRAIN_OPTIONS_INIT;
    snprintf(out, sizeof out, "%s/%s", folder, name);
    o.recipe = KR_SOURCE_DIR "/recipes/tiny.json";
    o.data = data;
    o.n_data = 1;
    o.out = out;
    o.sets = sets;
    o.n_sets = n_sets;
    o.threads = 1;
    o.on_event = watch;
    return o;
}

static void learns(void **state) {
    (void)state;
    static const char *const sets[] = {"steps=150", "sample_every=75", "sample_prompt=static int ",
                                       "carry_state=true", "batch=8"};
    krait_train_options o = options("learns", sets, 5);
    krait_error e = {0};
    if (krait_train(&o, &e) < 0) fail_msg("%s", e.message);
    print_message("  held-out loss %.3f -> %.3f (%.3f bits per byte), %d evaluations\n", first_eval,
                  last_eval, last_bits, evals);
    assert_true(fabs(first_eval - log(264)) < 0.2);
    assert_true(last_eval < 3.1);
    assert_true(fabs(last_bits - last_eval / log(2)) < 0.05);
    assert_true(evals == 9 && samples == 2);
}

static void starts_from_a_model(void **state) {
    (void)state;
    static const char *const sets[] = {"steps=2", "warmup=1", "batch=8"};
    char model[128];
    krait_train_options o = options("learns", sets, 3);
    krait_error e = {0};
    double before = last_eval;
    snprintf(model, sizeof model, "%s", o.out);
    o = options("goes-on", sets, 3);
    o.init_model = model;
    evals = 0;
    if (krait_train(&o, &e) < 0) fail_msg("%s", e.message);
    print_message("  the model ended with loss %.6f and starts with %.6f\n", before, first_eval);
    assert_true(first_eval == before);
}

/* Held-out text is read as the model will be used, and as krait_eval reads it: its state goes from
 * window to window, even where training begins each window anew. */
static void evaluations_carry_the_state(void **state) {
    (void)state;
    char model[128];
    double loss[2];
    krait_error e = {0};
    snprintf(model, sizeof model, "%s", options("learns", NULL, 0).out);
    for (int i = 0; i < 2; i++) {
        const char *const sets[] = {"steps=1",
                                    "warmup=1",
                                    "batch=1",
                                    "carry_state=false",
                                    "eval_batches=100000",
                                    i ? "window=16" : "window=128"};
        krait_train_options o = options(i ? "short" : "long", sets, 6);
        o.init_model = model;
        evals = 0;
        if (krait_train(&o, &e) < 0) fail_msg("%s", e.message);
        loss[i] = first_eval;
    }
    print_message("  held-out loss in windows of 128 and 16: %.9f, %.9f\n", loss[0], loss[1]);
    assert_true(fabs(loss[0] - loss[1]) < 1e-5 * loss[0]);
}

/* Writes the test vocabulary, with a normaliser that can make text longer, as tokenizer.json. */
static void write_tokenizer(const char *path) {
    static const char absent[] = "\"normalizer\": null";
    kr_map map;
    krait_error e;
    if (kr_map_open(&map, KR_SOURCE_DIR "/tests/data/tokenizer/tokenizer.json", &e) < 0)
        fail_msg("%s", e.message);
    char *text = calloc(map.size + 1, 1);
    memcpy(text, map.data, map.size);
    kr_map_close(&map);
    char *at = strstr(text, absent);
    FILE *f = fopen(path, "wb");
    assert_true(at && f);
    fprintf(f, "%.*s\"normalizer\": {\"type\": \"NFC\"}%s", (int)(at - text), text,
            at + sizeof absent - 1);
    assert_int_equal(fclose(f), 0);
    free(text);
}

/* The tokenizer of a run goes into its checkpoints and into whatever begins with them; a prompt
 * may have more ids than bytes (U+0958 is three bytes and, normalised, six). */
static void the_tokenizer_travels(void **state) {
    (void)state;
#define KA "\xe0\xa5\x98"
#define KA8 KA KA KA KA KA KA KA KA
    static char tokenizer[160], first[160];
    static const char prompt[] = "sample_prompt=" KA8 KA8 KA8 KA8;
    const char *sets[] = {"steps=2",        "warmup=0",        "layers=1", "width=8", "window=8",
                          "sample_every=1", "sample_tokens=1", prompt,     tokenizer};
    krait_train_options o = options("bpe", sets, 9);
    krait_error e = {0};
    snprintf(tokenizer, sizeof tokenizer, "tokenizer=%s/own.json", folder);
    write_tokenizer(tokenizer + 10);
    samples = 0;
    if (krait_train(&o, &e) < 0) fail_msg("%s", e.message);
    assert_int_equal(samples, 2);
    snprintf(first, sizeof first, "%s", o.out);
    o = options("bpe-next", sets, 8);
    o.init_model = first;
    if (krait_train(&o, &e) < 0) fail_msg("%s", e.message);
    o.init_model = NULL; /* the checkpoint knows */
    o.resume = 1;
    if (krait_train(&o, &e) < 0) fail_msg("%s", e.message);
}

/* The data's ids must have rows in the initial model's embedding, whatever the recipe says. */
static void ids_outside_the_initial_model(void **state) {
    (void)state;
    static const char *const sets[] = {"steps=1", "warmup=0", "batch=1", "vocabulary=50000"};
    char path[128], model[128];
    const char *const ids[] = {path};
    krait_error e = {0};
    snprintf(path, sizeof path, "%s/ids.txt", folder);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    for (int i = 0; i < 100; i++) fprintf(f, "%d %d 3 4 5 6 7 8 9\n", 40000 + i, 264);
    fclose(f);
    snprintf(model, sizeof model, "%s/learns", folder);
    krait_train_options o = options("outside", sets, 4);
    o.data = ids;
    o.data_is_ids = 1;
    o.init_model = model;
    assert_int_equal(krait_train(&o, &e), KRAIT_ERR_MISMATCH);
    print_message("  %s\n", e.message);
    assert_non_null(strstr(e.message, "264 ids, the recipe's vocabulary 50000"));
}

static void a_rate_that_nobody_has(void **state) {
    (void)state;
    static const char *const sets[] = {"recurrent_learning_rate=0.5", "steps=1", "warmup=0",
                                       "mixer=lru"};
    krait_error e = {0};
    krait_train_options o = options("rate", sets, 3);
    assert_int_equal(krait_train(&o, &e), KRAIT_ERR_ARGUMENT);
    print_message("  %s\n", e.message);
    assert_non_null(strstr(e.message, "recurrent_learning_rate (0.5) has no effect: mixer mamba1"));
    o = options("rate-of-lru", sets, 4);
    if (krait_train(&o, &e) < 0) fail_msg("%s", e.message);
}

static char notes[2000];

static int take_note(void *user, const krait_train_event *event) {
    (void)user;
    if (event->kind == KRAIT_EVENT_NOTE)
        snprintf(notes + strlen(notes), sizeof notes - strlen(notes), "%s\n", event->text);
    return 0;
}

/* Ids whose number the recipe gives need no tokenizer, and make a model without one. */
static void ids_alone(void **state) {
    (void)state;
    static const char *const sets[] = {"steps=2",       "warmup=0",        "layers=1", "width=8",
                                       "vocabulary=10", "sample_tokens=5", "batch=1",  "window=8"};
    char path[128], first[160];
    const char *const ids[] = {path};
    krait_error e = {0};
    krait_model *m;
    snprintf(path, sizeof path, "%s/few.txt", folder);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    for (int i = 0; i < 100; i++) fprintf(f, "%d 1 2 3 4 5 6 7 8 9\n", i % 10);
    fclose(f);
    krait_train_options o = options("alone", sets, 8);
    o.data = ids;
    o.data_is_ids = 1;
    o.on_event = take_note;
    notes[0] = 0;
    if (krait_train(&o, &e) < 0) fail_msg("%s", e.message);
    print_message("%s", notes);
    assert_non_null(strstr(notes, "no tokenizer"));
    assert_non_null(strstr(notes, "sample_every is 0"));
    krait_model_options mo = KRAIT_MODEL_OPTIONS_INIT;
    mo.tokenizer_optional = 1;
    if (krait_model_open(&m, o.out, &mo, &e) < 0) fail_msg("%s", e.message);
    krait_model_info info;
    krait_model_describe(m, &info);
    assert_true(!krait_model_tokenizer(m) && info.vocabulary_used == 10 && info.end_token == -1);
    krait_model_close(&m);
    snprintf(first, sizeof first, "%s", o.out);
    o.resume = 1; /* all steps are done: the checkpoint alone is read */
    if (krait_train(&o, &e) < 0) fail_msg("%s", e.message);
    snprintf(path, sizeof path, "%s/few.txt", folder);
    const char *const samples_too[] = {"vocabulary=10", "sample_every=1"};
    o = options("alone-samples", samples_too, 2);
    o.data = ids;
    o.data_is_ids = 1;
    o.init_model = first;
    assert_int_equal(krait_train(&o, &e), KRAIT_ERR_ARGUMENT);
    print_message("  %s\n", e.message);
}

/* A byte model stays one, whatever files lie beside it. */
static void a_byte_model_stays_one(void **state) {
    (void)state;
    static const char *const sets[] = {"steps=1", "warmup=0", "batch=1", "window=8"};
    char model[128], stale[160];
    krait_error e = {0};
    krait_model *m;
    snprintf(model, sizeof model, "%s/learns", folder);
    snprintf(stale, sizeof stale, "%s/tokenizer.json", model);
    write_tokenizer(stale);
    krait_train_options o = options("stale", sets, 4);
    o.init_model = model;
    if (krait_train(&o, &e) < 0) fail_msg("%s", e.message);
    assert_int_equal(remove(stale), 0);
    if (krait_model_open(&m, o.out, NULL, &e) < 0) fail_msg("%s", e.message);
    assert_int_equal(krait_tokenizer_vocabulary(krait_model_tokenizer(m)), 257);
    krait_model_close(&m);
}

static void fails_with(const char *set, const char *poisoned, const char *part1,
                       const char *part2) {
    krait_train_options o = options("nan", &set, 1);
    krait_error e = {0};
    kr_trainer t;
    kr_step_result r;
    if (kr_trainer_open(&t, &o, &e) < 0) fail_msg("%s", e.message);
    assert_int_equal(kr_trainer_step(&t, &r, &e), 0);
    const kr_tensor *w = kr_weights_find(&t.model->weights, poisoned);
    assert_non_null(w);
    ((float *)w->data)[3] = NAN;
    assert_int_equal(kr_trainer_step(&t, &r, &e), KRAIT_ERR_NUMERIC);
    print_message("  %s\n", e.message);
    assert_non_null(strstr(e.message, part1));
    assert_non_null(strstr(e.message, part2));
    assert_non_null(strstr(e.message, "step 2"));
    kr_trainer_close(&t);
}

static void says_where_a_nan_began(void **state) {
    (void)state;
    fails_with("carry_state=true", "backbone.layers.1.mixer.x_proj.weight", "layers.1.mixer",
               "backbone.layers.1.mixer.x_proj.weight");
    fails_with("accumulate=2", "backbone.layers.0.norm.weight", "layers.0",
               "backbone.layers.0.norm.weight");
}

static void skipped_steps_change_nothing(void **state) {
    (void)state;
    static const char *const sets[] = {"outlier=3"};
    krait_train_options o = options("skip", sets, 1);
    krait_error e = {0};
    kr_trainer t;
    kr_step_result r;
    if (kr_trainer_open(&t, &o, &e) < 0) fail_msg("%s", e.message);
    for (int i = 0; i < KR_OUTLIER_WINDOW; i++) { /* as if 128 steps had a loss near 1 */
        t.outlier.values[0][i] = 1 + 0.01 * (i % 3);
        t.outlier.values[1][i] = 100;
    }
    t.outlier.count = KR_OUTLIER_WINDOW;
    const kr_tensor *w =
        kr_weights_find(&t.model->weights, "backbone.layers.0.mixer.x_proj.weight");
    float *before = malloc(kr_tensor_bytes(w));
    memcpy(before, w->data, kr_tensor_bytes(w));
    assert_int_equal(kr_trainer_step(&t, &r, &e), 0);
    print_message("  %s\n", r.why);
    assert_true(r.skipped && t.optimiser.updates == 0 && t.step == 1);
    assert_memory_equal(before, w->data, kr_tensor_bytes(w));
    t.recipe.outlier = 0;
    assert_int_equal(kr_trainer_step(&t, &r, &e), 0);
    assert_true(!r.skipped && t.optimiser.updates == 1);
    assert_memory_not_equal(before, w->data, kr_tensor_bytes(w));
    free(before);
    kr_trainer_close(&t);
}

static void decay_spares_what_it_must(void **state) {
    (void)state;
    small s;
    int decayed = 0;
    build(&s, 1, 1, 4, false);
    for (int p = 0; p < kr_graph_param_count(s.lm.g); p++) {
        const kr_param_decl *d;
        kr_graph_param_at(s.lm.g, p, &d);
        bool spared = strstr(d->name, "A_log") || strstr(d->name, "mixer.D") ||
                      strstr(d->name, "bias") || strstr(d->name, "norm") ||
                      strstr(d->name, "embeddings");
        assert_int_equal(d->no_decay, spared);
        decayed += !spared;
    }
    print_message("  %d of %d parameters decay\n", decayed, kr_graph_param_count(s.lm.g));
    assert_int_equal(decayed, 2 * 5); /* in, x, dt and out projections, convolution */
    drop(&s);
}

/* Every allocation of a whole run fails in turn (every few of the later ones): an error, never a
 * crash. */
static void every_allocation_may_fail(void **state) {
    (void)state;
    static const char *const sets[] = {"steps=1",        "warmup=0",       "layers=1",
                                       "width=8",        "batch=1",        "window=16",
                                       "state=4",        "eval_batches=1", "sample_every=1",
                                       "sample_tokens=2"};
    static const char *const one_file[] = {KR_SOURCE_DIR "/src/base/fn.h"};
    krait_train_options o = options("memory", sets, 10);
    krait_error e = {0};
    int failed = 0, survived = 0;
    o.data = one_file;
    o.on_event = NULL;
    (void)kr_mem_fail_after(0);
    if (krait_train(&o, &e) < 0) fail_msg("%s", e.message);
    int64_t all = kr_mem_fail_after(0);
    for (int64_t n = 1; n <= all; n += 1 + n / 50) {
        assert_int_equal(kr_test_folder_drop(o.out), 0);
        kr_mem_fail_after(n);
        int rc = krait_train(&o, &e);
        kr_mem_fail_after(0);
        if (rc != 0 && rc != KRAIT_ERR_MEMORY)
            fail_msg("allocation %lld: %s", (long long)n, e.message);
        failed += rc < 0;
        survived += rc == 0;
    }
    print_message("  of %lld allocations %d were failed: %d errors, %d not needed\n",
                  (long long)all, failed + survived, failed, survived);
    assert_true(failed > 20 && survived <= 8);
}

static int set_up(void **state) {
    (void)state;
    return kr_test_folder_make(folder);
}

static int tear_down(void **state) {
    (void)state;
    return kr_test_folder_drop(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accumulated_equals_one_batch),
        cmocka_unit_test(carried_equals_the_long_window),
        cmocka_unit_test(outliers_are_found),
        cmocka_unit_test(decay_spares_what_it_must),
        cmocka_unit_test(learns),
        cmocka_unit_test(starts_from_a_model),
        cmocka_unit_test(evaluations_carry_the_state),
        cmocka_unit_test(the_tokenizer_travels),
        cmocka_unit_test(ids_outside_the_initial_model),
        cmocka_unit_test(a_rate_that_nobody_has),
        cmocka_unit_test(ids_alone),
        cmocka_unit_test(a_byte_model_stays_one),
        cmocka_unit_test(says_where_a_nan_began),
        cmocka_unit_test(skipped_steps_change_nothing),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
