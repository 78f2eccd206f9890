/* model_place.c - a model's weights where its sessions compute: on the GPU, one block with a copy
 * of every tensor. On the CPU they stay where the file was mapped. */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "models/model.h"

enum { ALIGN = 256 };

/* The type of tensor i on the GPU: matrices bf16 when all of them are, everything else f32. */
static kr_dtype placed_dtype(const krait_model *m, int64_t i) {
    return m->half && m->matrix[i] ? KR_BF16 : KR_F32;
}

static size_t placed_bytes(const krait_model *m, int64_t i) {
    const kr_tensor *t = &m->weights.items[i].tensor;
    size_t bytes = (size_t)kr_tensor_count(t) * kr_dtype_size(placed_dtype(m, i));
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static bool all_bf16(const krait_model *m) {
    bool any = false;
    for (int64_t i = 0; i < m->weights.count; i++) {
        if (!m->matrix[i]) continue;
        if (m->weights.items[i].tensor.dtype != KR_BF16) return false;
        any = true;
    }
    return any;
}

static int allocate(krait_model *m, krait_error *e) {
    size_t need = 0, left, all;
    for (int64_t i = 0; i < m->weights.count; i++) need += placed_bytes(m, i);
    kr_device_memory(KR_LEVEL_CUDA, &left, &all);
    m->block = need <= left ? kr_device_alloc(KR_LEVEL_CUDA, need) : NULL;
    if (m->block) return 0;
    return kr_fail(e, KRAIT_ERR_MEMORY, "the weights take %.2f GiB%s, %s has %.2f GiB free",
                   (double)need / 1073741824, m->half ? "" : " (--dtype bf16 takes half of it)",
                   kr_device_name(KR_LEVEL_CUDA), (double)left / 1073741824);
}

/* Copies t to `to` as type `type`, piece by piece through `piece` where it must be converted. */
static int send(void *to, kr_dtype type, const kr_tensor *t, float *piece, int64_t room,
                krait_error *e) {
    if (t->dtype == type) return kr_device_put(KR_LEVEL_CUDA, to, t->data, kr_tensor_bytes(t), e);
    int64_t n = kr_tensor_count(t);
    size_t from = kr_dtype_size(t->dtype), size = kr_dtype_size(type);
    for (int64_t i = 0; i < n; i += room) {
        int64_t count = n - i < room ? n - i : room;
        kr_convert(piece, type, (const char *)t->data + (size_t)i * from, t->dtype, count);
        KR_TRY(kr_device_put(KR_LEVEL_CUDA, (char *)to + (size_t)i * size, piece,
                             (size_t)count * size, e));
    }
    return 0;
}

static int place_all(krait_model *m, float *piece, int64_t room, krait_error *e) {
    char *at = m->block;
    for (int64_t i = 0; i < m->weights.count; i++) {
        const kr_weight *w = &m->weights.items[i];
        kr_dtype type = placed_dtype(m, i);
        kr_tensor t = kr_tensor_make(at, type, w->tensor.rank, w->tensor.shape);
        KR_TRY(send(at, type, &w->tensor, piece, room, e));
        KR_TRY(kr_weights_add(&m->placed, w->name, &t, e));
        at += placed_bytes(m, i);
    }
    kr_weights_sort(&m->placed);
    return kr_device_wait(KR_LEVEL_CUDA, e);
}

int kr_model_place(krait_model *m, const char *device, krait_error *e) {
    enum { ROOM = 1 << 20 };
    kr_level level;
    if (!device || strcmp(device, "cpu") == 0) return 0;
    KR_TRY(kr_device_open(device, &level, e));
    m->half = all_bf16(m);
    KR_TRY(allocate(m, e));
    float *piece = kr_aligned(ROOM * sizeof *piece);
    int rc = piece ? place_all(m, piece, ROOM, e) : kr_fail_memory(e, "the model's weights");
    kr_free(piece);
    return rc;
}

void kr_model_unplace(krait_model *m) {
    kr_weights_free(&m->placed);
    if (m->block) kr_device_free(KR_LEVEL_CUDA, m->block);
    m->block = NULL;
}

int kr_model_level(const krait_model *m, kr_level *level, krait_error *e) {
    if (!m->block) return kr_device_level(level, e);
    *level = KR_LEVEL_CUDA;
    return 0;
}

const kr_weights *kr_model_weights(const krait_model *m) {
    return m->block ? &m->placed : &m->weights;
}
