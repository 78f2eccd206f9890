/* config_test.c - every dialect of config.json, its traps, its hostile forms, and writing it back.
 */
#define _DEFAULT_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/mem.h"
#include "base/test_folder.h"
#include "mixers/mamba1/mamba1.h"
#include "mixers/mamba2/mamba2.h"
#include "mixers/mamba3/mamba3.h"
#include "models/config.h"
#include "models/lm.h"

static int read_text(kr_config *c, const char *text, krait_error *e) {
    memset(e, 0, sizeof *e);
    return kr_config_read_bytes(c, text, strlen(text), "config.json", e);
}

static void accepted(kr_config *c, const char *text) {
    krait_error e;
    if (read_text(c, text, &e) < 0) fail_msg("%s: %s", text, e.message);
}

static void refused(const char *text, const char *part) {
    kr_config c;
    krait_error e;
    int rc = read_text(&c, text, &e);
    if (rc >= 0 || rc != (int)e.code || !strstr(e.message, part) ||
        !strstr(e.message, "config.json"))
        fail_msg("%s: %d, \"%s\", expected \"%s\"", text, rc, e.message, part);
}

static void hugging_face(void **state) {
    (void)state;
    kr_config c;
    accepted(&c, "{\"model_type\":\"mamba\"}"); /* the class defaults */
    assert_string_equal(c.architecture, "MambaForCausalLM");
    assert_string_equal(c.mixer, "mamba1");
    assert_int_equal(c.width, 768);
    assert_int_equal(c.layers, 32);
    assert_int_equal(c.vocabulary, 50280);
    assert_int_equal(c.eos, 0);
    kr_mamba1 m = kr_mamba1_of(&c);
    assert_int_equal(m.inner, 1536);
    assert_int_equal(m.dt_rank, 48);
    assert_true(c.tied && m.conv_bias && m.linear_bias_unsaid);
    assert_true(m.mixer_rms_eps == 0 && c.norm_eps == 1e-5);
    accepted(&c, "{\"architectures\":[\"MambaForCausalLM\"],\"hidden_size\":17,\"use_bias\":true,"
                 "\"expand\":1.5,\"eos_token_id\":[5,6],\"bos_token_id\":null,\"vocab_size\":40,"
                 "\"time_step_rank\":\"auto\",\"time_step_init_scheme\":\"constant\"}");
    m = kr_mamba1_of(&c);
    assert_int_equal(m.inner, 25);
    assert_int_equal(m.dt_rank, 2);
    assert_int_equal(c.eos, 5);
    assert_int_equal(c.bos, -1);
    assert_true(m.linear_bias && !m.linear_bias_unsaid && m.dt_init == 1);
}

static void falcon(void **state) {
    (void)state;
    kr_config c; /* "expand" lies, intermediate_size wins */
    accepted(&c,
             "{\"model_type\":\"falcon_mamba\",\"architectures\":[\"FalconMambaForCausalLM\"],"
             "\"hidden_size\":4096,\"intermediate_size\":8192,\"expand\":16,\"vocab_size\":65024,"
             "\"time_step_rank\":256,\"eos_token_id\":11,\"tie_word_embeddings\":false}");
    kr_mamba1 m = kr_mamba1_of(&c);
    assert_int_equal(m.inner, 8192);
    assert_int_equal(m.dt_rank, 256);
    assert_false(c.tied);
    assert_true(m.mixer_rms_eps == 1e-6);
    assert_string_equal(c.architecture, "FalconMambaForCausalLM");
}

static void state_spaces(void **state) {
    (void)state;
    kr_config c;
    accepted(&c, "{\"d_model\":768,\"n_layer\":24,\"vocab_size\":50277,\"ssm_cfg\":{},"
                 "\"rms_norm\":true,\"residual_in_fp32\":true,\"fused_add_norm\":true,"
                 "\"pad_vocab_size_multiple\":8}");
    assert_int_equal(c.vocabulary, 50280);
    assert_int_equal(c.vocabulary_used, 50277);
    kr_mamba1 m = kr_mamba1_of(&c);
    assert_int_equal(m.inner, 1536);
    assert_true(c.tied && !m.linear_bias && !m.linear_bias_unsaid);
    accepted(&c, "{\"d_model\":64,\"n_layer\":2,\"vocab_size\":16,\"tie_embeddings\":false,"
                 "\"ssm_cfg\":{\"layer\":\"Mamba1\",\"d_state\":8,\"d_conv\":3,\"expand\":1,"
                 "\"dt_rank\":7,\"dt_init\":\"constant\",\"bias\":true,\"conv_bias\":false},"
                 "\"attn_layer_idx\":[],\"d_intermediate\":0}");
    assert_int_equal(c.vocabulary, 16);
    m = kr_mamba1_of(&c);
    assert_int_equal(m.state, 8);
    assert_int_equal(m.kernel, 3);
    assert_int_equal(m.inner, 64);
    assert_int_equal(m.dt_rank, 7);
    assert_true(!c.tied && m.linear_bias && !m.conv_bias && m.dt_init == 1);
}

