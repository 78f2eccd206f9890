/* model_test.c - opening, checking, describing and saving whole models, in every dialect and type.
 */
#define _DEFAULT_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/test_folder.h"
#include "data/tokenizer/tokenizer.h"
#include "device/device.h"
#include "mixers/mamba1/mamba1.h"
#include "mixers/mamba2/mamba2.h"
#include "mixers/mamba3/mamba3.h"
#include "models/lm.h"
#include "models/model.h"

static const char *const fixtures[] = {"mamba_odd", "mamba_bias", "mamba_falcon",
                                       "mamba_statespaces"};

static krait_model *open_model(const char *path, const krait_model_options *o) {
    krait_model *m;
    krait_error e;
    if (krait_model_open(&m, path, o, &e) < 0) fail_msg("%s", e.message);
    return m;
}

static const krait_model_options without = {.size = sizeof without,
                                            .keep_dtype = 1,
                                            .without_tokenizer = 1};

static void fixture(char path[512], int i) { snprintf(path, 512, KR_TEST_DATA "/%s", fixtures[i]); }

static void same_weights(const krait_model *a, const krait_model *b) {
    assert_int_equal(a->weights.count, b->weights.count);
    for (int64_t i = 0; i < a->weights.count; i++) {
        const kr_weight *x = &a->weights.items[i], *y = &b->weights.items[i];
        assert_string_equal(x->name, y->name);
        assert_int_equal(x->tensor.dtype, y->tensor.dtype);
        assert_true(kr_tensor_same_shape(&x->tensor, &y->tensor));
        assert_memory_equal(x->tensor.data, y->tensor.data, kr_tensor_bytes(&x->tensor));
    }
    assert_true(a->hash == b->hash);
}

/* Every dialect opens; what is saved opens again as the same model, whole or in shards. */
static void fixtures_round_trip(void **state) {
    (void)state;
    char path[512], folder[64];
    assert_int_equal(kr_test_folder_make(folder), 0);
    for (int i = 0; i < 4; i++) {
        fixture(path, i);
        krait_model *m = open_model(path, &without);
        krait_model_info info;
        krait_model_describe(m, &info);
        print_message("%s: %s, %lld parameters, hash %016llx\n", fixtures[i], info.architecture,
                      (long long)info.parameters, (unsigned long long)info.hash);
        assert_int_equal(info.parameters, kr_lm_parameter_count(&m->config));
        assert_int_equal(info.weight_bytes, 4 * info.parameters);
        krait_save_options so = KRAIT_SAVE_OPTIONS_INIT;
        so.shard_bytes = i % 2 ? 5000 : 0;
        krait_error e;
        if (krait_model_save(m, folder, &so, &e) < 0) fail_msg("%s", e.message);
        krait_model *back = open_model(folder, &without);
        same_weights(m, back);
        assert_int_equal(m->config.vocabulary_used, back->config.vocabulary_used);
        krait_model_close(&back);
        krait_model_close(&m);
    }
    assert_int_equal(kr_test_folder_drop(folder), 0);
}

/* A fresh model of two layers, saved as its authors' code wants it and opened again. */
static void through_state_spaces(const char *folder, const kr_mixer *mixer, const char *variant) {
    kr_config c;
    kr_weights w = {0};
    krait_model *m;
    krait_error e;
    krait_save_options so = KRAIT_SAVE_OPTIONS_INIT;
    if (kr_config_make(&c, mixer->name, 6, 2, 32, variant, &e) < 0) fail_msg("%s", e.message);
    c.vocabulary_used = 29;
    assert_int_equal(kr_lm_init_weights(&c, 3, &w, &e), 0);
    assert_int_equal(kr_model_from_weights(&m, &c, &w, NULL, &e), 0);
    so.layout = KRAIT_LAYOUT_STATE_SPACES;
    int rc = krait_model_save(m, folder, &so, &e);
    bool words = kr_mamba1_of(&c).inner % c.width == 0 && c.norm_eps == 1e-5;
    if (strcmp(mixer->name, "mamba2") == 0) words = kr_mamba2_of(&c).inner % c.width == 0;
    if (strcmp(mixer->name, "mamba3") == 0) words = kr_mamba3_of(&c).inner % c.width == 0;
    if (strstr(variant, "mixer_rms_eps") || strstr(variant, "rate=softplus")) words = false;
    if (strstr(variant, "channel_mixer") && c.channel_width != 128) words = false;
    print_message("%s %s: %s\n", mixer->name, variant, rc < 0 ? e.message : "the same again");
    assert_true((rc == 0) == words);
    if (rc == 0) {
        krait_model *back = open_model(folder, &without);
        same_weights(m, back);
        assert_true(back->singular);
        for (const kr_setting *k = mixer->settings; k->name; k++)
            if (!kr_setting_equal(k, c.settings, back->config.settings)) fail_msg("%s", k->name);
        assert_true(back->config.vocabulary == 32 && back->config.vocabulary_used == 29);
        assert_true(back->config.channel_mixer == c.channel_mixer &&
                    back->config.channel_width == c.channel_width);
        krait_model_close(&back);
    }
    krait_model_close(&m);
}

