/* tasks_test.c - the checks of lra.md (Long Range Arena and synthetic tasks) that concern examples:
 * numbers 1 to 9 of its list (of 2 what is about examples), and that an example depends on its
 * index alone. mamba.md's two tasks are 6 and 7. The rest of 2 is lm_ends_test.c, number 10
 * task_train_test.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "data/tasks/listops.h"
#include "data/tasks/pathfinder_stroke.h"
#include "data/tasks/pixel_order.h"
#include "data/tasks/task.h"

static void open_with(kr_task_source *s, const char *name, uint64_t seed, const char *const *sets) {
    unsigned char settings[KR_TASK_SETTINGS];
    krait_error e;
    const kr_task *task = kr_task_need(name, &e);
    assert_non_null(task);
    kr_settings_default(task->settings, settings);
    for (; sets && *sets; sets++)
        assert_int_equal(kr_settings_assign(task->settings, settings, *sets, "--set", name, &e), 0);
    assert_int_equal(kr_task_open(s, task, settings, seed, NULL, 0, &e), 0);
}

static void make(const kr_task_source *s, kr_task_part part, int64_t i, kr_example *x) {
    krait_error e;
    if (kr_task_make(s, part, i, x, &e) < 0) fail_msg("%s", e.message);
}

static uint64_t hash_of(const kr_task_source *s, const kr_example *x) {
    uint64_t h = (uint64_t)x->count * 31 + (uint64_t)x->label;
    for (int64_t i = 0; i < x->count; i++) {
        if (s->vocabulary) h = h * 0x100000001B3u + (uint64_t)x->ids[i];
        if (kr_task_tells(s) == 0) h = h * 0x100000001B3u + (uint64_t)x->targets[i];
        if (s->channels) h = h * 0x100000001B3u + (uint64_t)(x->values[i] * 65536);
    }
    return h;
}

/* Made in another order, after others, the same; of another seed, part or index, another. */
static void examples_depend_on_their_index(void **state) {
    (void)state;
    static const char *const debug[] = {"depth=5", "shortest=20", "longest=100", NULL};
    for (int t = 0; kr_tasks[t]; t++) {
        if (kr_tasks[t]->files) continue;
        bool small = strcmp(kr_tasks[t]->name, "listops") == 0;
        kr_task_source s, other;
        kr_example x = {0};
        uint64_t h[4];
        open_with(&s, kr_tasks[t]->name, 7, small ? debug : NULL);
        open_with(&other, kr_tasks[t]->name, 8, small ? debug : NULL);
        make(&s, KR_TASK_TRAIN, 5, &x);
        h[0] = hash_of(&s, &x);
        make(&s, KR_TASK_VALID, 5, &x);
        h[1] = hash_of(&s, &x);
        make(&s, KR_TASK_TRAIN, 6, &x);
        h[2] = hash_of(&s, &x);
        make(&other, KR_TASK_TRAIN, 5, &x);
        h[3] = hash_of(&s, &x);
        make(&s, KR_TASK_TRAIN, 5, &x);
        assert_true(hash_of(&s, &x) == h[0] && h[1] != h[0] && h[2] != h[0] && h[3] != h[0]);
        printf("%-18s %016llx\n", s.task->name, (unsigned long long)h[0]);
        kr_example_free(&x);
        kr_task_close(&s);
        kr_task_close(&other);
    }
}

/* lra.md check 6. */
static void copying_keeps_the_order(void **state) {
    (void)state;
    static const char *const sets[] = {"length=100", "memorise=10", "symbols=10", NULL};
    kr_task_source s;
    kr_example x = {0};
    int64_t places[80] = {0}, examples = 4000;
    open_with(&s, "selective_copying", 1, sets);
    for (int64_t i = 0; i < examples; i++) {
        int n = 0;
        make(&s, KR_TASK_TRAIN, i, &x);
        assert_true(x.count == 100);
        for (int64_t k = 0; k < 90; k++) {
            assert_true(x.targets[k] == -1 && x.ids[k] >= 0 && x.ids[k] <= 8);
            if (x.ids[k] == 0) continue;
            assert_true(n < 10 && x.targets[90 + n] == x.ids[k]);
            places[n++ ? k % 80 : k % 80]++;
        }
        assert_int_equal(n, 10);
        for (int64_t k = 90; k < 100; k++) assert_true(x.ids[k] == 9 && x.targets[k] > 0);
    }
    int64_t least = examples, most = 0; /* rows 10..79 are hit once each: 10/90 of the examples */
    for (int k = 10; k < 80; k++) {
        least = places[k] < least ? places[k] : least;
        most = places[k] > most ? places[k] : most;
    }
    printf("a row holds a token in %.3f to %.3f of the examples (expected %.3f)\n",
           (double)least / (double)examples, (double)most / (double)examples, 10.0 / 90);
    assert_true((double)least > 0.09 * (double)examples && (double)most < 0.135 * (double)examples);
    kr_example_free(&x);
    kr_task_close(&s);
}