#define SS "{\"d_model\":64,\"n_layer\":2,\"vocab_size\":16,"

/* mamba2.md check 7: the totals of its table, and the vocabulary of the original layout. */
static void mamba2(void **state) {
    (void)state;
    static const int64_t sizes[][3] = {{768, 24, 128989632},
                                       {1024, 48, 368346624},
                                       {1536, 48, 780161280},
                                       {2048, 48, 1343757312},
                                       {2560, 64, 2702599680}};
    kr_config c;
    for (int i = 0; i < 5; i++) {
        char text[400];
        snprintf(text, sizeof text,
                 "{\"d_model\":%d,\"n_layer\":%d,\"vocab_size\":50277,\"d_intermediate\":0,"
                 "\"ssm_cfg\":{\"layer\":\"Mamba2\"},\"attn_layer_idx\":[],\"attn_cfg\":{},"
                 "\"pad_vocab_size_multiple\":16,\"tie_embeddings\":true}",
                 (int)sizes[i][0], (int)sizes[i][1]);
        accepted(&c, text);
        assert_int_equal(c.vocabulary, 50288);
        assert_int_equal(c.vocabulary_used, 50277);
        assert_string_equal(c.architecture, "Mamba2ForCausalLM");
        assert_int_equal(kr_lm_parameter_count(&c), sizes[i][2]);
    }
    accepted(&c, "{\"model_type\":\"mamba2\",\"time_step_limit\":[0.0, Infinity],"
                 "\"bos_token_id\":0}");
    kr_mamba2 m = kr_mamba2_of(&c);
    assert_true(m.inner == 8192 && m.groups == 8 && m.dt_most == 0 && !c.tied);
    accepted(&c, "{\"model_type\":\"mamba2\",\"time_step_limit\":[0.5,{\"__float__\":"
                 "\"Infinity\"}],\"hidden_size\":64,\"num_heads\":2,\"n_groups\":1}");
    assert_true(kr_mamba2_of(&c).dt_least == 0.5);
    accepted(&c, SS "\"ssm_cfg\":{\"layer\":\"Mamba2\",\"d_state\":8,\"headdim\":16,\"ngroups\":2,"
                    "\"D_has_hdim\":true,\"norm_before_gate\":true,\"dt_limit\":[0.1,2],"
                    "\"A_init_range\":[2,3],\"chunk_size\":64}}");
    m = kr_mamba2_of(&c);
    assert_true(m.skip_per_channel && m.norm_before_gate && m.dt_most == 2 && m.a_max == 3);
    refused(SS "\"ssm_cfg\":{\"layer\":\"Mamba2\",\"d_ssm\":256}}", "above the inner width");
    refused(SS "\"ssm_cfg\":{\"layer\":\"Mamba2\",\"dt_rank\":4}}", "does not know: dt_rank");
}

#define MAMBA3 SS "\"ssm_cfg\":{\"layer\":\"Mamba3\""