/* mamba2.md sections A7 and B5, mamba.md section 9: the original layout, written and read. */
static void state_spaces_round_trip(void **state) {
    (void)state;
    char folder[64], path[128];
    krait_error e;
    assert_int_equal(kr_test_folder_make(folder), 0);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    FILE *old = fopen(path, "w");
    assert_non_null(old);
    fclose(old);
    static const char *const third[] = {
        "inner=12 head_dim=4 state=6 rank=4 turned=all out_norm=true a_floor=0.01 tied=false",
        "inner=12 head_dim=4 state=6 groups=3 channel_mixer=gated_mlp channel_width=128",
        "inner=12 head_dim=4 state=6 channel_mixer=gated_mlp channel_width=100",
        "inner=12 head_dim=4 state=6 channel_mixer=glu",
        "inner=12 head_dim=4 state=6 rate=softplus",
        NULL};
    static const char *const more[] = {"inner=12 head_dim=2 state=3",
                                       "inner=12 ssm=8 head_dim=4 state=3 conv_init=0.25",
                                       "inner=6 head_dim=3 state=4 dt_least=0.01 tied=false",
                                       "inner=12 head_dim=4 groups=3 dt_most=0.5", NULL};
    for (int i = 0; more[i]; i++) through_state_spaces(folder, kr_mixer_find("mamba2"), more[i]);
    assert_int_not_equal(access(path, F_OK), 0); /* it would be read before the new one */
    through_state_spaces(folder, kr_mixer_find("mamba1"), "inner=12 state=3 tied=false");
    for (int i = 0; third[i]; i++) through_state_spaces(folder, kr_mixer_find("mamba3"), third[i]);
    for (int k = 0; k < 3; k++) {
        const kr_mixer *mixer = kr_mixer_find((const char *[]){"mamba1", "mamba2", "mamba3"}[k]);
        for (const char *const *v = mixer->variants; *v; v++)
            through_state_spaces(folder, mixer, *v);
    }
    kr_config c;
    assert_int_equal(kr_config_make(&c, "lru", 6, 2, 32, "state=5", &e), 0);
    assert_int_equal(kr_config_check_state_spaces(&c, folder, &e), KRAIT_ERR_UNSUPPORTED);
    assert_non_null(strstr(e.message, "this model is lru"));
    assert_int_equal(kr_test_folder_drop(folder), 0);
}

