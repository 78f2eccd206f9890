/* generate_text.c - a model continues a prompt, printed as it comes.
 *   cc generate_text.c $(pkg-config --cflags --libs krait) && ./a.out demo "In the beginning" */
#include <krait/krait.h>
#include <stdio.h>

static int print(void *user, int64_t index, const char *text, size_t length) {
    (void)user, (void)index;
    fwrite(text, 1, length, stdout);
    return fflush(stdout); /* 0: go on */
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "demo";
    const char *prompt = argc > 2 ? argv[2] : "In the beginning";
    krait_model *model;
    krait_error error;
    if (krait_model_open(&model, name, NULL, &error) < 0) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    krait_generate_options options = KRAIT_GENERATE_OPTIONS_INIT;
    options.on_text = print;
    options.sampler.seed = 42;
    printf("%s", prompt);
    int rc = krait_generate(model, &prompt, 1, &options, NULL, &error);
    puts("");
    if (rc < 0) fprintf(stderr, "%s\n", error.message);
    krait_model_close(&model);
    return rc < 0;
}
