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
#include "models/config.h"

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
    assert_int_equal(c.inner, 1536);
    assert_int_equal(c.layers, 32);
    assert_int_equal(c.vocabulary, 50280);
    assert_int_equal(c.dt_rank, 48);
    assert_int_equal(c.eos, 0);
    assert_true(c.tied && c.conv_bias && c.linear_bias_unsaid);
    assert_true(c.mixer_rms_eps == 0 && c.norm_eps == 1e-5);
    accepted(&c, "{\"architectures\":[\"MambaForCausalLM\"],\"hidden_size\":17,\"use_bias\":true,"
                 "\"expand\":1.5,\"eos_token_id\":[5,6],\"bos_token_id\":null,\"vocab_size\":40,"
                 "\"time_step_rank\":\"auto\",\"time_step_init_scheme\":\"constant\"}");
    assert_int_equal(c.inner, 25);
    assert_int_equal(c.dt_rank, 2);
    assert_int_equal(c.eos, 5);
    assert_int_equal(c.bos, -1);
    assert_true(c.linear_bias && !c.linear_bias_unsaid && c.dt_init_constant);
}

static void falcon(void **state) {
    (void)state;
    kr_config c; /* "expand" lies, intermediate_size wins */
    accepted(&c,
             "{\"model_type\":\"falcon_mamba\",\"architectures\":[\"FalconMambaForCausalLM\"],"
             "\"hidden_size\":4096,\"intermediate_size\":8192,\"expand\":16,\"vocab_size\":65024,"
             "\"time_step_rank\":256,\"eos_token_id\":11,\"tie_word_embeddings\":false}");
    assert_int_equal(c.inner, 8192);
    assert_int_equal(c.dt_rank, 256);
    assert_false(c.tied);
    assert_true(c.mixer_rms_eps == 1e-6);
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
    assert_int_equal(c.inner, 1536);
    assert_true(c.tied && !c.linear_bias && !c.linear_bias_unsaid);
    accepted(&c, "{\"d_model\":64,\"n_layer\":2,\"vocab_size\":16,\"tie_embeddings\":false,"
                 "\"ssm_cfg\":{\"layer\":\"Mamba1\",\"d_state\":8,\"d_conv\":3,\"expand\":1,"
                 "\"dt_rank\":7,\"dt_init\":\"constant\",\"bias\":true,\"conv_bias\":false},"
                 "\"attn_layer_idx\":[],\"d_intermediate\":0}");
    assert_int_equal(c.vocabulary, 16);
    assert_int_equal(c.state, 8);
    assert_int_equal(c.kernel, 3);
    assert_int_equal(c.inner, 64);
    assert_int_equal(c.dt_rank, 7);
    assert_true(!c.tied && c.linear_bias && !c.conv_bias && c.dt_init_constant);
}

#define SS "{\"d_model\":64,\"n_layer\":2,\"vocab_size\":16,"
#define HF "{\"model_type\":\"mamba\","

static void hostile(void **state) {
    (void)state;
    refused("", "not valid JSON");
    refused("7", "not valid JSON");
    refused("[]", "not an object");
    refused("{}", "unknown architecture");
    refused("{\"model_type\":\"llama\"}", "llama");
    refused("{\"model_type\":\"mamba2\"}", "known are mamba");
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
    refused(HF "\"num_hidden_layers\":100000000}", "layers");
    refused(HF "\"vocab_size\":100000000000}", "vocabulary");
    refused(HF "\"state_size\":1000000}", "state size");
    refused(HF "\"conv_kernel\":0}", "kernel");
    refused(HF "\"time_step_rank\":0}", "time_step_rank");
    refused(HF "\"time_step_rank\":\"all\"}", "time_step_rank");
    refused(HF "\"layer_norm_epsilon\":0}", "epsilon");
    refused(HF "\"layer_norm_epsilon\":-1e-5}", "epsilon");
    refused(HF "\"time_step_max\":1e-9}", "time_step_max");
    refused(HF "\"time_step_init_scheme\":\"zero\"}", "time step");
    refused(HF "\"hidden_act\":\"gelu\"}", "hidden_act");
    refused(HF "\"eos_token_id\":50280}", "eos_token_id");
    refused(HF "\"eos_token_id\":9223372036854775807}", "token id");
    refused(HF "\"eos_token_id\":\"x\"}", "token id");
    refused(HF "\"use_bias\":1}", "use_bias");
    refused(HF "\"krait_tokenizer\":\"words\"}", "krait_tokenizer");
    refused(HF "\"krait_vocabulary_used\":99999}", "used vocabulary");
    refused(SS "\"rms_norm\":false}", "rms_norm");
    refused(SS "\"d_intermediate\":8}", "d_intermediate");
    refused(SS "\"attn_layer_idx\":[1]}", "attn_layer_idx");
    refused(SS "\"ssm_cfg\":{\"layer\":\"Mamba2\"}}", "Mamba1");
    refused(SS "\"ssm_cfg\":{\"headdim\":64}}", "ssm_cfg");
    refused(SS "\"ssm_cfg\":7}", "ssm_cfg");
    refused(SS "\"pad_vocab_size_multiple\":0}", "pad_vocab_size_multiple");
    refused(SS "\"pad_vocab_size_multiple\":-9223372036854775807}", "pad_vocab_size_multiple");
}

