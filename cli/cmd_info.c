/* cmd_info.c - krait info: what a model is. */
#include <inttypes.h>
#include <string.h>

#include "cli.h"
#include "cli_json.h"

static json_t *tensor_object(const krait_tensor_info *t) {
    json_t *shape = json_array();
    for (int i = 0; i < t->rank; i++) json_array_append_new(shape, json_integer(t->shape[i]));
    return json_pack("{s:s, s:s, s:o, s:I}", "tensor", t->name, "dtype", t->dtype, "shape", shape,
                     "bytes", (json_int_t)t->bytes);
}

static void print_tensor(const krait_tensor_info *t) {
    char shape[96] = "";
    for (int i = 0; i < t->rank; i++) {
        size_t n = strlen(shape);
        snprintf(shape + n, sizeof shape - n, i ? ", %" PRId64 : "%" PRId64, t->shape[i]);
    }
    printf("%-52s %-5s [%s]\n", t->name, t->dtype, shape);
}

static int print_tensors(const cli_args *a, const krait_model *model) {
    for (int64_t i = 0; i < krait_model_tensor_count(model); i++) {
        krait_tensor_info t;
        if (krait_model_tensor(model, i, &t) < 0)
            return cli_fail(a, "tensor %" PRId64 " is missing", i);
        if (cli_flag(a, "json"))
            cli_json(tensor_object(&t));
        else
            print_tensor(&t);
    }
    return CLI_OK;
}

/* The settings of the model and of its mixer as an object. */
static json_t *settings_object(const krait_model *model) {
    json_t *o = json_object();
    krait_setting_info k;
    for (int64_t i = 0; krait_model_setting(model, i, &k) == 0; i++)
        json_object_set_new(o, k.name,
                            k.is_text ? json_string(k.value)
                                      : json_loads(k.value, JSON_DECODE_ANY, NULL));
    return o;
}

static void print_json(const krait_model *model, const krait_model_info *m) {
    char hash[20];
    snprintf(hash, sizeof hash, "%016" PRIx64, m->hash);
    json_t *o = json_pack("{s:s, s:s, s:I, s:I, s:o, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:i}",
                          "architecture", m->architecture, "mixer", m->mixer, "layers",
                          (json_int_t)m->layers, "width", (json_int_t)m->width, "settings",
                          settings_object(model), "vocabulary", (json_int_t)m->vocabulary,
                          "vocabulary_used", (json_int_t)m->vocabulary_used, "parameters",
                          (json_int_t)m->parameters, "weight_bytes", (json_int_t)m->weight_bytes,
                          "state_bytes", (json_int_t)m->state_bytes, "dtype", m->dtype, "hash",
                          hash, "end_token", (int)m->end_token);
    cli_json(o);
}

/* Has it a line of its own? */
static int is_told(const char *name) {
    return strcmp(name, "mixer") == 0 || strcmp(name, "layers") == 0 || strcmp(name, "width") == 0;
}

/* "name value, name value" in lines of about 80 columns: of the model, or of its mixer. */
static void print_settings(const krait_model *model, int of_mixer) {
    krait_setting_info k;
    int column = 0, n = 0;
    for (int64_t i = 0; krait_model_setting(model, i, &k) == 0; i++) {
        if (k.of_mixer != of_mixer || is_told(k.name)) continue;
        int size = (int)(strlen(k.name) + strlen(k.value)) + 1;
        int wraps = n > 0 && column + 3 + size > 80; /* ", " before it, "," behind it */
        if (n > 0) column += printf(wraps ? ",\n" : ", ");
        if (n == 0 || wraps) column = printf("%-14s", n ? "" : of_mixer ? "mixer" : "model");
        column += printf("%s %s", k.name, k.value);
        n++;
    }
    if (n) printf("\n");
}

static void print_text(const krait_model *model, const krait_model_info *m) {
    char a[32], b[32], c[32];
    printf("architecture  %s (%s)\n", m->architecture, m->mixer);
    printf("size          %" PRId64 " layers, width %" PRId64 "\n", m->layers, m->width);
    print_settings(model, 0);
    print_settings(model, 1);
    printf("vocabulary    %" PRId64 " tokens (%" PRId64 " rows), end token %" PRId32 "\n",
           m->vocabulary_used, m->vocabulary, m->end_token);
    printf("parameters    %s (%" PRId64 ")\n", cli_human_count((double)m->parameters, a),
           m->parameters);
    printf("memory        %s of weights (%s), %s of state a sequence\n",
           cli_human_bytes((double)m->weight_bytes, b), m->dtype,
           cli_human_bytes((double)m->state_bytes, c));
    printf("hash          %016" PRIx64 "\n", m->hash);
}

static const cli_option options[] = {{.kind = CLI_FLAG,
                                      .name = "tensors",
                                      .help = "List the tensors: name, type, shape."},
                                     CLI_OPT_JSON,
                                     {.kind = CLI_END}};

static int run(const cli_args *a) {
    krait_model_options o = KRAIT_MODEL_OPTIONS_INIT;
    krait_model_info info;
    krait_model *model;
    krait_error e;
    if (a->n_words == 0)
        return cli_usage(a, "a model is needed; krait info --help shows an example");
    o.without_tokenizer = 1;
    if (krait_model_open(&model, a->words[0], &o, &e) < 0) return cli_fail(a, "%s", e.message);
    krait_model_describe(model, &info);
    int rc = CLI_OK;
    if (cli_flag(a, "tensors"))
        rc = print_tensors(a, model);
    else if (cli_flag(a, "json"))
        print_json(model, &info);
    else
        print_text(model, &info);
    krait_model_close(&model);
    return rc;
}

const cli_command cli_command_info = {
    .name = "info",
    .summary = "Say what a model is: sizes, types, tensors",
    .synopsis = "M [--tensors] [--json]",
    .description =
        "M is a folder in the Hugging Face or state-spaces layout, or the name of a model that "
        "ships with the program (demo). The hash is of configuration and weights; it binds "
        "saved states to their model.\n\n"
        "With --json: one object, or with --tensors {\"tensor\", \"dtype\", \"shape\", "
        "\"bytes\"} a line.",
    .options = options,
    .example = "krait info demo\nkrait info demo --tensors",
    .most_words = 1,
    .run = run,
};
