/* lm_weights.c - parameters of a language model: bound to a file's tensors, or drawn afresh from
 * their declarations. */
#include <math.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "mixers/mixer.h"
#include "models/lm.h"

/* ---- binding --------------------------------------------------------------------------------- */

static int check_shape(const kr_param_decl *d, const kr_tensor *found, krait_error *e) {
    kr_tensor want = kr_tensor_make(NULL, KR_F32, d->rank, d->shape);
    if (kr_tensor_same_shape(&want, found)) return 0;
    char is[96], expected[96];
    return kr_fail(e, KRAIT_ERR_SHAPE, "tensor %s is %s, config.json asks for %s", d->name,
                   kr_tensor_describe(found, is), kr_tensor_describe(&want, expected));
}

static bool is_float(kr_dtype t) {
    return t == KR_F32 || t == KR_F64 || t == KR_BF16 || t == KR_F16;
}

/* Makes w's tensor one of type `to`, in memory that w owns: done once, later binds find it
 * converted. */
static int convert_in_place(kr_weights *w, kr_tensor *t, kr_dtype to, krait_error *e) {
    int64_t n = kr_tensor_count(t);
    void *block = kr_aligned((size_t)n * kr_dtype_size(to));
    if (!block) return kr_fail_memory(e, "the model's weights");
    kr_convert(block, to, t->data, t->dtype, n);
    KR_TRY(kr_weights_own(w, block, e));
    *t = kr_tensor_make(block, to, t->rank, t->shape);
    return 0;
}

static int bind_one(kr_lm *lm, kr_value *v, const kr_param_decl *d, kr_weights *w, krait_error *e) {
    kr_tensor *t = (kr_tensor *)(uintptr_t)kr_weights_find(w, d->name);
    if (!t) return kr_fail(e, KRAIT_ERR_FORMAT, "tensor %s is missing", d->name);
    KR_TRY(check_shape(d, t, e));
    if (!is_float(t->dtype))
        return kr_fail(e, KRAIT_ERR_FORMAT, "tensor %s has type %s, must be f32, bf16 or f16",
                       d->name, kr_dtype_name(t->dtype));
    kr_dtype real = kr_graph_real(lm->g);
    bool keeps = d->matrix && t->dtype != KR_F64 && real == KR_F32 && !kr_graph_trains(lm->g);
    if (!keeps && t->dtype != real) KR_TRY(convert_in_place(w, t, real, e));
    return kr_graph_bind(lm->g, v, t, e);
}

static int refuse_surplus(const kr_lm *lm, const kr_weights *w, krait_error *e) {
    for (int64_t i = 0; i < w->count; i++)
        if (!kr_graph_param_named(lm->g, w->items[i].name))
            return kr_fail(e, KRAIT_ERR_FORMAT, "tensor %s is not part of this architecture",
                           w->items[i].name);
    return 0;
}

int kr_lm_bind_weights(kr_lm *lm, kr_weights *w, krait_error *e) {
    int n = kr_graph_param_count(lm->g);
    for (int i = 0; i < n; i++) {
        const kr_param_decl *d;
        kr_value *v = kr_graph_param_at(lm->g, i, &d);
        KR_TRY(bind_one(lm, v, d, w, e));
    }
    return w->count == n ? 0 : refuse_surplus(lm, w, e);
}

/* ---- fresh parameters ------------------------------------------------------------------------ */

/* Mamba's step bias: the inverse softplus of a step drawn log-uniformly (Gu & Dao 2023).
 */
static double softplus_inverse(const kr_param_decl *d, kr_rng *r) {
    double low = log(d->init.a), high = log(d->init.b);
    double step = exp(kr_rng_uniform(r) * (high - low) + low);
    if (step < d->init.c) step = d->init.c;
    return step + log(-expm1(-step));
}

static double draw(const kr_param_decl *d, int64_t index, kr_rng *r) {
    switch (d->init.kind) {
    case KR_INIT_ZERO: return 0;
    case KR_INIT_ONE: return 1;
    case KR_INIT_CONSTANT: return d->init.a;
    case KR_INIT_UNIFORM: return d->init.a + (d->init.b - d->init.a) * kr_rng_uniform(r);
    case KR_INIT_NORMAL: return d->init.a + d->init.b * kr_rng_normal(r);
    case KR_INIT_LOG_ARANGE: return log((double)(index % d->shape[d->rank - 1] + 1));
    case KR_INIT_SOFTPLUS_INV: return softplus_inverse(d, r);
    case KR_INIT_LOG_UNIFORM: return log(d->init.a + (d->init.b - d->init.a) * kr_rng_uniform(r));
    case KR_INIT_DRAWN: return d->draw(d, index, r);
    case KR_INIT_STARTED: return 0; /* draw_all */
    }
    return 0;
}

static int add_empty(const kr_param_decl *d, kr_weights *w, krait_error *e) {
    kr_tensor t = kr_tensor_make(NULL, KR_F32, d->rank, d->shape);
    t.data = kr_weights_block(w, kr_tensor_bytes(&t), d->name, e);
    return t.data ? kr_weights_add(w, d->name, &t, e) : KRAIT_ERR_MEMORY;
}