/* mamba2.md section B1: the defaults, and what the layout says in another way. */
static void mamba3(void **state) {
    (void)state;
    kr_config c;
    accepted(&c, MAMBA3 "}}");
    kr_mamba3 m = kr_mamba3_of(&c);
    assert_string_equal(c.mixer, "mamba3");
    assert_string_equal(c.architecture, "Mamba3ForCausalLM");
    assert_true(m.state == 128 && m.inner == 128 && m.head_dim == 64 && m.groups == 1);
    assert_true(m.rank == 0 && m.turned == KR_MAMBA3_HALF && !m.out_norm && m.a_floor == 1e-4);
    assert_int_equal(kr_mamba3_angles(&m), 32);
    accepted(&c, MAMBA3 ",\"is_mimo\":true,\"rope_fraction\":1.0,\"is_outproj_norm\":true,"
                        "\"d_state\":16,\"headdim\":8,\"ngroups\":4,\"expand\":1,"
                        "\"A_floor\":0.01,\"dt_min\":0.01,\"chunk_size\":16}}");
    m = kr_mamba3_of(&c);
    assert_true(m.rank == 4 && m.turned == KR_MAMBA3_ALL && m.out_norm && m.state == 16);
    assert_true(m.inner == 64 && m.groups == 4 && m.a_floor == 0.01 && m.dt_min == 0.01);
    accepted(&c, MAMBA3 ",\"is_mimo\":true,\"mimo_rank\":2}}");
    assert_int_equal(kr_mamba3_of(&c).rank, 2);
    accepted(&c, MAMBA3 ",\"is_mimo\":false,\"mimo_rank\":4}}");
    assert_int_equal(kr_mamba3_of(&c).rank, 0);
    /* section B5: mamba3-mimo-1.5b, which is 1.497B large with d_intermediate rounded up to 3840 */
    accepted(&c, "{\"d_model\":2048,\"d_intermediate\":3824,\"n_layer\":24,\"vocab_size\":128256,"
                 "\"ssm_cfg\":{\"layer\":\"Mamba3\",\"is_mimo\":true,\"mimo_rank\":4,"
                 "\"chunk_size\":16},\"tie_embeddings\":true}");
    assert_true(c.channel_mixer == KR_CHANNEL_GATED_MLP && c.channel_width == 3840);
    print_message("mamba3-mimo-1.5b: %lld parameters\n", (long long)kr_lm_parameter_count(&c));
    assert_int_equal((kr_lm_parameter_count(&c) + 500000) / 1000000, 1497);
    refused(MAMBA3 ",\"is_mimo\":true,\"mimo_rank\":0}}", "\"mimo_rank\" is not from 1 to 64");
    refused(MAMBA3 ",\"is_mimo\":true,\"mimo_rank\":65}}", "\"mimo_rank\" is not from 1 to 64");
    accepted(&c, MAMBA3 ",\"is_mimo\":false,\"mimo_rank\":null}}"); /* means nothing */
    accepted(&c, MAMBA3 ",\"mimo_rank\":0}}");
    refused(MAMBA3 ",\"rope_fraction\":0.25}}", "rope_fraction");
    refused(MAMBA3 ",\"headdim\":48}}", "head_dim (48)");
    refused(MAMBA3 ",\"d_conv\":4}}", "does not know");
}

#define HF "{\"model_type\":\"mamba\","

