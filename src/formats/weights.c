/* weights.c - a growing list of named tensors and of the memory they point into. The formats fill
 * it. */
#include "formats/weights.h"

#include <stdlib.h>

#include "base/err.h"
#include "base/mem.h"

void kr_weights_free(kr_weights *w) {
    for (int64_t i = 0; i < w->count; i++) kr_free(w->items[i].name);
    for (int64_t i = 0; i < w->n_maps; i++) kr_map_close(&w->maps[i]);
    for (int64_t i = 0; i < w->n_blocks; i++) kr_free(w->blocks[i]);
    kr_free(w->items);
    kr_free(w->maps);
    kr_free(w->blocks);
    *w = (kr_weights){0};
}

int kr_weights_add(kr_weights *w, const char *name, const kr_tensor *t, krait_error *e) {
    char *copy = kr_strdup(name);
    if (!copy ||
        kr_grow((void **)&w->items, &w->capacity, (size_t)w->count + 1, sizeof *w->items)) {
        kr_free(copy);
        return kr_fail_memory(e, name);
    }
    w->items[w->count++] = (kr_weight){copy, *t};
    return 0;
}

int kr_weights_own(kr_weights *w, void *block, krait_error *e) {
    size_t need = (size_t)w->n_blocks + 1;
    if (kr_grow((void **)&w->blocks, &w->blocks_capacity, need, sizeof *w->blocks)) {
        kr_free(block);
        return kr_fail_memory(e, "weights");
    }
    w->blocks[w->n_blocks++] = block;
    return 0;
}

int kr_weights_own_map(kr_weights *w, kr_map map, krait_error *e) {
    size_t need = (size_t)w->n_maps + 1;
    if (kr_grow((void **)&w->maps, &w->maps_capacity, need, sizeof *w->maps)) {
        kr_map_close(&map);
        return kr_fail_memory(e, "weights");
    }
    w->maps[w->n_maps++] = map;
    return 0;
}

void *kr_weights_block(kr_weights *w, size_t size, const char *what, krait_error *e) {
    void *block = kr_aligned(size);
    if (!block) {
        kr_fail_memory(e, what);
        return NULL;
    }
    return kr_weights_own(w, block, e) < 0 ? NULL : block;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const kr_weight *)a)->name, ((const kr_weight *)b)->name);
}

void kr_weights_sort(kr_weights *w) {
    if (w->count > 1) qsort(w->items, (size_t)w->count, sizeof *w->items, by_name);
}

int kr_weights_check_unique(const kr_weights *w, const char *where, krait_error *e) {
    for (int64_t i = 1; i < w->count; i++)
        if (strcmp(w->items[i - 1].name, w->items[i].name) == 0)
            return kr_fail(e, KRAIT_ERR_FORMAT, "%s: tensor %s is there twice", where,
                           w->items[i].name);
    return 0;
}

const kr_tensor *kr_weights_find(const kr_weights *w, const char *name) {
    if (w->count == 0) return NULL;
    kr_weight key = {.name = (char *)(uintptr_t)name};
    const kr_weight *found = bsearch(&key, w->items, (size_t)w->count, sizeof key, by_name);
    return found ? &found->tensor : NULL;
}

void kr_weights_remove(kr_weights *w, const char *name) {
    for (int64_t i = 0; i < w->count; i++) {
        if (strcmp(w->items[i].name, name) != 0) continue;
        kr_free(w->items[i].name);
        memmove(&w->items[i], &w->items[i + 1], (size_t)(w->count - i - 1) * sizeof *w->items);
        w->count--;
        return;
    }
}

int kr_weights_copy_f32(kr_weights *to, const kr_weights *from, krait_error *e) {
    for (int64_t i = 0; i < from->count; i++) {
        const kr_tensor *t = &from->items[i].tensor;
        int64_t n = kr_tensor_count(t);
        float *values = kr_aligned((size_t)n * sizeof *values);
        if (!values) return kr_fail_memory(e, from->items[i].name);
        KR_TRY(kr_weights_own(to, values, e));
        kr_convert(values, KR_F32, t->data, t->dtype, n);
        kr_tensor copy = kr_tensor_make(values, KR_F32, t->rank, t->shape);
        KR_TRY(kr_weights_add(to, from->items[i].name, &copy, e));
    }
    kr_weights_sort(to);
    return 0;
}

void kr_weights_forget(const kr_weights *w, const kr_tensor *t) {
    for (int64_t i = 0; i < w->n_maps; i++) kr_map_forget(&w->maps[i], t->data, kr_tensor_bytes(t));
}