static void write_folder(char folder[64], char path[128]) {
    /* in memory where that is possible: the tests sync files a thousand times */
    const char *temporary = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(folder, 64, "%s/krait-config-XXXXXX", temporary);
    assert_non_null(mkdtemp(folder));
    snprintf(path, 128, "%s/config.json", folder);
}

static void same(const kr_config *a, const kr_config *b) {
    assert_string_equal(a->architecture, b->architecture);
    assert_string_equal(a->mixer, b->mixer);
    assert_true(a->layers == b->layers && a->width == b->width && a->inner == b->inner);
    assert_true(a->vocabulary == b->vocabulary && a->vocabulary_used == b->vocabulary_used);
    assert_true(a->state == b->state && a->kernel == b->kernel && a->dt_rank == b->dt_rank);
    assert_true(a->norm_eps == b->norm_eps && a->mixer_rms_eps == b->mixer_rms_eps);
    assert_true(a->dt_min == b->dt_min && a->dt_max == b->dt_max);
    assert_true(a->dt_floor == b->dt_floor && a->dt_scale == b->dt_scale);
    assert_true(a->tied == b->tied && a->bytes == b->bytes && a->conv_bias == b->conv_bias);
    assert_true(a->linear_bias == b->linear_bias && a->dt_init_constant == b->dt_init_constant);
    assert_true(a->bos == b->bos && a->eos == b->eos && a->pad == b->pad);
}

static void round_trip(void **state) {
    (void)state;
    char folder[64], path[128];
    write_folder(folder, path);
    kr_config c, back;
    krait_error e = {0};
    for (int variant = 0; variant < 4; variant++) {
        kr_config_mamba(&c, 24 + variant, 3, 264);
        if (variant & 1) {
            snprintf(c.architecture, sizeof c.architecture, "FalconMambaForCausalLM");
            c.mixer_rms_eps = 1e-6;
            c.inner = 31;
            c.dt_min = 0.1 + 0.2; /* needs 17 digits */
            c.dt_max = 1;
            c.linear_bias = true;
        }
        if (variant & 2) {
            c.vocabulary_used = 257;
            c.bytes = true;
            c.eos = 256;
            c.tied = c.conv_bias = false;
            c.dt_init_constant = true;
        }
        if (kr_config_write(&c, path, "float32", &e) < 0) fail_msg("%s", e.message);
        if (kr_config_read(&back, path, &e) < 0) fail_msg("%s", e.message);
        same(&c, &back);
    }
    c.width = 0;
    assert_int_equal(kr_config_write(&c, path, "float32", &e), KRAIT_ERR_ARGUMENT);
    unlink(path);
    rmdir(folder);
}

static void no_memory(void **state) {
    (void)state;
    char folder[64], path[128];
    write_folder(folder, path);
    kr_config c, back;
    krait_error e;
    kr_config_mamba(&c, 32, 2, 257);
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
        cmocka_unit_test(hugging_face), cmocka_unit_test(falcon),
        cmocka_unit_test(state_spaces), cmocka_unit_test(hostile),
        cmocka_unit_test(round_trip),   cmocka_unit_test(no_memory),
        cmocka_unit_test(damaged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