/* What no config.json of state-spaces can say is given on opening, and stays with the model. */
static void settings_on_opening(void **state) {
    (void)state;
    static const char *const old_rate[] = {"rate=softplus"}, *const bad[] = {"rate=linear"},
                             *const told[] = {"inner=24"};
    char folder[64], again[64];
    kr_config c;
    kr_weights w = {0};
    krait_model *m;
    krait_error e;
    krait_save_options so = {.size = sizeof so, .keep_dtype = 1};
    krait_model_options o = without;
    assert_int_equal(kr_test_folder_make(folder), 0);
    assert_int_equal(kr_test_folder_make(again), 0);
    assert_int_equal(kr_config_make(&c, "mamba3", 6, 2, 32, "inner=12 head_dim=4 state=6", &e), 0);
    assert_int_equal(kr_lm_init_weights(&c, 3, &w, &e), 0);
    assert_int_equal(kr_model_from_weights(&m, &c, &w, NULL, &e), 0);
    so.layout = KRAIT_LAYOUT_STATE_SPACES;
    assert_int_equal(krait_model_save(m, folder, &so, &e), 0);
    uint64_t usual = m->hash;
    krait_model_close(&m);
    o.n_sets = 1;
    o.sets = old_rate;
    m = open_model(folder, &o);
    assert_int_equal(kr_mamba3_of(&m->config).rate, KR_RATE_SOFTPLUS);
    assert_true(m->hash != usual);
    assert_int_equal(krait_model_save(m, again, NULL, &e), 0);
    krait_model *back = open_model(again, &without);
    same_weights(m, back);
    assert_int_equal(kr_mamba3_of(&back->config).rate, KR_RATE_SOFTPLUS);
    krait_model_close(&back);
    krait_model_close(&m);
    o.sets = bad;
    assert_int_equal(krait_model_open(&m, folder, &o, &e), KRAIT_ERR_ARGUMENT);
    assert_non_null(strstr(e.message, "heavy_tail|softplus"));
    o.sets = told;
    assert_int_equal(krait_model_open(&m, folder, &o, &e), KRAIT_ERR_ARGUMENT);
    assert_non_null(strstr(e.message, "groups, state, turned, rate, a_floor"));
    o.sets = NULL;
    assert_int_equal(krait_model_open(&m, folder, &o, &e), KRAIT_ERR_ARGUMENT);
    assert_int_equal(kr_test_folder_drop(folder), 0);
    assert_int_equal(kr_test_folder_drop(again), 0);
}

/* Half-precision matrices, f32 for the rest; converting on save and on load give the same bytes. */
static void half_types(void **state) {
    (void)state;
    char path[512], folder[64];
    assert_int_equal(kr_test_folder_make(folder), 0);
    fixture(path, 0);
    for (int pass = 0; pass < 2; pass++) {
        krait_dtype type = pass ? KRAIT_F16 : KRAIT_BF16;
        krait_model_options mo = without;
        mo.keep_dtype = 0;
        mo.dtype = type;
        krait_model *m = open_model(path, &without), *half = open_model(path, &mo);
        krait_save_options so = KRAIT_SAVE_OPTIONS_INIT;
        so.keep_dtype = 0;
        so.dtype = type;
        assert_int_equal(krait_model_save(m, folder, &so, NULL), 0);
        krait_model *back = open_model(folder, &without);
        same_weights(half, back);
        krait_model_info info;
        krait_model_describe(back, &info);
        assert_string_equal(info.dtype, pass ? "f16" : "bf16");
        assert_true(info.weight_bytes < 4 * info.parameters);
        assert_true(m->hash != back->hash);
        krait_model_close(&back);
        krait_model_close(&half);
        krait_model_close(&m);
    }
    assert_int_equal(kr_test_folder_drop(folder), 0);
}

/* ---- a model made here ---- */

static void write_file(const char *path, const unsigned char *bytes, size_t size) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

static void small_config(kr_config *c) {
    assert_int_equal(kr_config_make(c, "mamba1", 24, 2, 264, "state=5", NULL), 0);
}

static krait_model *make_model(const kr_config *c, bool bytes) {
    kr_weights w = {0};
    krait_model *m;
    krait_tokenizer *t = NULL;
    krait_error e;
    if (bytes && krait_tokenizer_open(&t, "bytes", &e) < 0) fail_msg("%s", e.message);
    if (kr_lm_init_weights(c, 3, &w, &e) < 0) fail_msg("%s", e.message);
    if (kr_model_from_weights(&m, c, &w, t, &e) < 0) fail_msg("%s", e.message);
    return m;
}

/* Saves m into a new folder after `change` damaged its weights, and expects opening to be refused
 * with `part`. */