static void plain_copying_stands_in_front(void **state) {
    (void)state;
    static const char *const sets[] = {"length=64", "memorise=8", "places=front", NULL};
    kr_task_source s;
    kr_example x = {0};
    open_with(&s, "selective_copying", 1, sets);
    make(&s, KR_TASK_TRAIN, 0, &x);
    for (int64_t k = 0; k < 56; k++) assert_true((x.ids[k] != 0) == (k < 8));
    kr_example_free(&x);
    kr_task_close(&s);
}

/* lra.md check 7. */
static void induction_asks_for_what_followed(void **state) {
    (void)state;
    static const char *const sets[] = {"length=64", NULL};
    kr_task_source s;
    kr_example x = {0};
    int64_t answers[15] = {0}, first[64] = {0}, n = 20000;
    open_with(&s, "induction_heads", 3, sets);
    for (int64_t i = 0; i < n; i++) {
        int64_t seen = 0, at = -1;
        make(&s, KR_TASK_TRAIN, i, &x);
        for (int64_t k = 0; k < 64; k++) {
            assert_true(x.ids[k] >= 0 && x.ids[k] < 16 && (k == 63 || x.targets[k] == -1));
            if (x.ids[k] == 15 && seen++ == 0) at = k;
        }
        assert_true(seen == 2 && x.ids[63] == 15 && at <= 61);
        assert_true(x.targets[63] == x.ids[at + 1] && x.targets[63] != 15);
        answers[x.targets[63]]++;
        first[at]++;
    }
    for (int k = 0; k < 15; k++) assert_true(fabs((double)answers[k] * 15 / (double)n - 1) < 0.1);
    for (int k = 0; k < 62; k++) assert_true(fabs((double)first[k] * 62 / (double)n - 1) < 0.25);
    printf("answers are uniform over 15 ids (chance 6.67%%), places over 62 rows\n");
    kr_example_free(&x);
    kr_task_close(&s);
}

/* The value that stood behind the key in the last pair; -1: none. */
static int32_t recall(const kr_example *x, int64_t pairs, int32_t key) {
    for (int64_t i = 0; i < pairs; i++)
        if (x->ids[2 * i] == key) return x->ids[2 * i + 1];
    return -1;
}

/* lra.md check 8, with the sheet's drawing of slots: p_i ~ i^(a-1). */
static void mqar_pairs_keys_with_values(void **state) {
    (void)state;
    static const char *const sets[] = {"length=64", "pairs=4", NULL};
    kr_task_source s;
    kr_example x = {0};
    int64_t slots[28] = {0}, n = 20000, shifted = 0;
    open_with(&s, "mqar", 5, sets);
    for (int64_t i = 0; i < n; i++) {
        int labels = 0;
        make(&s, KR_TASK_TRAIN, i, &x);
        for (int k = 0; k < 4; k++) {
            assert_true(x.ids[2 * k] >= 1 && x.ids[2 * k] < 4096 && x.ids[2 * k + 1] >= 4096);
            assert_true(x.ids[2 * k + 1] < 8192);
            for (int j = 0; j < k; j++)
                assert_true(x.ids[2 * j] != x.ids[2 * k] && x.ids[2 * j + 1] != x.ids[2 * k + 1]);
        }
        for (int64_t k = 0; k < 64; k++) {
            if (x.targets[k] < 0) continue;
            assert_true(k % 2 == 0 && k >= 8);
            assert_int_equal(recall(&x, 4, x.ids[k]), x.targets[k]);
            shifted += k + 1 < 64 && recall(&x, 4, x.ids[k + 1]) == x.targets[k];
            slots[(k - 8) / 2]++;
            labels++;
        }
        assert_int_equal(labels, 4);
    }
    assert_true(shifted < n / 100); /* labels shifted by one fail the oracle */
    printf("queries in slots 1, 2, 4, 28: %.3f %.3f %.3f %.3f of the examples\n",
           (double)slots[0] / (double)n, (double)slots[1] / (double)n, (double)slots[3] / (double)n,
           (double)slots[27] / (double)n);
    /* First draws alone go to slot 1 in 1/sum(i^-0.99) = 0.251; four draws make it 0.70. */
    assert_true(slots[0] > slots[1] && slots[1] > slots[3] && slots[3] > slots[27]);
    assert_true((double)slots[0] > 0.66 * (double)n && (double)slots[0] < 0.74 * (double)n);
    kr_example_free(&x);
    kr_task_close(&s);
}

