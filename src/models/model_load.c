/* model_load.c - from a name to weights that fit their configuration: finding the folder, unifying
 * the dialects' tensor names, converting types, checking every tensor. Bytes are left to formats/,
 * what a model must hold to lm.c. */
#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/mem.h"
#include "device/device.h"
#include "mixers/mamba1/mamba1.h"
#include "models/lm.h"
#include "models/model.h"

#define EMBEDDING "backbone.embeddings.weight"
#define EMBEDDING_OF_STATE_SPACES "backbone.embedding.weight"
#define HEAD "lm_head.weight"

/* ---- finding ---- */

static int not_found(const char *name, krait_error *e) {
    return kr_fail(
        e, KRAIT_ERR_IO,
        "%s: no such model folder, nor a model of that name in $KRAIT_MODELS, " KR_DATA_DIR
        "/models or " KR_SOURCE_DIR "/models",
        name);
}

/* A model that ships with the program: a plain name, looked for in three places. */
static int find_shipped(char **folder, const char *name, krait_error *e) {
    const char *places[] = {getenv("KRAIT_MODELS"), KR_DATA_DIR "/models", KR_SOURCE_DIR "/models"};
    if (name[0] == 0 || name[0] == '.' || strchr(name, '/')) return not_found(name, e);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        if (!places[i] || !places[i][0]) continue;
        *folder = kr_path_join(places[i], name);
        if (!*folder) return kr_fail_memory(e, name);
        if (kr_is_dir(*folder)) return 0;
        kr_free(*folder);
        *folder = NULL;
    }
    return not_found(name, e);
}

/* A file of weights: its config.json lies beside it. */
static int split_file(char **folder, const char **file, const char *name, krait_error *e) {
    const char *slash = strrchr(name, '/');
    *file = slash ? slash + 1 : name;
    *folder = slash ? kr_strndup(name, (size_t)(slash - name) + (slash == name)) : kr_strdup(".");
    return *folder ? 0 : kr_fail_memory(e, name);
}

int kr_model_find(char **folder, const char **file, const char *name, krait_error *e) {
    *folder = NULL;
    *file = NULL;
    if (kr_is_file(name)) {
        KR_TRY(split_file(folder, file, name, e));
        if (kr_holds_file(*folder, "config.json")) return 0;
        kr_free(*folder);
        *folder = NULL;
        return kr_fail(e, KRAIT_ERR_IO,
                       "%s: no model: give a folder with config.json, or the weights in one", name);
    }
    if (!kr_is_dir(name)) return find_shipped(folder, name, e);
    *folder = kr_strdup(name);
    return *folder ? 0 : kr_fail_memory(e, name);
}

/* ---- dialects ---- */

static kr_weight *find_item(kr_weights *w, const char *name) {
    for (int64_t i = 0; i < w->count; i++)
        if (strcmp(w->items[i].name, name) == 0) return &w->items[i];
    return NULL;
}

static int rename_item(kr_weights *w, const char *from, const char *to, krait_error *e) {
    kr_weight *item = find_item(w, from);
    if (!item) return 0;
    if (find_item(w, to))
        return kr_fail(e, KRAIT_ERR_FORMAT, "tensors %s and %s are both there", from, to);
    char *name = kr_strdup(to);
    if (!name) return kr_fail_memory(e, to);
    kr_free(item->name);
    item->name = name;
    kr_weights_sort(w);
    return 0;
}

static bool same_tensor(const kr_tensor *a, const kr_tensor *b) {
    if (a->dtype != b->dtype || !kr_tensor_same_shape(a, b)) return false;
    return a->data == b->data || memcmp(a->data, b->data, kr_tensor_bytes(a)) == 0;
}

/* A tied head is often stored too. One that differs means that config.json is wrong about it. */
static int drop_tied_head(kr_weights *w, krait_error *e) {
    const kr_tensor *head = kr_weights_find(w, HEAD), *embedding = kr_weights_find(w, EMBEDDING);
    if (!head || !embedding) return 0;
    if (!same_tensor(head, embedding))
        return kr_fail(e, KRAIT_ERR_MISMATCH,
                       HEAD " differs from " EMBEDDING ", but config.json says that they are tied");
    kr_weights_remove(w, HEAD);
    return 0;
}

const char *kr_model_file_name(const krait_model *m, const char *name) {
    return m->singular && strcmp(name, EMBEDDING) == 0 ? EMBEDDING_OF_STATE_SPACES : name;
}

/* Where Mamba's config.json is silent on the biases of its projections, the weights decide. */
static void settle_bias(kr_config *c, const kr_weights *w) {
    if (strcmp(c->mixer, "mamba1") != 0) return;
    kr_mamba1 s = kr_mamba1_of(c);
    if (s.linear_bias_unsaid)
        s.linear_bias = kr_weights_find(w, "backbone.layers.0.mixer.in_proj.bias") != NULL;
    s.linear_bias_unsaid = false;
    memcpy(c->settings, &s, sizeof s);
}