static void refused_after(void (*change)(kr_weights *w), int code, const char *part) {
    kr_config c;
    char folder[64];
    krait_error e;
    small_config(&c);
    krait_model *m = make_model(&c, true);
    assert_int_equal(kr_test_folder_make(folder), 0);
    assert_int_equal(krait_model_save(m, folder, NULL, NULL), 0);
    change(&m->weights);
    assert_int_equal(kr_weights_write_folder(&m->weights, folder, 0, NULL), 0);
    krait_model *bad;
    int rc = krait_model_open(&bad, folder, NULL, &e);
    if (rc != code || !strstr(e.message, part) || !strstr(e.message, folder) || bad)
        fail_msg("%d \"%s\", expected %d and \"%s\"", rc, e.message, code, part);
    krait_model_close(&m);
    assert_int_equal(kr_test_folder_drop(folder), 0);
}

static float *data_of(kr_weights *w, const char *name) {
    const kr_tensor *t = kr_weights_find(w, name);
    assert_non_null(t);
    return t->data;
}

static void put_nan(kr_weights *w) {
    data_of(w, "backbone.layers.1.mixer.in_proj.weight")[1000] = (float)strtod("nan", NULL);
}
static void put_infinity(kr_weights *w) {
    data_of(w, "backbone.norm_f.weight")[0] = -(float)strtod("inf", NULL);
}
static void take_away(kr_weights *w) { kr_weights_remove(w, "backbone.layers.1.mixer.D"); }
static void add_more(kr_weights *w) {
    kr_tensor t = *kr_weights_find(w, "backbone.norm_f.weight");
    kr_weights_add(w, "backbone.extra", &t, NULL);
    kr_weights_sort(w);
}
static void untie(kr_weights *w) {
    kr_tensor t = *kr_weights_find(w, "backbone.embeddings.weight");
    kr_tensor other = *kr_weights_find(w, "backbone.layers.0.mixer.in_proj.weight");
    assert_true(kr_tensor_bytes(&t) > kr_tensor_bytes(&other) / 2);
    t.data = kr_weights_block(w, kr_tensor_bytes(&t), "head", NULL);
    memset(t.data, 0, kr_tensor_bytes(&t));
    kr_weights_add(w, "lm_head.weight", &t, NULL);
    kr_weights_sort(w);
}
static void transpose(kr_weights *w) {
    kr_tensor *t = (kr_tensor *)(uintptr_t)kr_weights_find(w, "backbone.layers.0.mixer.A_log");
    *t = kr_tensor_make(t->data, t->dtype, 2, (int64_t[]){t->shape[1], t->shape[0]});
}
static void make_integer(kr_weights *w) {
    kr_tensor *t = (kr_tensor *)(uintptr_t)kr_weights_find(w, "backbone.layers.0.norm.weight");
    t->dtype = KR_I32;
}

static void bad_weights(void **state) {
    (void)state;
    refused_after(put_nan, KRAIT_ERR_NUMERIC,
                  "tensor backbone.layers.1.mixer.in_proj.weight holds a NaN or an infinity "
                  "(element 1000 of");
    refused_after(put_infinity, KRAIT_ERR_NUMERIC, "backbone.norm_f.weight");
    refused_after(take_away, KRAIT_ERR_FORMAT, "backbone.layers.1.mixer.D is missing");
    refused_after(add_more, KRAIT_ERR_FORMAT, "backbone.extra");
    refused_after(untie, KRAIT_ERR_MISMATCH, "lm_head.weight differs");
    refused_after(transpose, KRAIT_ERR_SHAPE, "backbone.layers.0.mixer.A_log");
    refused_after(make_integer, KRAIT_ERR_FORMAT, "backbone.layers.0.norm.weight");
}

