/* bad_input_test.c - what cannot go together, for every mixer: settings that exclude each other or
 * do not divide, the state of another model, and a kernel that is not a number. Each is one line
 * that names the field, what it is, and what it may be. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <krait/train.h>

#include "mixers/mixer.h"
#include "models/lm.h"
#include "models/model.h"
#include "serve/state_file.h"

enum { WIDTH = 6, VOCABULARY = 264 }; /* bytes and their end, padded */

/* ---- settings ---- */

/* One line, and all of the words in it. */
static void says(const char *message, const char *const words[3], const char *what) {
    for (int i = 0; i < 3; i++)
        if (words[i] && !strstr(message, words[i]))
            fail_msg("%s: \"%s\" lacks \"%s\"", what, message, words[i]);
    if (strchr(message, '\n')) fail_msg("%s: more than a line: \"%s\"", what, message);
    print_message("  %s\n", message);
}

static void settings_that_do_not_go_together(void **state) {
    (void)state;
    static const struct {
        const char *mixer, *set, *words[3]; /* field, value, what is allowed */
    } list[] = {
        {"linear_attention", "heads=4 key=6", {"heads (4)", "key 6", "does not divide"}},
        {"linear_attention",
         "heads=2 key=4 feature=identity",
         {"normaliser is true", "feature identity", "must be elu"}},
        {"linear_attention",
         "heads=2 key=4 decay=gated",
         {"normaliser is true", "decay gated", "must be none or selective"}},
        {"linear_attention",
         "heads=2 key=4 decay=retention",
         {"normaliser is true", "decay retention", "must be none or selective"}},
        {"linear_attention",
         "heads=2 key=4 head_norm=true",
         {"head_norm is true", "block attention", "must be gated or mamba"}},
        {"linear_attention", "heads=2 key=2 value=6 rope=true", {"rope", "is 1", "even"}},
        {"linear_attention", "heads=2 dt_min=0.5", {"dt_min (0.5)", "dt_max (0.1)", "above"}},
        {"mamba2", "inner=12 head_dim=5", {"head_dim (5)", "(12)", "does not divide"}},
        {"mamba2", "inner=12 head_dim=2 groups=4", {"groups (4)", "6 heads", "does not divide"}},
        {"mamba2", "inner=12 head_dim=2 ssm=14", {"ssm (14)", "(12)", "above the inner width"}},
        {"mamba2", "inner=12 head_dim=3 ssm=8", {"head_dim (3)", "(8)", "does not divide"}},
        {"mamba2",
         "inner=12 head_dim=2 dt_least=2 dt_most=1",
         {"dt_least (2)", "dt_most (1)", "above"}},
        {"mamba2", "inner=12 head_dim=2 a_min=3 a_max=2", {"a_min (3)", "a_max (2)", "above"}},
        {"mamba1", "dt_min=1", {"dt_min (1)", "dt_max (0.1)", "above"}},
        {"lru", "r_min=0.9 r_max=0.5", {"r_min (0.9)", "r_max (0.5)", "below"}},
        {"lru", "r_max=1.5", {"r_max", "1.5", "from 0 to 1"}},
        {"lru", "mixing=maxout", {"mixing", "maxout", "glu|half_glu|none"}},
        {"s4d", "state=7", {"state (7)", NULL, "must be even"}},
        {"s4d", "state=8 copies=4", {"copies (4)", "(6)", "does not divide"}},
        {"s4d", "state=8 dt_min=1", {"dt_min (1)", "dt_max (0.1)", "above"}},
        {"s4d", "rate=0", {"rate", "is 0", "from 1e-06"}},
        {"rnn", "cell=gru forget_bias=1", {"forget_bias is 1", NULL, "cell = lstm"}},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        kr_config c;
        krait_error e = {0};
        int rc = kr_config_make(&c, list[i].mixer, WIDTH, 1, VOCABULARY, list[i].set, &e);
        if (rc != KRAIT_ERR_ARGUMENT) fail_msg("%s %s: %d", list[i].mixer, list[i].set, rc);
        says(e.message, list[i].words, list[i].set);
    }
}

/* ---- states ---- */