/* With `fewest`, each number of pairs up to `pairs` comes as often, each pair is asked for. */
static void mqar_mixes_numbers_of_pairs(void **state) {
    (void)state;
    static const char *const sets[] = {"length=64", "pairs=6", "fewest=3", NULL};
    kr_task_source s;
    kr_example x = {0};
    int64_t seen[7] = {0}, n = 4000;
    open_with(&s, "mqar", 5, sets);
    for (int64_t i = 0; i < n; i++) {
        int64_t pairs = 0;
        make(&s, KR_TASK_TRAIN, i, &x);
        for (int64_t k = 0; k < 64; k++) pairs += x.targets[k] >= 0;
        assert_in_range(pairs, 3, 6);
        for (int64_t k = 0; k < 64; k++)
            if (x.targets[k] >= 0) assert_int_equal(recall(&x, pairs, x.ids[k]), x.targets[k]);
        seen[pairs]++;
    }
    printf("of %lld examples, those of 3, 4, 5 and 6 pairs: %lld %lld %lld %lld\n", (long long)n,
           (long long)seen[3], (long long)seen[4], (long long)seen[5], (long long)seen[6]);
    for (int k = 3; k <= 6; k++) assert_true(fabs((double)seen[k] * 4 / (double)n - 1) < 0.1);
    kr_example_free(&x);
    kr_task_close(&s);
}

/* ---- ListOps --------------------------------------------------------------------------------- */

/* Independent of the generator: a stack machine over the tokens. */
static int evaluate(const int32_t *ids, int64_t n, int *depth, bool *whole) {
    int32_t ops[32];
    int counts[32][10], top = -1, value = -1;
    *depth = 0;
    *whole = true;
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] >= KR_LISTOPS_MIN && ids[i] <= KR_LISTOPS_SM) {
            ops[++top] = ids[i];
            memset(counts[top], 0, sizeof counts[top]);
            if (top + 1 > *depth) *depth = top + 1;
            continue;
        }
        if (ids[i] >= KR_LISTOPS_DIGIT) {
            value = ids[i] - KR_LISTOPS_DIGIT;
        } else {
            int low = -1, high = -1, sum = 0, all = 0, a = -1, b = -1, before = 0;
            for (int d = 0; d < 10; d++) all += counts[top][d];
            for (int d = 0; d < 10; d++) {
                int c = counts[top][d];
                if (c && low < 0) low = d;
                if (c) high = d;
                sum += d * c;
                if (a < 0 && before + c > (all - 1) / 2) a = d;
                if (b < 0 && before + c > all / 2) b = d;
                before += c;
            }
            int32_t op = ops[top--];
            value = op == KR_LISTOPS_MIN   ? low
                    : op == KR_LISTOPS_MAX ? high
                    : op == KR_LISTOPS_MED ? (a + b) / 2
                                           : sum % 10;
        }
        if (top >= 0) counts[top][value]++;
        if (top < 0 && i + 1 < n) *whole = false;
    }
    *whole = *whole && top < 0;
    return value;
}

static int value_of(const int32_t *ids, int64_t n) {
    int depth;
    bool whole;
    return evaluate(ids, n, &depth, &whole);
}

/* lra.md check 1 on single expressions. */
static void listops_by_hand(void **state) {
    (void)state;
    enum { D = KR_LISTOPS_DIGIT, C = KR_LISTOPS_CLOSE };
    assert_int_equal(value_of((int32_t[]){KR_LISTOPS_MED, D + 1, D + 4, C}, 4), 2);
    assert_int_equal(value_of((int32_t[]){KR_LISTOPS_MED, D + 1, D + 2, D + 3, D + 9, C}, 6), 2);
    assert_int_equal(value_of((int32_t[]){KR_LISTOPS_SM, D + 7, D + 8, C}, 4), 5);
}

/* lra.md check 1: the share of draws that is kept, lengths, and no operator at depth 10. */
static void listops_acceptance(void **state) {
    (void)state;
    static int32_t ids[1999];
    int64_t draws = 250000, kept = 0;
    kr_rng r = kr_rng_make(11, 0);
    for (int64_t i = 0; i < draws; i++) {
        int value;
        int64_t n = kr_listops_draw(&r, 10, 10, ids, 1999, &value);
        kept += n > 500;
    }
    printf("kept %.2f%% of the draws (sheet: 8.3)\n", 100.0 * (double)kept / (double)draws);
    assert_true(fabs((double)kept / (double)draws - 0.083) < 0.002);
}

