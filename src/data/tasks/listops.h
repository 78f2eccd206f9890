/* listops.h - drawing and evaluating one expression of ListOps. */
#ifndef KR_LISTOPS_H
#define KR_LISTOPS_H

#include "base/rng.h"

/* pad 0, unknown 1, end 2, then: */
enum { KR_LISTOPS_MIN = 3, KR_LISTOPS_MAX, KR_LISTOPS_MED, KR_LISTOPS_SM, KR_LISTOPS_CLOSE };
enum { KR_LISTOPS_END = 2, KR_LISTOPS_DIGIT = 8, KR_LISTOPS_IDS = 18, KR_LISTOPS_MOST_ARGS = 32 };

/* Draws an expression whose operators stand at depths 1 .. depth-1, each with 2 .. arguments
 * arguments; returns its tokens and value, or -1 when there would be more than `room` tokens. */
int64_t kr_listops_draw(kr_rng *r, int64_t depth, int64_t arguments, int32_t *ids, int64_t room,
                        int *value);

#endif