static void hostile(void **state) {
    (void)state;
    refused("", "not valid JSON");
    refused("7", "not valid JSON");
    refused("[]", "not an object");
    refused("{}", "unknown architecture");
    refused("{\"model_type\":\"llama\"}", "llama");
    refused("{\"model_type\":\"mamba9\"}", "known are mamba");
    refused("{\"model_type\":\"mamba2\",\"num_heads\":7}", "num_heads * head_dim");
    refused("{\"model_type\":\"mamba2\",\"time_step_limit\":[1]}", "\"time_step_limit\" is not");
    refused("{\"model_type\":\"mamba2\",\"time_step_limit\":[1,0.5]}",
            "\"time_step_limit\" is not [least, most]");
    refused("{\"model_type\":\"mamba2\",\"time_step_limit\":[-1,0.5]}", "time_step_limit");
    refused("{\"model_type\":\"mamba2\",\"time_step_limit\":[0,0]}", "most > 0");
    refused("{\"model_type\":\"mamba2\",\"time_step_limit\":[2e5,3e5]}", "least < 1e5");
    refused(SS "\"ssm_cfg\":{\"layer\":\"Mamba2\",\"dt_limit\":[2,1]}}",
            "\"dt_limit\" is not [least, most]");
    refused("{\"model_type\":\"mamba2\",\"n_groups\":3}", "groups");
    refused("{\"model_type\":\"mamba2\",\"hidden_act\":\"relu\"}", "hidden_act");
    refused("{\"model_type\":7}", "model_type");
    refused("{\"architectures\":[\"GPT2LMHeadModel\"]}", "GPT2LMHeadModel");
    refused(HF "\"architectures\":[\"MambaModel\"]}", "MambaModel");
    refused(HF "\"model_type\":\"mamba\"}", "duplicate");
    refused(HF "\"hidden_size\":\"big\"}", "hidden_size");
    refused(HF "\"hidden_size\":0}", "hidden_size");
    refused(HF "\"hidden_size\":-5}", "hidden_size");
    refused(HF "\"hidden_size\":9223372036854775807}", "hidden_size");
    refused(HF "\"hidden_size\":1e300}", "hidden_size");
    refused(HF "\"expand\":1e300}", "inner width");
    refused(HF "\"expand\":-1}", "inner width");
    refused(HF "\"num_hidden_layers\":100000000}", "num_hidden_layers");
    refused(HF "\"vocab_size\":100000000000}", "vocabulary");
    refused(HF "\"state_size\":1000000}", "state_size must be a whole number from 1 to 4096");
    refused(HF "\"conv_kernel\":0}", "kernel");
    refused(HF "\"time_step_rank\":0}", "time_step_rank");
    refused(HF "\"time_step_rank\":\"all\"}", "time_step_rank");
    refused(HF "\"layer_norm_epsilon\":0}", "epsilon");
    refused(HF "\"layer_norm_epsilon\":-1e-5}", "epsilon");
    refused(HF "\"time_step_max\":1e-9}", "dt_max (1e-09)");
    refused(HF "\"time_step_init_scheme\":\"zero\"}", "one of random|constant");
    refused(HF "\"hidden_act\":\"gelu\"}", "hidden_act");
    refused(HF "\"eos_token_id\":50280}", "eos_token_id");
    refused(HF "\"eos_token_id\":9223372036854775807}", "token id");
    refused(HF "\"eos_token_id\":\"x\"}", "token id");
    refused(HF "\"use_bias\":1}", "use_bias");
    refused(HF "\"krait_tokenizer\":\"words\"}", "krait_tokenizer");
    refused(HF "\"krait_vocabulary_used\":99999}", "used vocabulary");
    refused(SS "\"rms_norm\":false}", "rms_norm");
    refused(SS "\"d_intermediate\":-8}", "d_intermediate");
    refused(SS "\"attn_layer_idx\":[1]}", "attn_layer_idx");
    refused(SS "\"ssm_cfg\":{\"layer\":\"Mamba4\"}}", "Mamba1");
    refused(SS "\"ssm_cfg\":{\"headdim\":64}}", "ssm_cfg");
    refused(SS "\"ssm_cfg\":7}", "ssm_cfg");
    refused(SS "\"pad_vocab_size_multiple\":0}", "pad_vocab_size_multiple");
    refused(SS "\"pad_vocab_size_multiple\":-9223372036854775807}", "pad_vocab_size_multiple");
}

static void write_folder(char folder[64], char path[128]) {
    assert_int_equal(kr_test_folder_make(folder), 0);
    snprintf(path, 128, "%s/config.json", folder);
}

static void same(const kr_config *a, const kr_config *b) {
    assert_string_equal(a->architecture, b->architecture);
    assert_string_equal(a->mixer, b->mixer);
    assert_true(a->vocabulary == b->vocabulary && a->vocabulary_used == b->vocabulary_used);
    assert_int_equal(a->bytes, b->bytes);
    for (const kr_setting *k = kr_config_settings; k->name; k++)
        if (!kr_setting_equal(k, a, b)) fail_msg("%s %s", a->mixer, k->name);
    for (const kr_setting *k = kr_mixer_find(a->mixer)->settings; k->name; k++)
        if (!kr_setting_equal(k, a->settings, b->settings)) fail_msg("%s %s", a->mixer, k->name);
    assert_true(a->bos == b->bos && a->eos == b->eos && a->pad == b->pad);
}

static void write_and_read(const kr_config *c, const char *path) {
    kr_config back;
    krait_error e = {0};
    if (kr_config_write(c, path, "float32", &e) < 0) fail_msg("%s", e.message);
    if (kr_config_read(&back, path, &e) < 0) fail_msg("%s", e.message);
    same(c, &back);
}