static void listops_statistics(void **state) {
    (void)state;
    const int64_t n = 12000;
    int64_t classes[10] = {0}, by_root[4][10] = {{0}}, rows = 0, digits = 0, tokens = 0;
    kr_task_source s;
    kr_example x = {0};
    open_with(&s, "listops", 2, NULL);
    for (int64_t i = 0; i < n; i++) {
        int depth;
        bool whole;
        make(&s, KR_TASK_TRAIN, i, &x);
        int64_t count = x.count - 1;
        assert_true(count >= 501 && count <= 1999 && x.ids[count] == KR_LISTOPS_END);
        assert_int_equal(evaluate(x.ids, count, &depth, &whole), x.label);
        assert_true(whole && depth == 9); /* levels of operators: never at depth 10 */
        classes[x.label]++;
        by_root[x.ids[0] - KR_LISTOPS_MIN][x.label]++;
        rows += count;
        for (int64_t k = 0; k < count; k++) digits += x.ids[k] >= KR_LISTOPS_DIGIT;
        tokens += count;
    }
    int64_t best = 0;
    for (int op = 0; op < 4; op++) {
        int64_t most = 0;
        for (int v = 0; v < 10; v++) most = by_root[op][v] > most ? by_root[op][v] : most;
        best += most;
    }
    double zero = (double)classes[0] / (double)n, nine = (double)classes[9] / (double)n;
    double root = (double)best / (double)n, mean = (double)rows / (double)n;
    double digit = (double)digits / (double)tokens;
    printf("class 0 %.4f, 9 %.4f (sheet .1687 .1683); root operator alone %.4f (.359); mean length "
           "%.0f (1034); digits %.4f (.715)\n",
           zero, nine, root, mean, digit);
    assert_true(fabs(zero - 0.168) < 0.012 && fabs(nine - 0.168) < 0.012);
    assert_true(fabs(root - 0.359) < 0.012 && fabs(mean - 1034) < 15 &&
                fabs(digit - 0.715) < 0.003);
    kr_example_free(&x);
    kr_task_close(&s);
}

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* lra.md check 2: even where expressions are so short that they come again and again. */
static void listops_parts_share_nothing(void **state) {
    (void)state;
    enum { N = 4000 };
    static const char *const sets[] = {"depth=3", "arguments=3", "shortest=4", "longest=9", NULL};
    static uint64_t seen[KR_TASK_PARTS][N];
    kr_task_source s;
    kr_example x = {0};
    int64_t again = 0;
    open_with(&s, "listops", 2, sets);
    for (int p = 0; p < KR_TASK_PARTS; p++) {
        for (int64_t i = 0; i < N; i++) {
            make(&s, (kr_task_part)p, i, &x);
            seen[p][i] = hash_of(&s, &x);
        }
        qsort(seen[p], N, sizeof **seen, compare);
        for (int i = 1; i < N; i++) again += seen[p][i] == seen[p][i - 1];
    }
    for (int p = 1; p < KR_TASK_PARTS; p++)
        for (int i = 0; i < N; i++)
            assert_null(bsearch(&seen[p][i], seen[0], N, sizeof **seen, compare));
    printf("%lld expressions came again within a part, none in two\n", (long long)again);
    assert_true(again > 0);
    kr_example_free(&x);
    kr_task_close(&s);
}

/* ---- pixels ---- */

/* lra.md check 3. */
static void permuted_pixels(void **state) {
    (void)state;
    enum { MOST = 1024 };
    static const int32_t begin[] = {0, 512, 256, 768, 128, 640, 384, 64, 576, 320};
    static const int32_t sizes[] = {784, 1024, 1, 5};
    for (int k = 0; k < 4; k++) {
        int32_t n = sizes[k], order[MOST], back[MOST], fixed = 0;
        memset(back, -1, sizeof back);
        kr_pixel_order(n, order);
        for (int32_t i = 0; i < n; i++) {
            assert_true(order[i] >= 0 && order[i] < n && back[order[i]] == -1);
            back[order[i]] = i;
            fixed += order[i] == i;
        }
        for (int32_t i = 0; i < n; i++) assert_true(order[back[i]] == i);
        printf("%d pixels: each once, %d in their old place\n", n, fixed);
        if (n == 784) assert_memory_equal(order, begin, sizeof begin);
        assert_true(n < 784 || fixed < n / 10);
    }
}

/* ---- Pathfinder ------------------------------------------------------------------------------ */

typedef struct path_sums {
    double starts, distance[2], heaviest;
    int64_t labels[2], others[6], gaps, odd_gaps;
} path_sums;

/* From the second gap on: the first stroke ends between pixels, the next one where it is rounded.
 */
static void add_gaps(const kr_path_stroke *strokes, path_sums *sum) {
    for (int p = 0; p < 2; p++)
        for (int k = 2; k < 14; k++) {
            const kr_path_stroke *a = &strokes[p * 14 + k - 1], *b = a + 1;
            double gap = hypot(a->head[0] - b->tail[0], a->head[1] - b->tail[1]);
            sum->gaps++;
            sum->odd_gaps += gap < 0.75 || gap > 3.25;
        }
}

