/* lane_states.c - the memory of a graph's states. */
#include "train/lane_states.h"

#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"

static size_t padded(const kr_tensor *t) {
    return (kr_tensor_bytes(t) + KR_ALIGN - 1) / KR_ALIGN * KR_ALIGN;
}

size_t kr_lane_states_bytes(const kr_lm *lm, bool twice) {
    size_t half = 0;
    for (int i = 0; i < lm->n_states; i++) half += padded(kr_value_tensor(lm->state_in[i]));
    return twice ? 2 * half : half;
}

/* State i as it will be read (0) or written (1) by the next run. */
static kr_tensor state_at(const kr_lane_states *s, int i, int written) {
    size_t at = s->twice && written != s->swapped ? s->half : 0;
    for (int k = 0; k < i; k++) at += padded(kr_value_tensor(s->lm->state_in[k]));
    kr_tensor t = *kr_value_tensor(s->lm->state_in[i]);
    t.data = (char *)s->block + at;
    return t;
}

static int bind(kr_lane_states *s, krait_error *e) {
    for (int i = 0; i < s->lm->n_states; i++) {
        kr_tensor in = state_at(s, i, 0), out = state_at(s, i, 1);
        KR_TRY(kr_graph_bind(s->lm->g, s->lm->state_in[i], &in, e));
        KR_TRY(kr_graph_bind(s->lm->g, s->lm->state_out[i], &out, e));
    }
    return 0;
}

int kr_lane_states_create(kr_lane_states *s, kr_lm *lm, bool twice, krait_error *e) {
    *s = (kr_lane_states){.lm = lm, .half = kr_lane_states_bytes(lm, false), .twice = twice};
    if (s->half == 0) return 0;
    s->level = kr_graph_level(lm->g);
    s->block = kr_device_alloc(s->level, twice ? 2 * s->half : s->half);
    if (!s->block) return kr_fail_memory(e, "the states of all lanes");
    KR_TRY(kr_lane_states_zero(s, e));
    return bind(s, e);
}

void kr_lane_states_free(kr_lane_states *s) {
    if (s->block) kr_device_free(s->level, s->block);
    *s = (kr_lane_states){0};
}

int kr_lane_states_zero(kr_lane_states *s, krait_error *e) {
    if (!s->block) return 0;
    return kr_device_fill(s->level, s->block, 0, s->twice ? 2 * s->half : s->half, e);
}

int kr_lane_states_swap(kr_lane_states *s, krait_error *e) {
    s->swapped = !s->swapped;
    return bind(s, e);
}

/* Makes t a copy on the host, which w owns. */
static int to_host(const kr_lane_states *s, kr_weights *w, kr_tensor *t, krait_error *e) {
    const void *from = t->data;
    t->data = kr_weights_block(w, kr_tensor_bytes(t), "the states of all lanes", e);
    return t->data ? kr_device_get(s->level, t->data, from, kr_tensor_bytes(t), e)
                   : KRAIT_ERR_MEMORY;
}

int kr_lane_states_save(const kr_lane_states *s, kr_weights *w, krait_error *e) {
    for (int i = 0; i < s->lm->n_states; i++) {
        char name[32];
        kr_tensor t = state_at(s, i, 0);
        t.dim0 = KR_DIM0_FIXED;
        snprintf(name, sizeof name, "state.%d", i);
        if (s->level == KR_LEVEL_CUDA) KR_TRY(to_host(s, w, &t, e));
        KR_TRY(kr_weights_add(w, name, &t, e));
    }
    return 0;
}

int kr_lane_states_load(kr_lane_states *s, const kr_weights *w, krait_error *e) {
    for (int i = 0; i < s->lm->n_states; i++) {
        char name[32];
        snprintf(name, sizeof name, "state.%d", i);
        kr_tensor t = state_at(s, i, 0);
        const kr_tensor *from = kr_weights_find(w, name);
        if (!from || from->dtype != t.dtype || !kr_tensor_same_shape(from, &t))
            return kr_fail(e, KRAIT_ERR_MISMATCH, "checkpoint: no %s of the run's shape", name);
        KR_TRY(kr_device_put(s->level, t.data, from->data, kr_tensor_bytes(&t), e));
    }
    return 0;
}