static void round_trip(void **state) {
    (void)state;
    char folder[64], path[128];
    write_folder(folder, path);
    kr_config c;
    krait_error e = {0};
    for (int variant = 0; variant < 4; variant++) {
        const char *settings =
            variant == 1   ? "mixer_rms_eps=1e-6 inner=31 dt_min=0.30000000000000004 dt_max=1 "
                             "linear_bias=true"
            : variant == 2 ? "tied=false conv_bias=false dt_init=constant"
                           : NULL;
        assert_int_equal(kr_config_make(&c, "mamba1", 24 + variant, 3, 264, settings, &e), 0);
        assert_string_equal(c.architecture,
                            variant == 1 ? "FalconMambaForCausalLM" : "MambaForCausalLM");
        if (variant & 2) {
            c.vocabulary_used = 257;
            c.bytes = true;
            c.eos = 256;
        }
        write_and_read(&c, path);
    }
    c.width = 0;
    assert_int_equal(kr_config_write(&c, path, "float32", &e), KRAIT_ERR_ARGUMENT);
    unlink(path);
    rmdir(folder);
}

/* Every mixer with every variant; and no name of a setting means two things. */
static void every_mixer_round_trips(void **state) {
    (void)state;
    char folder[64], path[128], text[KR_VARIANT_TEXT];
    const char *v;
    int n = 0;
    write_folder(folder, path);
    for (int i = 0; kr_mixers[i]; i++) {
        const kr_mixer *m = kr_mixers[i];
        assert_true(m->settings_size <= KR_MIXER_SETTINGS && kr_settings_count(m->settings) <= 64);
        assert_string_equal(kr_mixer_find(m->name)->name, m->name);
        for (const kr_setting *k = m->settings; k->name; k++)
            if (kr_settings_find(kr_config_settings, k->name, strlen(k->name)) ||
                k->kind == KR_SETTING_TEXT)
                fail_msg("%s %s", m->name, k->name);
        for (const char *const *name = m->unseen; name && *name; name++)
            assert_non_null(kr_settings_find(m->settings, *name, strlen(*name)));
        for (int k = 0; (v = kr_config_variant(m->name, k, text)); k++, n++) {
            kr_config c;
            krait_error e;
            if (kr_config_make(&c, m->name, 6, 2, 264, v, &e) < 0) fail_msg("%s", e.message);
            c.bytes = n & 1;
            c.eos = n & 1 ? 256 : -1;
            write_and_read(&c, path);
        }
    }
    print_message("%d configurations\n", n);
    unlink(path);
    rmdir(folder);
}

/* Systems in continuous time take another rate, others stay as they were. */
static void rates(void **state) {
    (void)state;
    int taken = 0, n = 0;
    for (; kr_mixers[n]; n++) {
        kr_config c, was;
        krait_error e;
        const kr_mixer *m = kr_mixers[n];
        if (kr_config_make(&c, m->name, 6, 2, 264, m->variants[0], &e) < 0)
            fail_msg("%s", e.message);
        const kr_setting *k = kr_settings_find(m->settings, "rate", 4);
        was = c;
        if (kr_config_resample(&c, 2.5, &e) == 0) {
            double rate, before;
            assert_non_null(k);
            memcpy(&rate, c.settings + k->at, sizeof rate);
            memcpy(&before, was.settings + k->at, sizeof before);
            assert_true(rate == 2.5 * before);
            taken++;
        } else {
            print_message("%s\n", e.message);
            assert_memory_equal(c.settings, was.settings, sizeof c.settings);
        }
    }
    assert_true(taken >= 1 && taken < n);
}

#define KR "{\"model_type\":\"krait\",\"mixer\":\"mamba1\","
#define KR3                                                                                        \
    "{\"model_type\":\"krait\",\"mixer\":\"mamba3\",\"layers\":2,\"width\":8,\"vocabulary\":264,"  \
    "\"inner\":1048576,\"head_dim\":64,"
#define KR_SIZES "\"layers\":2,\"width\":8,\"vocabulary\":264"