/* Strokes as the published generator's functions give them with the picture library that it uses
 * (Pillow 13): levels of a window, and sums. */
static void pathfinder_strokes(void **state) {
    (void)state;
    static const int at_30[81] = {0,   0,  0,  0,   0,   0,  0,  0,   0,   0,   0,   0,   1,   3,
                                  3,   0,  0,  0,   0,   0,  0,  0,   0,   0,   3,   1,   0,   0,
                                  1,   0,  19, 143, 57,  0,  0,  0,   0,   3,   0,   154, 255, 250,
                                  175, 20, 0,  0,   1,   2,  20, 189, 255, 255, 182, 3,   0,   0,
                                  1,   0,  13, 118, 206, 38, 0,  0,   0,   0,   1,   0,   0,   0,
                                  0,   0,  0,  0,   0,   0,  1,  3,   1,   2,   0};
    static const struct {
        int length, margin;
        double thickness;
        int degrees, stroke, mask, full;
    } k[] = {{2, 1, 0.5, 30, 429, 2379, 3},     {2, 1, 0.5, -155, 372, 2079, 2},
             {5, 1, 1, 30, 1293, 4695, 7},      {5, 2, 1.5, 100, 2258, 11842, 14},
             {5, 3, 1.5, -60, 2474, 19410, 32}, {5, 3, 2, -130, 2907, 20243, 36}};
    for (size_t i = 0; i < sizeof k / sizeof *k; i++) {
        kr_path_pen pen;
        kr_path_print p;
        double stroke = 0, mask = 0;
        int full = 0;
        kr_path_pen_make(&pen, k[i].length, k[i].margin, k[i].thickness);
        kr_path_pen_draw(&pen, k[i].degrees * 3.14159265358979323846 / 180, &p);
        for (int j = 0; j < pen.side * pen.side; j++) {
            stroke += 255 * (double)p.stroke[j];
            mask += 255 * (double)p.mask[j];
            full += p.mask[j] >= 1;
            if (i == 0) assert_true(fabs(255 * (double)p.mask[j] - at_30[j]) < 1.1);
        }
        printf("%d pixels at %d degrees: stroke %.0f (%d), mask %.0f (%d), full %d (%d)\n",
               k[i].length, k[i].degrees, stroke, k[i].stroke, mask, k[i].mask, full, k[i].full);
        assert_true(fabs(stroke - k[i].stroke) < 6 && fabs(mask - k[i].mask) < 6);
        assert_int_equal(full, k[i].full);
    }
}

/* Both markers are there, as bright as anything. (A path may begin at the lower or right border:
 * the source looks for free ground below and to the right of it, where nothing is.) */
static void check_picture(const float *image, const kr_path_facts *f) {
    for (int i = 0; i < 32 * 32; i++) assert_true(image[i] >= 0 && image[i] <= 1);
    for (int k = 0; k < 2; k++)
        for (int d = -1; d <= 1; d++) {
            int y = f->marker[k][0] + d, x = f->marker[k][1];
            assert_true(y < 0 || y >= 32 || image[y * 32 + x] == 1);
        }
}

static void draw_pictures(int64_t n, path_sums *sum) {
    static const kr_path_shape shape = {32, 1, 1, 1, 2, 0.5, 1.5, 1.0, 7, 14, 5, 4};
    static float image[32 * 32];
    kr_path_stroke strokes[28];
    for (int64_t i = 0; i < n; i++) {
        krait_error e;
        kr_path_facts f = {.strokes = strokes};
        kr_rng r = kr_rng_make(4, (uint64_t)i);
        int label = (int)kr_rng_below(&r, 2);
        assert_int_equal(kr_path_draw(&shape, label, &r, image, &f, &e), 0);
        check_picture(image, &f);
        add_gaps(strokes, sum);
        sum->starts += f.starts;
        sum->others[f.distractors]++;
        sum->labels[label]++;
        sum->heaviest = fmax(sum->heaviest, f.heaviest);
        sum->distance[label] +=
            hypot(f.marker[0][0] - f.marker[1][0], f.marker[0][1] - f.marker[1][1]);
    }
}

/* lra.md check 4; in brackets what the sheet says. (The published generator itself, 600 pictures
 * with Pillow 13: 47.7 starts, five other paths in .685, four in .278, 13.1 and 13.6 apart.) */