/* The byte-level tokenizer is a word in config.json; a head equal to the embedding is dropped. */
static void bytes_and_ties(void **state) {
    (void)state;
    kr_config c;
    char folder[64];
    small_config(&c);
    krait_model *m = make_model(&c, true);
    kr_tensor t = *kr_weights_find(&m->weights, "backbone.embeddings.weight");
    assert_int_equal(kr_test_folder_make(folder), 0);
    assert_int_equal(krait_model_save(m, folder, NULL, NULL), 0);
    kr_weights_add(&m->weights, "lm_head.weight", &t, NULL);
    assert_int_equal(kr_weights_write_folder(&m->weights, folder, 0, NULL), 0);
    krait_model *back = open_model(folder, NULL);
    krait_model_info info;
    krait_model_describe(back, &info);
    assert_true(back->hash == m->hash);
    assert_non_null(krait_model_tokenizer(back));
    assert_int_equal(info.vocabulary, 264);
    assert_int_equal(info.vocabulary_used, krait_tokenizer_vocabulary(back->tokenizer));
    assert_int_equal(info.end_token, 256);
    assert_int_equal(back->weights.count, m->weights.count - 1);
    krait_tensor_info ti;
    assert_int_equal(krait_model_tensor_count(back), back->weights.count);
    assert_int_equal(krait_model_tensor(back, 0, &ti), 0);
    assert_string_equal(ti.name, "backbone.embeddings.weight");
    assert_true(ti.rank == 2 && ti.shape[0] == 264 && ti.shape[1] == 24 &&
                ti.bytes == 264 * 24 * 4);
    assert_int_equal(krait_model_tensor(back, -1, &ti), KRAIT_ERR_ARGUMENT);
    assert_int_equal(krait_model_tensor(back, back->weights.count, &ti), KRAIT_ERR_ARGUMENT);
    krait_model_close(&back);
    krait_model_close(&m);
    assert_int_equal(kr_test_folder_drop(folder), 0);
}

/* tokenizer.json travels with the model, byte by byte; too large a vocabulary for it is refused. */
static void tokenizer_travels(void **state) {
    (void)state;
    kr_config c;
    char folder[64], path[128];
    kr_weights w = {0};
    krait_model *m;
    krait_tokenizer *t;
    krait_error e;
    assert_int_equal(kr_test_folder_make(folder), 0);
    if (krait_tokenizer_open(&t, KR_TEST_DATA "/tokenizer/tokenizer.json", &e) < 0)
        fail_msg("%s", e.message);
    small_config(&c);
    c.vocabulary = c.vocabulary_used = krait_tokenizer_vocabulary(t) - 1;
    assert_int_equal(kr_lm_init_weights(&c, 3, &w, &e), 0);
    assert_int_equal(kr_model_from_weights(&m, &c, &w, t, &e), KRAIT_ERR_MISMATCH);
    assert_true(w.count > 0); /* still the caller's */
    kr_weights_free(&w);
    c.vocabulary = c.vocabulary_used = krait_tokenizer_vocabulary(t) + 3;
    assert_int_equal(kr_lm_init_weights(&c, 3, &w, &e), 0);
    assert_int_equal(kr_model_from_weights(&m, &c, &w, t, &e), 0);
    assert_int_equal(krait_model_save(m, folder, NULL, NULL), 0);
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    kr_map a, b;
    assert_int_equal(kr_map_open(&a, path, NULL), 0);
    assert_int_equal(kr_map_open(&b, KR_TEST_DATA "/tokenizer/tokenizer.json", NULL), 0);
    assert_int_equal(a.size, b.size);
    assert_memory_equal(a.data, b.data, a.size);
    kr_map_close(&a);
    kr_map_close(&b);
    krait_model *back = open_model(folder, NULL);
    assert_int_equal(back->config.vocabulary_used, back->config.vocabulary - 3);
    assert_int_equal(back->tokenizer->hash, m->tokenizer->hash);
    same_weights(m, back);
    krait_model_close(&back);
    krait_model_close(&m);
    const char *stale = kr_test_path(folder, "vocab.json"); /* beside a byte model */
    small_config(&c);
    m = make_model(&c, true);
    assert_int_equal(krait_model_save(m, folder, NULL, NULL), 0);
    krait_model_close(&m);
    assert_int_equal(access(path, F_OK), -1);
    write_file(stale, (const unsigned char *)"{}", 2);
    m = open_model(folder, NULL);
    assert_int_equal(m->n_companions, 0); /* it would travel */
    assert_int_equal(krait_model_save(m, folder, NULL, NULL), 0);
    assert_int_equal(access(stale, F_OK), -1);
    krait_model_close(&m);
    small_config(&c); /* in its place one that reads ids alone */
    m = make_model(&c, false);
    assert_int_equal(krait_model_save(m, folder, NULL, NULL), 0);
    assert_false(kr_is_file(path));
    krait_model_close(&m);
    assert_int_equal(kr_test_folder_drop(folder), 0);
}