static krait_model *fresh(const char *mixer, const char *set, uint64_t seed) {
    kr_config c;
    kr_weights w = {0};
    krait_model *m;
    krait_error e;
    if (kr_config_make(&c, mixer, WIDTH, 1, VOCABULARY, set, &e) < 0) fail_msg("%s", e.message);
    if (kr_lm_init_weights(&c, seed, &w, &e) < 0) fail_msg("%s", e.message);
    if (kr_model_from_weights(&m, &c, &w, NULL, &e) < 0) fail_msg("%s", e.message);
    return m;
}

static krait_session *open_session(const krait_model *m) {
    static const int32_t ids[] = {1, 2, 3};
    krait_session_options o = KRAIT_SESSION_OPTIONS_INIT;
    krait_session *s;
    krait_error e;
    if (krait_session_create(&s, m, &o, &e) < 0) fail_msg("%s", e.message);
    krait_span span = {0, ids, 3, KRAIT_WANT_NONE};
    if (krait_session_forward(s, &span, 1, NULL, &e) < 0) fail_msg("%s", e.message);
    return s;
}

/* Of another mixer with as many numbers, of the same with other weights, and of the same weights
 * that are computed with otherwise. */
static void states_of_other_models(void **state) {
    (void)state;
    static const char *const others[][2] = {{"s4d", "state=8 rate=2"},
                                            {"s4d", "state=8 discretisation=bilinear"},
                                            {"lru", "state=24"},
                                            {"rnn", "cell=gru state=48"}};
    char path[64];
    krait_error e = {0};
    snprintf(path, sizeof path, "/tmp/krait-bad-input-%ld", (long)getpid());
    krait_model *m = fresh("s4d", "state=8", 1);
    krait_session *s = open_session(m);
    assert_int_equal(krait_session_save_state(s, 0, path, &e), 0);
    assert_int_equal(krait_session_load_state(s, 0, path, &e), 0);
    krait_session_close(&s);
    for (size_t i = 0; i <= sizeof others / sizeof *others; i++) {
        bool weights = i == sizeof others / sizeof *others;
        krait_model *o =
            weights ? fresh("s4d", "state=8", 2) : fresh(others[i][0], others[i][1], 1);
        s = open_session(o);
        assert_int_equal(krait_session_load_state(s, 0, path, &e), KRAIT_ERR_MISMATCH);
        says(e.message, (const char *const[3]){path, "the state of another model", "this one's"},
             weights ? "other weights" : others[i][1]);
        if (i == 0) says(e.message, (const char *const[3]){"with rate 2: --rate"}, "rate");
        assert_int_equal(krait_session_position(s, 0), 3);
        krait_session_close(&s);
        krait_model_close(&o);
    }
    krait_model_close(&m);
    unlink(path);
}

/* The same model, and the state with other numbers than a session of it keeps. */
static void state_of_another_type(void **state) {
    (void)state;
    char path[64];
    krait_error e = {0};
    krait_model *m = fresh("mamba2", "inner=12 head_dim=2", 1);
    krait_session *s = open_session(m);
    static const float zeros[4096];
    const void *parts[KR_MAX_STATES];
    uint64_t sizes[KR_MAX_STATES];
    kr_state_file f = {.model_hash = m->hash, .dtype = KR_BF16, .position = 3, .next = -1};
    kr_state_decl decl[KR_MAX_STATES];
    f.n_tensors = (uint32_t)kr_mixer_find("mamba2")->states(&m->config, decl);
    for (uint32_t i = 0; i < f.n_tensors; i++) parts[i] = zeros, sizes[i] = 8;
    snprintf(path, sizeof path, "/tmp/krait-bad-input-%ld", (long)getpid());
    assert_int_equal(kr_state_write(&f, parts, sizes, path, &e), 0);
    assert_int_equal(krait_session_load_state(s, 0, path, &e), KRAIT_ERR_MISMATCH);
    says(e.message, (const char *const[3]){path, "states are bf16", "this session's are f32"},
         "bf16");
    assert_int_equal(krait_session_position(s, 0), 3);
    krait_session_close(&s);
    krait_model_close(&m);
    unlink(path);
}

/* ---- numbers ---- */

