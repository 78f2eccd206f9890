/* train_by_hand.c - training by hand: a loop of its own over backward and update.
 *   cc train_by_hand.c $(pkg-config --cflags --libs krait) && ./a.out
 *
 * A tiny model learns one sentence until it knows it by heart. */
#include <krait/train.h>
#include <stdio.h>
#include <string.h>

#define STEPS 60

int main(void) {
    static const char text[] = "And God said, Let there be light: and there was light.";
    static const char *const shape[] = {"layers=2", "width=48", "tokenizer=bytes"};
    krait_model *model = NULL;
    krait_trainer *trainer = NULL;
    krait_error error;
    int32_t ids[sizeof text];
    double loss = 0, norm;
    int rc = krait_recipe_model(&model, NULL, shape, 3, &error);
    if (rc == 0) rc = krait_trainer_create(&trainer, model, NULL, &error);
    int64_t count = 0;
    if (rc == 0) {
        count = krait_tokenizer_encode(krait_model_tokenizer(model), text, strlen(text), ids,
                                       (int64_t)sizeof text, &error);
        rc = count < 0 ? (int)count : 0;
    }
    for (int step = 1; rc == 0 && step <= STEPS; step++) {
        double rate = 0.01 * (step < 10 ? step / 10.0 : 1); /* a warm-up of ten steps */
        rc = krait_trainer_backward(trainer, (const int32_t *const[]){ids}, &count, 1, &loss,
                                    &error);
        if (rc == 0) rc = krait_trainer_update(trainer, rate, &norm, &error);
        if (rc == 0 && step % 10 == 0)
            printf("step %2d  loss %.4f nats a token  gradient %.3f\n", step, loss, norm);
    }
    if (rc < 0) fprintf(stderr, "%s\n", error.message);
    krait_trainer_close(&trainer);
    krait_model_close(&model);
    return rc < 0 || loss > 1;
}