static void pathfinder_statistics(void **state) {
    (void)state;
    const int64_t n = 1500;
    path_sums sum = {0};
    draw_pictures(n, &sum);
    double share = (double)sum.labels[1] / (double)n, five = (double)sum.others[5] / (double)n;
    double odd = (double)sum.odd_gaps / (double)sum.gaps;
    double apart[2] = {sum.distance[0] / (double)sum.labels[0],
                       sum.distance[1] / (double)sum.labels[1]};
    printf(
        "label 1 %.3f; starts %.1f (46.8); other paths 5 in %.3f (sheet .689), 4 in %.3f (.277); "
        "markers apart %.1f, %.1f (13.0, 13.6); gaps outside 0.75..3.25: %.4f; heaviest %.3f\n",
        share, sum.starts / (double)n, five, (double)sum.others[4] / (double)n, apart[0], apart[1],
        odd, sum.heaviest);
    assert_true(fabs(share - 0.5) < 0.04 && sum.heaviest < 1.8 && odd < 0.005);
    assert_true(fabs(sum.starts / (double)n - 46.8) < 4 && fabs(five - 0.689) < 0.04);
    assert_true(fabs((double)sum.others[4] / (double)n - 0.277) < 0.05);
    assert_true(fabs(apart[0] - 13.0) < 0.5 && fabs(apart[1] - 13.6) < 0.5);
}

