/* listops.c - nested MIN, MAX, MED (median) and SM (sum modulo 10) of digits: what is the value?
 *
 *   draw(d) = an operator with 2..10 arguments draw(d+1), chance 1/4 where d < 10; else a digit
 *
 * kept when 500 < tokens < 2000. A token is an operator with its bracket, a closing bracket or a
 * digit; an end token follows. MED of an even count is the floor of the mean of the two in the
 * middle. No expression is in two parts: a hash of its tokens says to which it belongs.
 * Sources: Nangia & Bowman 2018; Tay et al. 2021 (Long Range Arena), whose order of drawing (the
 * operator after its arguments) and strict bounds these are. */
#include "data/tasks/listops.h"

#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "data/tasks/task.h"

typedef struct listops {
    int64_t depth, arguments, shortest, longest;
} listops;

static const kr_setting settings[] = {
    KR_SETTING_INT_OF(listops, depth, 10, 2, 20, "the deepest level, where only digits stand"),
    KR_SETTING_INT_OF(listops, arguments, 10, 2, KR_LISTOPS_MOST_ARGS,
                      "the most arguments of an operator"),
    KR_SETTING_INT_OF(listops, shortest, 501, 1, 1 << 20, "the fewest tokens of an expression"),
    KR_SETTING_INT_OF(listops, longest, 1999, 1, 1 << 20,
                      "the most tokens of an expression (an end token follows)"),
    {.name = NULL}};

static int open_task(kr_task_source *s, krait_error *e) {
    const listops *c = (const listops *)s->settings;
    if (c->shortest > c->longest)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "shortest (%lld) is above longest (%lld)",
                       (long long)c->shortest, (long long)c->longest);
    s->vocabulary = KR_LISTOPS_IDS;
    s->classes = 10;
    s->longest = c->longest + 1;
    s->answers = 1;
    return 0;
}

/* ---- one expression ---- */

typedef struct drawing {
    kr_rng *r;
    int64_t depth, arguments, count, room;
    int32_t *ids;
} drawing;

static int median(int *v, int n) {
    for (int i = 1; i < n; i++)
        for (int k = i; k > 0 && v[k - 1] > v[k]; k--) {
            int t = v[k];
            v[k] = v[k - 1];
            v[k - 1] = t;
        }
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static int apply(int32_t op, int *v, int n) {
    int low = 9, high = 0, sum = 0;
    if (op == KR_LISTOPS_MED) return median(v, n);
    for (int i = 0; i < n; i++) {
        if (v[i] < low) low = v[i];
        if (v[i] > high) high = v[i];
        sum += v[i];
    }
    return op == KR_LISTOPS_MIN ? low : op == KR_LISTOPS_MAX ? high : sum % 10;
}

static void put(drawing *d, int32_t id) {
    if (d->count < d->room) d->ids[d->count] = id;
    d->count++;
}

/* The value; once there are too many tokens, anything. Recursion ends at d->depth levels. */
static int draw(drawing *d, int64_t level) {
    int values[KR_LISTOPS_MOST_ARGS];
    double u = level < d->depth ? kr_rng_uniform(d->r) : 1;
    if (u > 0.25 || d->count > d->room) {
        int digit = (int)kr_rng_below(d->r, 10);
        put(d, KR_LISTOPS_DIGIT + digit);
        return digit;
    }
    int n = (int)kr_task_between(d->r, 2, d->arguments);
    int64_t at = d->count;
    put(d, KR_LISTOPS_CLOSE); /* the operator's place */
    for (int i = 0; i < n; i++) values[i] = draw(d, level + 1);
    int32_t op = (int32_t)kr_task_between(d->r, KR_LISTOPS_MIN, KR_LISTOPS_SM);
    put(d, KR_LISTOPS_CLOSE);
    if (at < d->room) d->ids[at] = op;
    return apply(op, values, n);
}

int64_t kr_listops_draw(kr_rng *r, int64_t depth, int64_t arguments, int32_t *ids, int64_t room,
                        int *value) {
    drawing d = {r, depth, arguments, 0, room, ids};
    *value = draw(&d, 1);
    return d.count > room ? -1 : d.count;
}

/* ---- the task ---- */

/* A half is for training, a quarter each for the other parts. */
static kr_task_part part_of(const int32_t *ids, int64_t n) {
    static const kr_task_part parts[] = {KR_TASK_TRAIN, KR_TASK_TRAIN, KR_TASK_VALID, KR_TASK_TEST};
    uint64_t hash = 0xCBF29CE484222325u;
    for (int64_t i = 0; i < n; i++) hash = (hash ^ (uint64_t)ids[i]) * 0x100000001B3u;
    return parts[(hash ^ hash >> 32) & 3];
}

static int make(const kr_task_source *s, kr_task_part part, int64_t index, kr_rng *r, kr_example *x,
                krait_error *e) {
    enum { TRIES = 1000000 };
    const listops *c = (const listops *)s->settings;
    int value;
    (void)index;
    KR_TRY(kr_example_size(x, s, c->longest + 1, e));
    for (int i = 0; i < TRIES; i++) {
        int64_t n = kr_listops_draw(r, c->depth, c->arguments, x->ids, c->longest, &value);
        if (n < c->shortest || part_of(x->ids, n) != part) continue;
        x->ids[n] = KR_LISTOPS_END;
        x->count = n + 1;
        x->label = value;
        return 0;
    }
    return kr_fail(e, KRAIT_ERR_ARGUMENT,
                   "task listops: no expression of %lld to %lld tokens in %d draws: change depth, "
                   "arguments, shortest or longest",
                   (long long)c->shortest, (long long)c->longest, TRIES);
}

static const char *token(const kr_task_source *s, int32_t id, char text[16]) {
    static const char *const names[] = {"<pad>", "<unk>", "<end>", "[MIN",
                                        "[MAX",  "[MED",  "[SM",   "]"};
    (void)s;
    if (id < KR_LISTOPS_DIGIT) return names[id];
    snprintf(text, 16, "%d", (int)id - KR_LISTOPS_DIGIT);
    return text;
}

const kr_task kr_task_listops = {
    .name = "listops",
    .about = "the value of nested MIN, MAX, MED and SM of digits",
    .settings = settings,
    .settings_size = sizeof(listops),
    .open = open_task,
    .make = make,
    .token = token,
};
