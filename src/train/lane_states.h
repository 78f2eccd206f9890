/* lane_states.h - the memory of a graph's states: one block, bound, swapped between windows, saved.
 *
 * A training graph reads the states of one half and writes those of the other, because its backward
 * pass reads the first half again; swapping the halves carries the state to the next window. A
 * graph that only runs forward works in place. */
#ifndef KR_LANE_STATES_H
#define KR_LANE_STATES_H

#include "formats/weights.h"
#include "models/lm.h"

typedef struct kr_lane_states {
    kr_lm *lm;
    kr_level level; /* whose memory the block is */
    void *block;
    size_t half; /* bytes of the states of all slots */
    bool twice, swapped;
} kr_lane_states;

/* The states of lm, all zero, bound. A stateless lm needs none: half is 0. */
int kr_lane_states_create(kr_lane_states *s, kr_lm *lm, bool twice, krait_error *e);
void kr_lane_states_free(kr_lane_states *s);
size_t kr_lane_states_bytes(const kr_lm *lm, bool twice);
int kr_lane_states_zero(kr_lane_states *s, krait_error *e);
/* What was written becomes what is read. Done again, it takes the last window back. */
int kr_lane_states_swap(kr_lane_states *s, krait_error *e);

/* Adds "state.I", what will be read, to w (views, or copies from the GPU), or fills it from them.
 */
int kr_lane_states_save(const kr_lane_states *s, kr_weights *w, krait_error *e);
int kr_lane_states_load(kr_lane_states *s, const kr_weights *w, krait_error *e);

#endif