static int compare_real(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* lra.md check 5: no threshold on the markers' distance tells the label (sheet: 53.3%). */
static void pathfinder_leaks_little(void **state) {
    (void)state;
    enum { N = 3000 };
    static const kr_path_shape shape = {32, 1, 1, 1, 2, 0.5, 1.5, 1.0, 7, 14, 5, 4};
    static double keyed[N];
    static float image[32 * 32];
    for (int i = 0; i < N; i++) {
        kr_path_facts f = {.strokes = NULL};
        kr_rng r = kr_rng_make(9, (uint64_t)i);
        int label = (int)kr_rng_below(&r, 2);
        assert_int_equal(kr_path_draw(&shape, label, &r, image, &f, NULL), 0);
        double d = hypot(f.marker[0][0] - f.marker[1][0], f.marker[0][1] - f.marker[1][1]);
        keyed[i] = floor(d * 1e6) * 2 + label; /* sorted by distance, the label in the last bit */
    }
    qsort(keyed, N, sizeof *keyed, compare_real);
    int ones = 0, best = 0, below = 0;
    for (int i = 0; i < N; i++) ones += fmod(keyed[i], 2) != 0;
    for (int i = 0; i < N; i++) { /* label 1 above the threshold, or below it */
        below += fmod(keyed[i], 2) != 0;
        int right = (i + 1 - below) + (ones - below), wrong = N - right;
        best = right > best ? right : best;
        best = wrong > best ? wrong : best;
    }
    printf("the best threshold on the markers' distance: %.3f\n", (double)best / N);
    assert_true((double)best / N < 0.55);
}

/* `fewest` mixes pictures of fewer strokes in, which have less light on their paths: the shortest
 * of many pictures is a short one, the longest as without it. */
static void pathfinder_mixes_easy_pictures(void **state) {
    (void)state;
    static const char *const hard[] = {"size=16", "strokes=6", NULL};
    static const char *const easy[] = {"size=16", "strokes=3", NULL};
    static const char *const mixed[] = {"size=16", "strokes=6", "fewest=3", NULL};
    static const char *const *const sets[] = {easy, mixed, hard};
    enum { N = 300 };
    double light[3] = {0};
    for (int i = 0; i < 3; i++) {
        kr_task_source s;
        kr_example x = {0};
        open_with(&s, "pathfinder", 1, sets[i]);
        for (int k = 0; k < N; k++) {
            make(&s, KR_TASK_TRAIN, k, &x);
            assert_true(x.count == 16 * 16);
            for (int64_t t = 0; t < x.count; t++) light[i] += (double)x.values[t] / N;
        }
        kr_example_free(&x);
        kr_task_close(&s);
    }
    printf("light of 3, of 3 to 6 and of 6 strokes: %.1f %.1f %.1f\n", light[0], light[1],
           light[2]);
    double middle = (light[1] - light[0]) / (light[2] - light[0]);
    assert_true(light[2] > 1.1 * light[0] && middle > 0.3 && middle < 0.7);
}

/* The larger pictures are made too. */
static void pathfinder_sizes(void **state) {
    (void)state;
    static const char *const sizes[][2] = {{"size=64", NULL}, {"size=128", NULL}};
    for (int i = 0; i < 2; i++) {
        kr_task_source s;
        kr_example x = {0};
        open_with(&s, "pathfinder", 1, sizes[i]);
        make(&s, KR_TASK_TRAIN, 0, &x);
        double light = 0;
        for (int64_t k = 0; k < x.count; k++) light += (double)x.values[k];
        printf("%lld x %lld: %.1f%% light\n", (long long)s.width, (long long)s.width,
               100 * light / (double)x.count);
        assert_true(x.count == s.width * s.width && light > 0.01 * (double)x.count);
        kr_example_free(&x);
        kr_task_close(&s);
    }
}

/* ---- tones ---- */

/* Given less often, the same signal; and without noise the tone of the label alone. */
static void tones_are_sampled(void **state) {
    (void)state;
    static const char *const all[] = {"noise=0", NULL}, *const some[] = {"noise=0", "every=3",
                                                                         NULL};
    kr_task_source s, t;
    kr_example x = {0}, y = {0};
    open_with(&s, "tones", 5, all);
    open_with(&t, "tones", 5, some);
    for (int64_t i = 0; i < 20; i++) {
        make(&s, KR_TASK_TEST, i, &x);
        make(&t, KR_TASK_TEST, i, &y);
        assert_true(x.count == 256 && y.count == 86 && x.label == y.label);
        for (int64_t k = 0; k < y.count; k++) assert_true(y.values[k] == x.values[3 * k]);
        double rises = 0, f = pow(6.4, (double)x.label / 3) / 64;
        for (int64_t k = 1; k < x.count; k++) rises += x.values[k - 1] < 0 && x.values[k] >= 0;
        assert_true(fabs(rises - f * 255) <= 1.5 + 0.05 * f * 255);
    }
    kr_example_free(&x);
    kr_example_free(&y);
    kr_task_close(&s);
    kr_task_close(&t);
}

/* ---- numbers ---- */

/* A sheet's signal: rms 0.5, nothing above the cut-off, and it is said again after the lag. */
static void delays_are_as_described(void **state) {
    (void)state;
    static const char *const sets[] = {"length=200", "lag=30", "cutoff=0.1", NULL};
    kr_task_source s;
    kr_example x = {0};
    double square = 0, high = 0;
    open_with(&s, "delay", 5, sets);
    for (int64_t i = 0; i < 50; i++) {
        make(&s, KR_TASK_TRAIN, i, &x);
        assert_true(x.count == 200 && x.values[0] == 0);
        double mean = 0, re = 0, im = 0;
        for (int t = 0; t < 200; t++) {
            mean += (double)x.values[t] / 200;
            re += (double)x.values[t] * cos(0.22 * 3.14159265358979 * t) / 200;
            im += (double)x.values[t] * sin(0.22 * 3.14159265358979 * t) / 200;
            assert_true(x.numbers[t] == (t < 30 ? 0 : x.values[t - 30]));
        }
        for (int t = 0; t < 200; t++)
            square += ((double)x.values[t] - mean) * ((double)x.values[t] - mean) / 200 / 50;
        high = fmax(high, hypot(re, im));
    }
    printf("delay: rms %.3f, a wave above the cut-off %.2g\n", sqrt(square), high);
    assert_true(fabs(sqrt(square) - 0.5) < 0.04 && high < 1e-6);
    kr_example_free(&x);
    kr_task_close(&s);
}

static void adding_adds_the_marked(void **state) {
    (void)state;
    kr_task_source s;
    kr_example x = {0};
    double square = 0;
    open_with(&s, "adding", 5, NULL);
    for (int64_t i = 0; i < 600; i++) {
        make(&s, KR_TASK_TRAIN, i, &x);
        double sum = 0, first = 0, second = 0;
        for (int64_t t = 0; t < x.count; t++) {
            sum += (double)(x.values[2 * t] * x.values[2 * t + 1]);
            *(t < x.count / 2 ? &first : &second) += (double)x.values[2 * t + 1];
        }
        assert_true(first == 1 && second == 1 && fabs(sum - (double)x.numbers[0]) < 1e-6);
        square += (sum - 1) * (sum - 1) / 600;
    }
    printf("adding: saying 1 is off by %.4f (1/6)\n", square);
    assert_true(fabs(square - 1.0 / 6) < 0.02);
    kr_example_free(&x);
    kr_task_close(&s);
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void refusals(void **state) {
    (void)state;
    static const char *const bad[][3] = {{"selective_copying", "length=20",
                                          "must be at least 2 * memorise"},
                                         {"mqar", "pairs=17",
                                          "must be even and at least 4 * pairs"},
                                         {"mqar", "symbols=6", "4 pairs need at least 10"},
                                         {"mqar", "fewest=5", "fewest (5) is above pairs (4)"},
                                         {"pathfinder", "fewest=2", "fewest is 2, must be 0, or 3"},
                                         {"listops", "shortest=5000", "is above longest"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        unsigned char settings[KR_TASK_SETTINGS];
        kr_task_source s;
        krait_error e;
        const kr_task *task = kr_task_find(bad[i][0]);
        kr_settings_default(task->settings, settings);
        assert_int_equal(kr_settings_assign(task->settings, settings, bad[i][1], "--set", "task",
                                            &e),
                         0);
        assert_true(kr_task_open(&s, task, settings, 1, NULL, 0, &e) < 0);
        printf("%s\n", e.message);
        assert_non_null(strstr(e.message, bad[i][2]));
    }
    krait_error e;
    kr_task_source s;
    assert_null(kr_task_need("copying", &e));
    assert_non_null(strstr(e.message, "there are: selective_copying, induction_heads"));
    const char *path = "x";
    assert_true(kr_task_open(&s, kr_task_find("mqar"), NULL, 1, &path, 1, &e) < 0);
    assert_non_null(strstr(e.message, "makes its own data"));
}

static void impossible_listops(void **state) {
    (void)state;
    static const char *const sets[] = {"depth=2", "shortest=15", "longest=20", NULL};
    kr_task_source s;
    kr_example x = {0};
    krait_error e;
    open_with(&s, "listops", 1, sets);
    assert_true(kr_task_make(&s, KR_TASK_TRAIN, 0, &x, &e) < 0);
    printf("%s\n", e.message);
    assert_non_null(strstr(e.message, "no expression of 15 to 20 tokens"));
    kr_example_free(&x);
    kr_task_close(&s);
}

/* Every task's settings fit their place, and have a help. */
static void tables(void **state) {
    (void)state;
    for (int t = 0; kr_tasks[t]; t++) {
        assert_true(kr_tasks[t]->settings_size <= KR_TASK_SETTINGS);
        for (const kr_setting *k = kr_tasks[t]->settings; k && k->name; k++)
            assert_true(k->at < kr_tasks[t]->settings_size && k->help);
    }
}

/* ---- published ---- */

/* The next cell of a table's row, 50 where it says "fail", as its authors count it; false: it is no
 * number. */
static bool read_cell(const char **row, double *cell) {
    const char *at = *row + strspn(*row, "| ");
    bool fail = strncmp(at, "fail", 4) == 0;
    char *end = NULL;
    *cell = fail ? 50 : strtod(at, &end);
    *row = strchr(at, '|');
    return *row && (fail || end != at);
}

/* lra.md check 9: of docs/tasks.md, which quotes the table, each average is that of its row. */
static void published_averages(void **state) {
    (void)state;
    enum { TASKS = 6 };
    FILE *f = fopen(KR_SOURCE_DIR "/docs/tasks.md", "r");
    char line[1024];
    int rows = 0, fails = 0;
    double worst = 0;
    assert_non_null(f);
    while (fgets(line, sizeof line, f) && strncmp(line, "## Published", 12) != 0) continue;
    while (fgets(line, sizeof line, f) && line[0] != '#') {
        const char *row = line[0] == '|' ? strchr(line + 1, '|') : NULL;
        double cell, sum = 0;
        int n = 0;
        for (; row && n < TASKS && read_cell(&row, &cell); n++) sum += cell / TASKS;
        if (n < TASKS || !read_cell(&row, &cell)) continue;
        if (fabs(sum - cell) > worst) worst = fabs(sum - cell);
        fails += strstr(line, "fail") != NULL;
        rows++;
    }
    fclose(f);
    printf("%d averages, %d with a task that failed: off by at most %.4f\n", rows, fails, worst);
    assert_true(rows == 17 && fails == 7 && worst < 0.01);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(examples_depend_on_their_index),
        cmocka_unit_test(copying_keeps_the_order),
        cmocka_unit_test(plain_copying_stands_in_front),
        cmocka_unit_test(induction_asks_for_what_followed),
        cmocka_unit_test(tones_are_sampled),
        cmocka_unit_test(delays_are_as_described),
        cmocka_unit_test(adding_adds_the_marked),
        cmocka_unit_test(mqar_pairs_keys_with_values),
        cmocka_unit_test(mqar_mixes_numbers_of_pairs),
        cmocka_unit_test(listops_by_hand),
        cmocka_unit_test(listops_acceptance),
        cmocka_unit_test(listops_statistics),
        cmocka_unit_test(listops_parts_share_nothing),
        cmocka_unit_test(permuted_pixels),
        cmocka_unit_test(published_averages),
        cmocka_unit_test(pathfinder_strokes),
        cmocka_unit_test(pathfinder_statistics),
        cmocka_unit_test(pathfinder_leaks_little),
        cmocka_unit_test(pathfinder_mixes_easy_pictures),
        cmocka_unit_test(pathfinder_sizes),
        cmocka_unit_test(refusals),
        cmocka_unit_test(impossible_listops),
        cmocka_unit_test(tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
