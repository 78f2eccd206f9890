/* scan_op.h - the recurrence as two graph ops, and what the plans share. include/krait/scan.h is
 * the contract.
 *
 * scan       in:  x dt A b c D z dt_bias seqs reset state_in index gain      out: y, state_out
 * scan_grad  in:  the same, then dy, dstate_out      out: dx ddt dA db dc dD dz ddt_bias dstate_in
 * dgain, y_again: the output of scan once more, within rounding
 *
 * seqs I64 [S,3]: first row, number of rows, state slot; together they cover the rows once. reset
 * U8 [M]: a segment starts at this row, so no state passes between it and the row before it (in
 * REVERSE order: from it to the row before it; in INDEX order: from the row visited before).
 * state_in, state_out [slots, H*P, N]: may share memory; slots that seqs does not name stay as they
 * are; of one decay a head, in a half graph, both may be bf16: rounded to the nearest.
 * index I32 [T]. Any of dt A D z dt_bias reset state_in index gain may be absent where the
 * member does not need it; state_in absent is zeros; dy and dstate_out absent are zeros. */
#ifndef KR_SCAN_OP_H
#define KR_SCAN_OP_H

#include <krait/scan.h>

#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    KR_SCAN_X,
    KR_SCAN_DT,
    KR_SCAN_A,
    KR_SCAN_B,
    KR_SCAN_C,
    KR_SCAN_D,
    KR_SCAN_Z,
    KR_SCAN_BIAS,
    KR_SCAN_SEQS,
    KR_SCAN_RESET,
    KR_SCAN_STATE,
    KR_SCAN_INDEX,
    KR_SCAN_GAIN,
    KR_SCAN_INS,
    KR_SCAN_DY = KR_SCAN_INS, /* of scan_grad only */
    KR_SCAN_DSTATE,
    KR_SCAN_GRAD_INS
};
enum { KR_SCAN_OUT_Y, KR_SCAN_OUT_STATE, KR_SCAN_OUTS };
enum {
    KR_SCAN_DX,
    KR_SCAN_DDT,
    KR_SCAN_DA,
    KR_SCAN_DB,
    KR_SCAN_DC,
    KR_SCAN_DD,
    KR_SCAN_DZ,
    KR_SCAN_DBIAS,
    KR_SCAN_DSTATE_IN,
    KR_SCAN_DGAIN,
    KR_SCAN_GRAD_OUTS, /* of gradients */
    KR_SCAN_Y_AGAIN = KR_SCAN_GRAD_OUTS,
    KR_SCAN_BACK_OUTS
};

extern const kr_op kr_op_scan, kr_op_scan_grad;
/* scan_grad of lanes whose states are what scan wrote (kr_scan_y_is_states), without going forward
 * again: y in the place of x, else the same inputs and outputs, but y_again. On the CPU. */
extern const kr_op kr_op_scan_states_grad;

/* Whether y is the states, row for row: complex lanes read as they are, decays constant in time. D
 * and z must be absent, too. */
bool kr_scan_y_is_states(const krait_scan_desc *d);

/* Columns of a row (or elements, when constant in time) of each array. Doubled where complex. */
static inline int64_t kr_scan_lanes(const krait_scan_desc *d) { return d->heads * d->width; }
static inline int64_t kr_scan_n(const krait_scan_desc *d) {
    return d->complex_state ? 2 * d->state : d->state;
}
static inline int64_t kr_scan_dt_cols(const krait_scan_desc *d) {
    return d->decay == KRAIT_DECAY_MATRIX ? kr_scan_lanes(d) : d->heads;
}
static inline int64_t kr_scan_b_cols(const krait_scan_desc *d) {
    return d->complex_lanes ? 0 : d->inputs * d->groups * kr_scan_n(d);
}
static inline int64_t kr_scan_c_cols(const krait_scan_desc *d) {
    return d->complex_lanes ? 0 : d->reads * d->groups * kr_scan_n(d);
}
static inline int64_t kr_scan_d_cols(const krait_scan_desc *d) {
    return d->skip_per_channel ? kr_scan_lanes(d) : d->heads;
}
/* Numbers in one decay (1 or N, doubled where complex, with what is of low rank), and columns of A:
 * 0 without a decay. */
static inline int64_t kr_scan_a_width(const krait_scan_desc *d) {
    return d->decay == KRAIT_DECAY_SCALAR ? 1 + d->complex_state
                                          : kr_scan_n(d) * (1 + 2 * d->low_rank);
}
static inline int64_t kr_scan_a_cols(const krait_scan_desc *d) {
    int64_t n = kr_scan_a_width(d);
    if (d->decay == KRAIT_DECAY_NONE) return 0;
    return (d->decay == KRAIT_DECAY_MATRIX ? kr_scan_lanes(d) : d->heads) * n;
}
/* Whether delta is used at all. */
static inline bool kr_scan_uses_dt(const krait_scan_desc *d) {
    return d->gain == KRAIT_GAIN_DT || (d->decay != KRAIT_DECAY_NONE && d->form == KRAIT_FORM_DT);
}

/* Columns of input KR_SCAN_X .. KR_SCAN_BIAS, KR_SCAN_GAIN or KR_SCAN_DY; 0: this member takes
 * none. *constant: one row, not one a token. */
int64_t kr_scan_input_cols(const krait_scan_desc *d, int input, bool *constant);

/* Where the reference backward pass keeps the gradients that lanes share, in doubles from the start
 * of its scratch: rows * cols of them for each output (0: that output is written directly). In
 * front of at[0] lie the states of one lane. */
typedef struct kr_scan_ref_layout {
    int64_t rows[KR_SCAN_GRAD_OUTS], cols[KR_SCAN_GRAD_OUTS], at[KR_SCAN_GRAD_OUTS];
    int64_t total;
} kr_scan_ref_layout;
void kr_scan_ref_plan(const krait_scan_desc *d, int64_t M, kr_scan_ref_layout *s);

#ifdef __cplusplus
}
#endif

#endif