static void shipped_names(void **state) {
    (void)state;
    krait_model *m;
    krait_error e;
    setenv("KRAIT_MODELS", KR_TEST_DATA, 1);
    m = open_model("mamba_odd", &without);
    krait_model_close(&m);
    unsetenv("KRAIT_MODELS");
    static const char *const gone[] = {"mamba_odd", "no/such/model", "", ".."};
    for (int i = 0; i < 4; i++) {
        assert_true(krait_model_open(&m, gone[i], NULL, &e) < 0);
        assert_null(m);
    }
    m = open_model(KR_TEST_DATA "/mamba_odd/model.safetensors", &without);
    krait_model_close(&m);
    m = open_model(KR_TEST_DATA "/mamba_statespaces/pytorch_model.bin", &without);
    krait_model_close(&m);
    assert_int_equal(krait_model_open(&m, KR_TEST_DATA "/mamba_odd", NULL, &e), KRAIT_ERR_IO);
    assert_non_null(strstr(e.message, "tokenizer.json"));
}

/* Any single bit of any tensor changes the hash. */
static void hash_sees_all(void **state) {
    (void)state;
    kr_config c;
    small_config(&c);
    krait_model *m = make_model(&c, false);
    int flips = 0;
    for (int64_t i = 0; i < m->weights.count; i++) {
        const kr_weight *w = &m->weights.items[i];
        unsigned char *p = w->tensor.data;
        size_t n = kr_tensor_bytes(&w->tensor), places[] = {0, n / 3, n - 1};
        for (int k = 0; k < 3; k++, flips++) {
            uint64_t one, three;
            krait_error e;
            p[places[k]] ^= 1;
            assert_int_equal(kr_weights_scan(&m->weights, 1, &one, &e), 0);
            assert_int_equal(kr_weights_scan(&m->weights, 3, &three, &e), 0);
            p[places[k]] ^= 1;
            assert_true(one == three);
            kr_weights_scan(&m->weights, 2, &three, &e);
            assert_true(one != three);
        }
    }
    print_message("%d flipped bits, each seen\n", flips);
    krait_model_close(&m);
}

/* ---- damage ---- */

static unsigned char *read_file(const char *path, size_t *size) {
    kr_map map;
    assert_int_equal(kr_map_open(&map, path, NULL), 0);
    unsigned char *bytes = malloc(map.size);
    memcpy(bytes, map.data, map.size);
    *size = map.size;
    kr_map_close(&map);
    return bytes;
}

/* A model whose file was cut, or had a byte of its header changed, is refused in one line; a change
 * that does not matter (a space, the metadata) gives the very same model. */
static void damaged_files(void **state) {
    (void)state;
    char folder[64], path[128];
    krait_error e;
    assert_int_equal(kr_test_folder_make(folder), 0);
    krait_model *m = open_model(KR_TEST_DATA "/mamba_statespaces", &without), *bad;
    assert_int_equal(krait_model_save(m, folder, NULL, NULL), 0);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    size_t size, header;
    unsigned char *bytes = read_file(path, &size);
    header = 8 + bytes[0] + 256u * bytes[1];
    int refused = 0, same = 0;
    for (size_t i = 0; i < header; i++) {
        bytes[i] ^= 1;
        write_file(path, bytes, size);
        bytes[i] ^= 1;
        int rc = krait_model_open(&bad, folder, &without, &e);
        if (rc == 0) same_weights(m, bad);
        if (rc < 0 && (!strstr(e.message, folder) || strchr(e.message, '\n')))
            fail_msg("%s", e.message);
        refused += rc < 0;
        same += rc == 0;
        krait_model_close(&bad);
    }
    for (size_t n = 0; n < size; n += 1 + size / 300) {
        write_file(path, bytes, n);
        assert_true(krait_model_open(&bad, folder, &without, &e) < 0);
        refused++;
    }
    print_message("%d damaged files refused, %d changed bytes do not matter\n", refused, same);
    assert_true(refused > 1000 && same < 100);
    free(bytes);
    krait_model_close(&m);
    assert_int_equal(kr_test_folder_drop(folder), 0);
}