static int draw_all(const kr_param_decl *d, uint64_t seed, const kr_tensor *t, krait_error *e) {
    int64_t n = kr_tensor_count(t);
    float *values = t->data;
    if (d->init.kind == KR_INIT_STARTED) return d->start(d, values, e);
    kr_rng r = kr_rng_make(seed, kr_hash_string(d->like[0] ? d->like : d->name));
    for (int64_t i = 0; i < n; i++) values[i] = (float)draw(d, i, &r);
    return 0;
}

/* The drawn numbers are a prime, so that no two rows of a matrix are the same. */
static int rough_one(const kr_param_decl *d, kr_dtype type, kr_weights *w, krait_error *e) {
    enum { DRAWN = 65521 };
    if (!d->matrix) {
        KR_TRY(add_empty(d, w, e));
        return draw_all(d, 1, &w->items[w->count - 1].tensor, e);
    }
    kr_tensor t = kr_tensor_make(NULL, type, d->rank, d->shape);
    size_t size = kr_dtype_size(type), all = kr_tensor_bytes(&t), done = DRAWN * size;
    kr_rng r = kr_rng_make(1, kr_hash_string(d->name));
    char *values = kr_weights_block(w, all, d->name, e);
    if (!values) return KRAIT_ERR_MEMORY;
    for (int64_t i = 0; i < kr_tensor_count(&t) && i < DRAWN; i++) {
        double v = draw(d, i, &r);
        kr_convert(values + (size_t)i * size, type, &v, KR_F64, 1);
    }
    for (; done < all; done *= 2)
        memcpy(values + done, values, done < all - done ? done : all - done);
    t.data = values;
    return kr_weights_add(w, d->name, &t, e);
}

/* The smallest graph of this configuration: only its list of parameters is wanted. */
static int declare(kr_lm *lm, const kr_config *c, krait_error *e) {
    kr_lm_options o = {.graph = {.threads = 1, .level = KR_LEVEL_REF},
                       .tokens = 1,
                       .sequences = 1,
                       .any_ends = true};
    return kr_lm_build(lm, c, &o, e);
}

/* Each parameter has a stream of its own: any number of threads draws the same. items: one for each
 * parameter of the graph, in its order. */
static int draw_params(const kr_graph *g, uint64_t seed, const kr_weight *items, krait_error *e) {
    int n = kr_graph_param_count(g), rc = 0;
#pragma omp parallel for num_threads(kr_device_threads()) schedule(dynamic)
    for (int i = 0; i < n; i++) {
        const kr_param_decl *d;
        krait_error own;
        kr_graph_param_at(g, i, &d);
        int bad = draw_all(d, seed, &items[i].tensor, &own);
#pragma omp critical
        if (bad < 0) {
            rc = bad;
            if (e) *e = own;
        }
    }
    return rc;
}

/* rough: as kr_lm_rough_weights has them, else all of them f32 and drawn. */
static int init_all(const kr_config *c, uint64_t seed, bool rough, kr_dtype matrices, kr_weights *w,
                    krait_error *e) {
    kr_lm lm;
    KR_TRY(declare(&lm, c, e));
    int rc = 0, n = kr_graph_param_count(lm.g);
    int64_t first = w->count;
    for (int i = 0; i < n && rc == 0; i++) {
        const kr_param_decl *d;
        kr_graph_param_at(lm.g, i, &d);
        rc = rough ? rough_one(d, matrices, w, e) : add_empty(d, w, e);
    }
    if (rc == 0 && !rough) rc = draw_params(lm.g, seed, w->items + first, e);
    kr_weights_sort(w);
    kr_lm_free(&lm);
    return rc;
}

int kr_lm_init_weights(const kr_config *c, uint64_t seed, kr_weights *w, krait_error *e) {
    return init_all(c, seed, false, KR_F32, w, e);
}

int kr_lm_rough_weights(const kr_config *c, kr_dtype matrices, kr_weights *w, krait_error *e) {
    return init_all(c, 0, true, matrices, w, e);
}

int64_t kr_lm_parameter_count(const kr_config *c) {
    kr_lm lm;
    if (declare(&lm, c, NULL) < 0) return -1;
    int64_t total = 0;
    for (int i = 0; i < kr_graph_param_count(lm.g); i++)
        total += kr_tensor_count(kr_value_tensor(kr_graph_param_at(lm.g, i, NULL)));
    kr_lm_free(&lm);
    return total;
}

int64_t kr_lm_state_bytes(const kr_config *c, bool half_states) {
    const kr_mixer *mixer = kr_mixer_find(c->mixer);
    if (!mixer) return 0;
    kr_state_decl decl[KR_MAX_STATES];
    int n = mixer->states(c, decl);
    int64_t total = 0;
    for (int i = 0; i < n; i++)
        total += kr_checked_count(decl[i].rank, decl[i].shape) *
                 (half_states && mixer->half_states >> i & 1 ? 2 : (int64_t)sizeof(float));
    return total * c->layers;
}