static void own_dialect(void **state) {
    (void)state;
    kr_config c;
    accepted(&c, KR KR_SIZES ",\"state\":5}");
    assert_string_equal(c.architecture, "KraitForCausalLM");
    assert_true(c.layers == 2 && c.width == 8 && c.vocabulary == 264 && c.eos == -1);
    assert_int_equal(kr_mamba1_of(&c).state, 5);
    assert_int_equal(kr_mamba1_of(&c).inner, 16);
    refused("{\"model_type\":\"krait\"}", "\"mixer\" is missing");
    refused("{\"model_type\":\"krait\",\"mixer\":\"transformer\"}",
            "no mixer called \"transformer\"");
    refused(KR "\"layers\":2}", "\"width\" is missing");
    refused(KR KR_SIZES ",\"stat\":5}", "did you mean: state");
    refused(KR KR_SIZES ",\"state\":0}", "state must be a whole number from 1");
    refused(KR KR_SIZES ",\"state\":2.5}", "state must be a whole number");
    refused(KR KR_SIZES ",\"state\":\"big\"}", "state must be a whole number");
    refused(KR KR_SIZES ",\"conv_bias\":3}", "conv_bias must be true or false");
    refused(KR KR_SIZES ",\"dt_init\":\"zero\"}", "one of random|constant, is zero");
    refused(KR KR_SIZES ",\"dt_min\":0.5}", "dt_min (0.5) is above dt_max (0.1)");
    refused(KR KR_SIZES ",\"channel_width\":4}", "channel_width (4) has no effect");
    refused(KR KR_SIZES ",\"channel_mixer\":\"moe\"}", "one of none|mlp|glu|gated_mlp");
    accepted(&c, KR KR_SIZES ",\"channel_mixer\":\"mlp\"}");
    assert_int_equal(c.channel_width, 32);
    accepted(&c, KR KR_SIZES ",\"channel_mixer\":\"gated_mlp\"}");
    assert_int_equal(c.channel_width, 24);
    accepted(&c, KR3 "\"groups\":1024,\"rank\":4,\"state\":4096}"); /* 2^24 */
    refused(KR3 "\"groups\":1024,\"rank\":5,\"state\":4096}", "rank * groups * state is 20971520");
    refused(KR "\"layers\":1e9,\"width\":8,\"vocabulary\":264}", "layers must be");
    refused(KR "\"layers\":1,\"width\":8,\"vocabulary\":-1}", "vocabulary");
}

static void no_memory(void **state) {
    (void)state;
    char folder[64], path[128];
    write_folder(folder, path);
    kr_config c, back;
    krait_error e;
    assert_int_equal(kr_config_make(&c, "mamba1", 32, 2, 257, NULL, NULL), 0);
    c.bytes = true;
    json_set_alloc_funcs(kr_malloc, kr_free);
    int64_t n = 0, made = 1, failed = 0;
    while (made >= n) { /* where jansson gets over a failure, the result must be right */
        kr_mem_fail_after(++n);
        int rc = kr_config_write(&c, path, "bfloat16", &e);
        if (rc == 0) rc = kr_config_read(&back, path, &e);
        made = kr_mem_fail_after(0);
        if (rc == 0) same(&c, &back);
        failed += rc < 0;
    }
    json_set_alloc_funcs(malloc, free);
    print_message("each of %lld allocations failed once, %lld gave an error\n", (long long)n - 1,
                  (long long)failed);
    assert_true(n > 50 && failed > n / 4);
    unlink(path);
    rmdir(folder);
}

/* Every cut and every changed byte of a good file ends in an answer. */
static void damaged(void **state) {
    (void)state;
    static const char text[] = "{\"model_type\":\"falcon_mamba\",\"hidden_size\":64,\"expand\":2,"
                               "\"eos_token_id\":[1],\"mixer_rms_eps\":1e-6,\"use_bias\":false}";
    kr_config c;
    krait_error e;
    int good = 0, all = 0;
    for (size_t n = 0; n < sizeof text - 1; n++) {
        char *cut = malloc(n + 1);
        memcpy(cut, text, n);
        assert_true(kr_config_read_bytes(&c, cut, n, "config.json", &e) < 0);
        free(cut);
    }
    for (size_t i = 0; i < sizeof text - 1; i++)
        for (int bit = 0; bit < 8; bit++) {
            char copy[sizeof text];
            memcpy(copy, text, sizeof text);
            copy[i] ^= (char)(1 << bit);
            good += kr_config_read_bytes(&c, copy, sizeof text - 1, "config.json", &e) == 0;
            all++;
        }
    print_message("%d of %d single-bit changes still describe a model\n", good, all);
    assert_true(good < all / 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hugging_face),
        cmocka_unit_test(falcon),
        cmocka_unit_test(state_spaces),
        cmocka_unit_test(mamba2),
        cmocka_unit_test(mamba3),
        cmocka_unit_test(hostile),
        cmocka_unit_test(round_trip),
        cmocka_unit_test(no_memory),
        cmocka_unit_test(own_dialect),
        cmocka_unit_test(rates),
        cmocka_unit_test(every_mixer_round_trips),
        cmocka_unit_test(damaged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