/* A disk that is full in the middle of saving: an error, the old model whole, nothing left lying
 * about. */
static void full_disk(void **state) {
    (void)state;
    char folder[64], command[160];
    krait_error e;
    assert_int_equal(kr_test_folder_make(folder), 0);
    krait_model *m = open_model(KR_TEST_DATA "/mamba_odd", &without), *old;
    assert_int_equal(krait_model_save(m, folder, NULL, NULL), 0);
    struct rlimit before, tight;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    for (int shards = 0; shards < 2; shards++) {
        krait_save_options so = KRAIT_SAVE_OPTIONS_INIT;
        so.shard_bytes = shards ? 9000 : 0;
        tight = before;
        tight.rlim_cur = shards ? 8000 : 20000;
        setrlimit(RLIMIT_FSIZE, &tight);
        int rc = krait_model_save(m, folder, &so, &e);
        setrlimit(RLIMIT_FSIZE, &before);
        assert_int_equal(rc, KRAIT_ERR_IO);
        assert_non_null(strstr(e.message, "File too large"));
        old = open_model(folder, &without);
        same_weights(m, old);
        krait_model_close(&old);
        snprintf(command, sizeof command, "test $(ls '%s' | wc -l) = 2", folder);
        assert_int_equal(system(command), 0);
    }
    krait_model_close(&m);
    assert_int_equal(kr_test_folder_drop(folder), 0);
}

static int open_and_save(const char *path, const char *folder) {
    krait_model *m;
    krait_error e;
    krait_model_options o = without;
    o.keep_dtype = 0;
    o.dtype = KRAIT_BF16;
    int rc = krait_model_open(&m, path, &o, &e);
    if (rc == 0) rc = krait_model_save(m, folder, NULL, &e);
    krait_model_close(&m);
    return rc;
}

static void no_memory(void **state) {
    (void)state;
    char path[512], folder[64];
    assert_int_equal(kr_test_folder_make(folder), 0);
    json_set_alloc_funcs(kr_malloc, kr_free);
    for (int i = 0; i < 4; i++) {
        fixture(path, i);
        int64_t n = 0, made = 1, failed = 0;
        while (made >= n) {
            kr_mem_fail_after(++n);
            failed += open_and_save(path, folder) < 0;
            made = kr_mem_fail_after(0);
        }
        print_message("%s: %lld errors in %lld allocations\n", fixtures[i], (long long)failed,
                      (long long)made);
        assert_true(failed > 100);
    }
    json_set_alloc_funcs(malloc, free);
    assert_int_equal(kr_test_folder_drop(folder), 0);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* What hashing and the search for NaN cost. */
static void scan_speed(void **state) {
    (void)state;
    const int64_t n = 64 << 20 >> 2;
    kr_weights w = {0};
    float *p = kr_weights_block(&w, (size_t)n * 4, "test", NULL);
    for (int64_t i = 0; i < n; i++) p[i] = (float)i;
    kr_tensor t = kr_tensor_make(p, KR_F32, 1, &n);
    kr_weights_add(&w, "t", &t, NULL);
    double best = 1e9;
    uint64_t hash;
    for (int run = 0; run < 5; run++) {
        double start = now();
        assert_int_equal(kr_weights_scan(&w, kr_device_threads(), &hash, NULL), 0);
        double seconds = now() - start;
        if (seconds < best) best = seconds;
    }
    print_message("64 MB hashed and searched for NaN at %.1f GB/s, %d threads\n",
                  (double)n * 4 / best * 1e-9, kr_device_threads());
    assert_true(best > 0);
    kr_weights_free(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fixtures_round_trip),
        cmocka_unit_test(half_types),
        cmocka_unit_test(bad_weights),
        cmocka_unit_test(bytes_and_ties),
        cmocka_unit_test(shipped_names),
        cmocka_unit_test(hash_sees_all),
        cmocka_unit_test(no_memory),
        cmocka_unit_test(scan_speed),
        cmocka_unit_test(damaged_files),
        cmocka_unit_test(full_disk),
        cmocka_unit_test(settings_on_opening),
        cmocka_unit_test(tokenizer_travels),
        cmocka_unit_test(state_spaces_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