int kr_model_unify(krait_model *m, krait_error *e) {
    kr_weights *w = &m->weights;
    kr_config *c = &m->config;
    m->singular = find_item(w, EMBEDDING_OF_STATE_SPACES) != NULL;
    KR_TRY(rename_item(w, EMBEDDING_OF_STATE_SPACES, EMBEDDING, e));
    if (c->tied) KR_TRY(drop_tied_head(w, e));
    settle_bias(c, w);
    return 0;
}

int kr_model_names_of_state_spaces(const kr_config *c, kr_weights *w, krait_error *e) {
    const kr_weight *embedding = find_item(w, EMBEDDING);
    if (!embedding) return 0;
    kr_tensor t = embedding->tensor;
    if (c->tied) KR_TRY(kr_weights_add(w, HEAD, &t, e));
    return rename_item(w, EMBEDDING, EMBEDDING_OF_STATE_SPACES, e);
}

/* ---- types ---- */

static bool is_float(kr_dtype t) {
    return t == KR_F32 || t == KR_F64 || t == KR_BF16 || t == KR_F16;
}

/* New memory of w's with t's values as type `to`; all cores share the work. */
static int convert(kr_weights *w, const char *name, kr_tensor *t, kr_dtype to, krait_error *e) {
    enum { PIECE = 1 << 16 };
    int64_t n = kr_tensor_count(t);
    size_t from_size = kr_dtype_size(t->dtype), to_size = kr_dtype_size(to);
    char *block = kr_weights_block(w, (size_t)n * to_size, name, e);
    if (!block) return KRAIT_ERR_MEMORY;
    const char *from = t->data;
    kr_dtype from_type = t->dtype;
#pragma omp parallel for num_threads(kr_device_threads()) schedule(static) if (n > PIECE)
    for (int64_t i = 0; i < n; i += PIECE)
        kr_convert(block + (size_t)i * to_size, to, from + (size_t)i * from_size, from_type,
                   n - i < PIECE ? n - i : PIECE);
    *t = kr_tensor_make(block, to, t->rank, t->shape);
    return 0;
}

/* ---- fitting ---- */

/* Which tensors are matrices; those are converted when another type is asked for. */
static int mark_and_convert(krait_model *m, const kr_lm *lm, kr_dtype dtype, krait_error *e) {
    m->matrix = kr_calloc((size_t)m->weights.count, sizeof *m->matrix);
    if (!m->matrix) return kr_fail_memory(e, "the model");
    for (int64_t i = 0; i < m->weights.count; i++) {
        kr_weight *item = &m->weights.items[i];
        const kr_param_decl *d = kr_graph_param_named(lm->g, item->name);
        m->matrix[i] = d && d->matrix;
        kr_dtype to = m->matrix[i] && dtype != KR_DTYPE_COUNT ? dtype : item->tensor.dtype;
        if (to == KR_F64) to = KR_F32;
        if (to != item->tensor.dtype && is_float(item->tensor.dtype))
            KR_TRY(convert(&m->weights, item->name, &item->tensor, to, e));
    }
    return 0;
}

int kr_model_fit(krait_model *m, kr_dtype dtype, krait_error *e) {
    if (m->config.layers > m->weights.count) /* before a graph of so many layers is made */
        return kr_fail(e, KRAIT_ERR_FORMAT,
                       "config.json asks for %lld layers, there are %lld tensors",
                       (long long)m->config.layers, (long long)m->weights.count);
    kr_lm lm;
    kr_lm_options o = {.graph = {.threads = 1, .level = KR_LEVEL_REF},
                       .tokens = 1,
                       .sequences = 1,
                       .any_ends = true};
    KR_TRY(kr_lm_build(&lm, &m->config, &o, e));
    int rc = mark_and_convert(m, &lm, dtype, e);
    if (rc == 0) rc = kr_lm_bind_weights(&lm, &m->weights, e);
    kr_lm_free(&lm);
    m->parameters = m->weight_bytes = 0;
    for (int64_t i = 0; rc == 0 && i < m->weights.count; i++) {
        m->parameters += kr_tensor_count(&m->weights.items[i].tensor);
        m->weight_bytes += (int64_t)kr_tensor_bytes(&m->weights.items[i].tensor);
    }
    return rc;
}

int kr_model_converted(const krait_model *m, kr_dtype dtype, kr_weights *out, krait_error *e) {
    for (int64_t i = 0; i < m->weights.count; i++) {
        const kr_weight *item = &m->weights.items[i];
        kr_tensor t = item->tensor;
        if (m->matrix[i] && t.dtype != dtype) KR_TRY(convert(out, item->name, &t, dtype, e));
        KR_TRY(kr_weights_add(out, item->name, &t, e));
    }
    return 0;
}
