/* fork_state.c - reads a prompt once, saves the state, and continues it in several ways.
 *   cc fork_state.c $(pkg-config --cflags --libs krait) && ./a.out demo "And he said" prompt.state
 *
 * The state has a fixed size whatever the length of the prompt: forking is one small copy. The
 * saved file continues bit for bit, in this program or another (krait generate --state-in). */
#include <krait/krait.h>
#include <stdio.h>
#include <stdlib.h>

#define FORKS 3
#define TOKENS 80
#define CHECK(call)                                                                                \
    if ((call) < 0) goto failed

static krait_error error = {KRAIT_ERR_MEMORY, "no memory"};

/* Lane `lane` of s, whose last logits are `logits` [vocabulary], goes on for TOKENS tokens. */
static int continue_lane(krait_session *s, int64_t lane, const krait_tokenizer *t,
                         krait_sampler *sampler, float *logits) {
    for (int i = 0; i < TOKENS; i++) {
        int32_t id = krait_sampler_draw(sampler, logits, &error);
        char text[64];
        if (id < 0) return id;
        int64_t length = krait_tokenizer_decode(t, &id, 1, text, sizeof text, &error);
        if (length < 0) return (int)length;
        fwrite(text, 1, (size_t)length, stdout);
        krait_span span = {lane, &id, 1, KRAIT_WANT_LAST};
        int rc = krait_session_forward(s, &span, 1, logits, &error);
        if (rc < 0) return rc;
    }
    return 0;
}

int main(int argc, char **argv) {
    const char *prompt = argc > 2 ? argv[2] : "And he said";
    krait_model *model = NULL;
    krait_session *session = NULL;
    krait_sampler *sampler = NULL;
    krait_model_info info;
    int32_t ids[1024];
    float *first = NULL, *logits = NULL;
    int rc = 1;

    CHECK(krait_model_open(&model, argc > 1 ? argv[1] : "demo", NULL, &error));
    krait_model_describe(model, &info);
    const krait_tokenizer *t = krait_model_tokenizer(model);
    size_t length = 0;
    while (prompt[length]) length++;
    int64_t count = krait_tokenizer_encode(t, prompt, length, ids, 1024, &error);
    CHECK(count);
    if (count > 1024) count = 1024;

    krait_session_options options = KRAIT_SESSION_OPTIONS_INIT;
    options.lanes = 1 + FORKS; /* lane 0 keeps the prompt */
    CHECK(krait_session_create(&session, model, &options, &error));
    first = malloc((size_t)info.vocabulary * sizeof *first);
    logits = malloc((size_t)info.vocabulary * sizeof *logits);
    if (!first || !logits) goto failed;
    krait_span span = {0, ids, count, KRAIT_WANT_LAST};
    CHECK(krait_session_forward(session, &span, 1, first, &error));
    if (argc > 3) CHECK(krait_session_save_state(session, 0, argv[3], &error));

    for (int64_t lane = 1; lane <= FORKS; lane++) {
        krait_sampler_options how = KRAIT_SAMPLER_OPTIONS_INIT;
        how.seed = (uint64_t)lane;
        CHECK(krait_session_copy(session, lane, session, 0, &error));
        CHECK(krait_sampler_create(&sampler, info.vocabulary_used, &how, &error));
        for (int64_t i = 0; i < info.vocabulary; i++) logits[i] = first[i];
        printf("%d: %s", (int)lane, prompt);
        CHECK(continue_lane(session, lane, t, sampler, logits));
        puts("\n");
        krait_sampler_close(&sampler);
    }
    printf("each fork copied %lld bytes of state\n", (long long)info.state_bytes);
    rc = 0;
failed:
    if (rc) fprintf(stderr, "%s\n", error.message);
    free(first);
    free(logits);
    krait_sampler_close(&sampler);
    krait_session_close(&session);
    krait_model_close(&model);
    return rc;
}
