/* train_plan.c - the plan of a run: model, data, schedule, and where every byte of memory goes,
 * told before the first step. */
#define _DEFAULT_SOURCE
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "device/cpu/cpu_gemm.h"
#include "train/trainer.h"

typedef struct text {
    char *at;
    size_t used, room;
} text;

static void line(text *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void line(text *s, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(s->at + s->used, s->room - s->used, format, args);
    va_end(args);
    if (n > 0) s->used += (size_t)n < s->room - s->used ? (size_t)n : s->room - s->used - 1;
}

/* Bytes of this process that are in memory now; 0 where the system does not tell. */
static size_t resident_bytes(void) {
    long long pages = 0, skip;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f) return 0;
    if (fscanf(f, "%lld %lld", &skip, &pages) != 2) pages = 0;
    fclose(f);
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* What a run will have touched of the token cache: a mapped file's pages stay while memory is free.
 */
static size_t mapped_bytes(const kr_trainer *t) {
    struct stat st;
    const char *path = t->store ? kr_store_cache_file(t->store) : NULL;
    if (!path || stat(path, &st) != 0) return 0;
    double size = (double)st.st_size, all = (double)kr_store_tokens(t->store);
    double read = (double)(t->recipe.batch * t->recipe.window * t->recipe.accumulate) *
                  (double)(t->recipe.steps - t->step);
    return (size_t)(read < all ? size * read / all : size);
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* The most outputs, and the most inputs, of the model's linear maps. */
static void widest_matrix(const kr_graph *g, int64_t *outputs, int64_t *inputs) {
    for (int i = 0; i < kr_graph_param_count(g); i++) {
        const kr_param_decl *d;
        kr_graph_param_at(g, i, &d);
        if (!d->matrix) continue;
        if (d->shape[0] > *outputs) *outputs = d->shape[0];
        if (d->shape[1] > *inputs) *inputs = d->shape[1];
    }
}

/* The matrix-product library makes its code and buffers when it is first used, sized by the shapes
 * it sees: products of this run's shapes, so that "program and data" holds them. */
static void warm_up(const kr_trainer *t) {
    int64_t outputs = 1, inputs = 1;
    widest_matrix(t->lm.g, &outputs, &inputs);
    int64_t m = smaller(kr_trainer_shape(t, t->recipe.batch).rows, 2048);
    int64_t n = smaller(outputs, 4096), k = smaller(inputs, 2048);
    float *x = kr_calloc((size_t)(m * k), sizeof *x), *w = kr_calloc((size_t)(n * k), sizeof *w);
    float *y = kr_calloc((size_t)(m * n), sizeof *y);
    if (x && w && y) {
        kr_gemm_run(&(kr_gemm){false, true, false, m, n, k, x, w, y, k, k, n, NULL}, t->threads);
        kr_gemm_run(&(kr_gemm){false, false, false, m, k, n, y, w, x, n, k, k, NULL}, t->threads);
        kr_gemm_run(&(kr_gemm){true, false, false, n, k, m, y, x, w, n, k, k, NULL}, t->threads);
    }
    kr_free(x);
    kr_free(w);
    kr_free(y);
}

static void tell_device(text *s, const kr_trainer *t) {
    line(s, "device      %s, %s\n", kr_device_name(t->level),
         t->half ? "bf16 activations, f32 sums, states, residual stream and weights" : "f32");
    line(s, "recomputed  outputs of norms, convolutions and recurrences%s\n",
         t->recipe.recompute ? ", and of the input projections" : "");
}

static void tell_data(text *s, const kr_trainer *t) {
    const kr_recipe *r = &t->recipe;
    kr_loader_info info;
    kr_loader_describe(t->data, &info);
    line(s, "data        %lld tokens, %lld documents; %lld tokens held out\n",
         (long long)info.tokens, (long long)info.documents,
         (long long)(kr_store_tokens(t->store) - info.tokens));
    int64_t tokens = r->batch * r->window * r->accumulate;
    line(s, "steps       %lld of %lld tokens (batch %lld, window %lld, accumulated %lld)\n",
         (long long)r->steps, (long long)tokens, (long long)r->batch, (long long)r->window,
         (long long)r->accumulate);
    line(s, "passes      %.2f over the data\n",
         (double)r->steps * (double)tokens / (double)info.tokens);
}

static void tell_task(text *s, const kr_trainer *t) {
    const kr_recipe *r = &t->recipe;
    const kr_task_source *k = &t->task;
    int64_t all = k->examples[KR_TASK_TRAIN], step = r->batch * r->accumulate;
    line(s, "task        %s, up to %lld rows, ", k->task->name, (long long)k->longest);
    if (k->classes)
        line(s, "one of %lld classes\n", (long long)k->classes);
    else if (k->numbers)
        line(s, "%lld number(s) %s\n", (long long)k->numbers, k->each_row ? "a row" : "in all");
    else
        line(s, "up to %lld answers\n", (long long)k->answers);
    line(s, "steps       %lld of %lld examples (batch %lld, accumulated %lld)\n",
         (long long)r->steps, (long long)step, (long long)r->batch, (long long)r->accumulate);
    if (all)
        line(s, "passes      %.2f over %lld examples\n",
             (double)r->steps * (double)step / (double)all, (long long)all);
}

static void tell_run(text *s, const kr_trainer *t) {
    const kr_config *c = &t->model->config;
    line(s, "model       %s, %lld layers, width %lld, vocabulary %lld\n", c->mixer,
         (long long)c->layers, (long long)c->width, (long long)c->vocabulary);
    line(s, "parameters  %lld\n", (long long)t->model->parameters);
    if (kr_trainer_has_task(t))
        tell_task(s, t);
    else
        tell_data(s, t);
    line(s, "threads     %d, kernels %s\n", t->threads, kr_level_name(t->level));
    if (t->level == KR_LEVEL_CUDA) tell_device(s, t);
}

static void tell_bytes(text *s, const char *what, size_t bytes, size_t *total) {
    line(s, "  %-22s %10.2f MiB\n", what, (double)bytes / 1048576);
    *total += bytes;
}

/* What training takes where it runs. */
static void tell_work(text *s, const kr_trainer *t, size_t *total) {
    kr_plan_sizes p;
    kr_graph_sizes(t->lm.g, &p);
    tell_bytes(s, "weights", kr_trainer_weight_bytes(t), total);
    tell_bytes(s, "gradients", p.gradients, total);
    tell_bytes(s, "optimiser", kr_optimiser_bytes(t->lm.g), total);
    tell_bytes(s, "activations", p.activations, total);
    tell_bytes(s, "scratch", p.scratch, total);
    tell_bytes(s, "carried states", kr_lane_states_bytes(&t->lm, true), total);
}

static void tell_total(text *s, size_t total) {
    line(s, "  %-22s %10.2f MiB\n", "in all", (double)total / 1048576);
}

static void tell_host(text *s, const kr_trainer *t, size_t *total) {
    size_t resident = resident_bytes(), weights = kr_trainer_weight_bytes(t);
    line(s, "memory\n");
    tell_bytes(s, "program and data", resident > weights ? resident - weights : 0, total);
    tell_bytes(s, "data, mapped", mapped_bytes(t), total);
}

static void tell_memory(text *s, const kr_trainer *t) {
    kr_plan_sizes p;
    const kr_recipe *r = &t->recipe;
    kr_batch_shape shape = kr_trainer_shape(t, r->batch);
    size_t batches = kr_micro_batches_bytes(&shape), total = 0;
    size_t evaluation = kr_trainer_evaluation_bytes(t);
    bool gpu = t->level == KR_LEVEL_CUDA;
    if (!gpu) warm_up(t);
    tell_host(s, t, &total);
    kr_graph_sizes(t->lm.g, &p);
    if (gpu) {
        tell_bytes(s, "weights", kr_trainer_weight_bytes(t), &total);
        tell_bytes(s, "batches", batches, &total);
        tell_total(s, total);
        total = 0;
        line(s, "memory of the GPU\n");
    }
    tell_work(s, t, &total);
    tell_bytes(s, gpu ? "inputs" : "batches", gpu ? p.inputs : batches, &total);
    tell_bytes(s, "evaluation", evaluation, &total);
    tell_total(s, total);
    line(s, "  (activations without sharing: %.2f MiB)\n", (double)p.unshared / 1048576);
}

/* The keys of the recipe that are not what they would be without one, as a JSON object; NULL: no
 * memory. */
static json_t *own_values(const kr_recipe *r) {
    kr_recipe plain;
    kr_recipe_default(&plain);
    strcpy(plain.precision, r->precision); /* settled by the device, which is told */
    json_t *own = kr_recipe_json(r), *defaults = kr_recipe_json(&plain), *value;
    const char *key;
    json_object_foreach(defaults, key, value) {
        if (own && json_equal(json_object_get(own, key), value)) json_object_del(own, key);
    }
    if (!defaults && own) json_decref(own);
    if (!defaults) own = NULL;
    json_decref(defaults);
    return own;
}

/* "key value, key value ..." in lines of about 80 columns. */
static void tell_recipe(text *s, json_t *own) {
    const char *key;
    json_t *value;
    size_t begin = s->used;
    line(s, "recipe     ");
    json_object_foreach(own, key, value) {
        if (s->used - begin > 60) {
            line(s, "\n           ");
            begin = s->used;
        }
        char *shown = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
        line(s, " %s %s;", key, shown ? shown : "?");
        free(shown);
    }
    line(s, " the rest by default\n");
}

int kr_trainer_tell_plan(kr_trainer *t, krait_error *e) {
    json_t *own = own_values(&t->recipe);
    text s = {.room = 16384};
    s.at = kr_calloc(s.room, 1);
    int rc = own && s.at ? 0 : kr_fail_memory(e, "the plan");
    if (rc == 0) {
        tell_run(&s, t);
        tell_recipe(&s, own);
        tell_memory(&s, t);
        kr_trainer_tell(t, KRAIT_EVENT_PLAN, s.at);
    }
    kr_free(s.at);
    json_decref(own);
    return rc;
}