/* A file with such a weight is refused by its name. */
static void weights_that_are_no_numbers(void **state) {
    (void)state;
    char folder[] = "/tmp/krait-bad-input-XXXXXX", command[80];
    krait_error e = {0};
    krait_model *bad, *m = fresh("s4d", "state=8", 1);
    krait_model_options o = KRAIT_MODEL_OPTIONS_INIT;
    o.without_tokenizer = 1;
    assert_non_null(mkdtemp(folder));
    const kr_tensor *C = kr_weights_find(&m->weights, "backbone.layers.0.mixer.C");
    assert_non_null(C);
    ((float *)C->data)[5] = NAN;
    assert_int_equal(krait_model_save(m, folder, NULL, &e), 0);
    assert_true(krait_model_open(&bad, folder, &o, &e) < 0);
    says(e.message, (const char *const[3]){"backbone.layers.0.mixer.C", "NaN", folder}, "C");
    krait_model_close(&m);
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    assert_int_equal(system(command), 0);
}

/* Weights that are numbers may make a kernel that is none: the step is refused, and says where. */
static void kernels_that_are_no_numbers(void **state) {
    (void)state;
    static const struct {
        const char *mixer, *set, *weight;
        float value;
        const char *op;
    } list[] = {{"s4d", "state=8", "C", 3e38F, "scan"},
                {"lru", "state=8", "theta_log", 1e4F, "of map"}};
    static const int32_t text[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        char name[96];
        krait_error e = {0};
        krait_trainer *t;
        krait_trainer_options o = KRAIT_TRAINER_OPTIONS_INIT;
        krait_model *m = fresh(list[i].mixer, list[i].set, 1);
        snprintf(name, sizeof name, "backbone.layers.0.mixer.%s", list[i].weight);
        const kr_tensor *w = kr_weights_find(&m->weights, name);
        assert_non_null(w);
        for (int64_t k = 0; k < kr_tensor_count(w); k++) ((float *)w->data)[k] = list[i].value;
        o.tokens = 16;
        o.documents = 1;
        if (krait_trainer_create(&t, m, &o, &e) < 0) fail_msg("%s", e.message);
        const int32_t *ids = text;
        int64_t count = 16;
        double loss = 0;
        int rc = krait_trainer_backward(t, &ids, &count, 1, &loss, &e);
        if (rc != KRAIT_ERR_NUMERIC) fail_msg("%s: %d, loss %g", name, rc, loss);
        says(e.message, (const char *const[3]){"loss", "layers.0.mixer", list[i].op}, name);
        krait_trainer_close(&t);
        krait_model_close(&m);
    }
}

/* Evaluation of such a model: no accuracy, no loss, but the place where it ends. */
static void evaluation_of_no_numbers(void **state) {
    (void)state;
    static const char *const tasks[] = {NULL, "lambada"};
    static const char question[] = "{\"text\": \"one two three\"}\n";
    char path[64];
    const char *paths[] = {path};
    krait_model *m = fresh("lru", "state=8", 1);
    krait_error e = {0};
    static const char *const names[] = {"nu_log", "theta_log"};
    for (int i = 0; i < 2; i++) {
        char name[64];
        snprintf(name, sizeof name, "backbone.layers.0.mixer.%s", names[i]);
        const kr_tensor *w = kr_weights_find(&m->weights, name);
        assert_non_null(w);
        for (int64_t k = 0; k < kr_tensor_count(w); k++) ((float *)w->data)[k] = 1e30F;
    }
    assert_int_equal(krait_tokenizer_open(&m->tokenizer, "bytes", &e), 0);
    snprintf(path, sizeof path, "/tmp/krait-bad-input-%ld.jsonl", (long)getpid());
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(question, f);
    fclose(f);
    for (int i = 0; i < 2; i++) {
        krait_eval_options o = KRAIT_EVAL_OPTIONS_INIT;
        krait_eval_result r;
        o.data = paths;
        o.n_data = 1;
        o.task = tasks[i];
        int rc = krait_eval(m, &o, &r, &e);
        if (rc != KRAIT_ERR_NUMERIC) fail_msg("%d, accuracy %g, loss %g", rc, r.accuracy, r.loss);
        says(e.message, (const char *const[3]){"document 0 at position", "not a number", "finite"},
             tasks[i] ? tasks[i] : "loss");
    }
    krait_model_close(&m);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(settings_that_do_not_go_together),
        cmocka_unit_test(states_of_other_models),
        cmocka_unit_test(state_of_another_type),
        cmocka_unit_test(weights_that_are_no_numbers),
        cmocka_unit_test(kernels_that_are_no_numbers),
        cmocka_unit_test(evaluation_of_no_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
