/* nan_report.h - where a loss or a gradient stopped being a number: the window is run once more and
 * watched. */
#ifndef KR_NAN_REPORT_H
#define KR_NAN_REPORT_H

#include "graph/graph.h"
#include "train/optimiser.h"

/* Runs the graph again as it is bound, `m` rows and `r` picked ones, and fails with
 * KRAIT_ERR_NUMERIC: what was not finite, the first op and layer that made it so, and the
 * parameters and gradients that hold such values. `what` begins the message. */
int kr_nan_report(const kr_optimiser *o, int64_t m, int64_t r, const char *what, krait_error *e);

#endif
