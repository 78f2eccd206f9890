/* schedule.h - the learning rate of step s, s = 1 .. steps.
 *
 *   warm-up    peak s / warmup                                     while s <= warmup
 *   cosine     floor + (peak - floor) (1 + cos(pi p)) / 2
 *              with p = (s - warmup) / (steps - warmup)
 *   wsd        peak; over the last `decay` steps floor + (peak - floor) (1 - p), or (1 - sqrt(p)),
 *              with p = (s - steps + decay) / decay
 *   constant   peak
 *
 * The last step of cosine and wsd has the floor. Sources: Loshchilov & Hutter 2016 (cosine); Hu et
 * al. 2024 "MiniCPM" (warm-up, stable, decay); Haegele et al. 2024 (1 - sqrt). */
#ifndef KR_SCHEDULE_H
#define KR_SCHEDULE_H

#include "train/recipe.h"

/* The rate of step s (1 is the first). */
double kr_learning_rate(const kr_recipe *r, int64_t s);

#endif
