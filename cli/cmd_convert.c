/* cmd_convert.c - krait convert: any layout that krait reads in, a folder in one of two layouts
 * out. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static void choose_dtype(const cli_args *a, krait_save_options *o) {
    const char *name = cli_text(a, "dtype");
    if (strcmp(name, "keep") == 0) return;
    o->keep_dtype = 0;
    o->dtype = strcmp(name, "f32") == 0   ? KRAIT_F32
               : strcmp(name, "f16") == 0 ? KRAIT_F16
                                          : KRAIT_BF16;
}

static int run(const cli_args *a) {
    krait_save_options save = KRAIT_SAVE_OPTIONS_INIT;
    krait_model_options o = KRAIT_MODEL_OPTIONS_INIT;
    krait_model_info info;
    krait_model *model;
    krait_error e;
    char bytes[32];
    if (a->n_words < 2)
        return cli_usage(a,
                         "a model and a folder to write are needed; krait convert --help shows an "
                         "example");
    choose_dtype(a, &save);
    if (strcmp(cli_text(a, "layout"), "state_spaces") == 0) save.layout = KRAIT_LAYOUT_STATE_SPACES;
    save.shard_bytes = cli_int(a, "shard-mb") * 1000000;
    if (save.shard_bytes > 0 && save.layout == KRAIT_LAYOUT_STATE_SPACES)
        return cli_usage(a, "--shard-mb has no effect: the state-spaces layout is one file");
    int n_sets;
    o.sets = cli_values(a, "set", &n_sets);
    o.n_sets = n_sets;
    o.tokenizer_optional = 1; /* a model made for token ids is converted too */
    if (krait_model_open(&model, a->words[0], &o, &e) < 0) return cli_fail(a, "%s", e.message);
    int rc = krait_model_save(model, a->words[1], &save, &e);
    krait_model_describe(model, &info);
    if (rc == 0)
        fprintf(stderr, "%s: %lld tensors, %s parameters, from %s\n", a->words[1],
                (long long)krait_model_tensor_count(model),
                cli_human_count((double)info.parameters, bytes), a->words[0]);
    if (rc == 0 && !krait_model_tokenizer(model))
        fprintf(stderr, "%s has no tokenizer: %s gets none\n", a->words[0], a->words[1]);
    if (rc == 0 && save.layout == KRAIT_LAYOUT_STATE_SPACES)
        fprintf(stderr, "ids of special tokens, and that tokens are bytes, have no place in this "
                        "layout: they stayed behind\n");
    krait_model_close(&model);
    return rc < 0 ? cli_fail(a, "%s", e.message) : CLI_OK;
}

static const cli_option options[] = {
    {.kind = CLI_TEXT,
     .name = "dtype",
     .arg = "TYPE",
     .value = "keep",
     .choices = "keep|f32|bf16|f16",
     .help = "Type of the matrices in the file; keep: as they are."},
    {.kind = CLI_TEXT,
     .name = "layout",
     .arg = "L",
     .value = "hugging_face",
     .choices = "hugging_face|state_spaces",
     .help = "state_spaces: config.json and pytorch_model.bin for mamba_ssm; Mamba to Mamba-3."},
    {.kind = CLI_INT,
     .name = "shard-mb",
     .arg = "N",
     .value = "0",
     .least = 0,
     .most = 1e9,
     .help = "Cut the weights into files of at most N MB and an index; "
             "0: one file."},
    {.kind = CLI_TEXT,
     .name = "set",
     .letter = 's',
     .arg = "KEY=VALUE",
     .help = "A setting of the mixer that IN's weights and config.json do not tell: rate=softplus "
             "for Mamba-3 from before June 2026, rate=2 or discretisation=bilinear for S4D.",
     .many = true},
    {.kind = CLI_END}};

const cli_command cli_command_convert = {
    .name = "convert",
    .summary = "Read a model in any layout, write it in another",
    .synopsis = "IN OUT [--dtype TYPE] [--layout L] [--shard-mb N] [--set KEY=VALUE ...]",
    .description =
        "IN is a folder in the Hugging Face layout (config.json, model.safetensors or its shards), "
        "a "
        "folder in the state-spaces layout (config.json, pytorch_model.bin), or the name of a "
        "model that "
        "ships with the program. OUT gets config.json, model.safetensors and tokenizer.json; "
        "transformers loads it by from_pretrained. With --layout state_spaces it gets what "
        "mamba_ssm's from_pretrained loads; ids of special tokens have no place there. Every "
        "file appears whole or not at all; a model that was in OUT is replaced.\n\n"
        "Norms, biases, A_log and D stay f32 whatever the type of the matrices.",
    .options = options,
    .example = "krait convert demo my-demo --dtype bf16\nkrait info my-demo",
    .most_words = 2,
    .run = run,
};
