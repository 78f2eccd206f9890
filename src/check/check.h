/* check.h - the kernel checker's parts: guarded arrays, one run of one kernel, comparing. */
#ifndef KR_CHECK_H
#define KR_CHECK_H

#include <krait/train.h>

#include "ops/op.h"

/* How the arguments of a run lie in memory. */
typedef struct kr_check_layout {
    int64_t offset;  /* elements by which every array starts past its alignment */
    int64_t gap;     /* elements between the rows of a matrix */
    bool accumulate; /* into random values, wherever the op can */
    bool inplace;    /* outputs in the memory of their inputs, wherever the op can */
    int threads;
} kr_check_layout;

/* ---- arrays (check_array.c) ---- */

/* A tensor in memory of its own, with guard bytes before, behind and between its rows. */
typedef struct kr_check_array {
    unsigned char *block;
    size_t bytes;
    bool mapped; /* sparse: only the pages that are touched exist */
    kr_tensor t;
} kr_check_array;

/* Memory for a tensor like `shape` (its own strides, if it has some, win over the layout's gap),
 * all bytes 0xff: guards, and NaN or -1 as contents. */
int kr_check_array_make(kr_check_array *a, const kr_tensor *shape, const kr_check_layout *layout,
                        krait_error *e);
void kr_check_array_free(kr_check_array *a);
/* Between the array and `packed`: its elements row after row, in its own type. */
void kr_check_array_put(const kr_check_array *a, const void *packed);
void kr_check_array_get(const kr_check_array *a, void *packed);
bool kr_check_array_guarded(const kr_check_array *a); /* the guard bytes are as they were */

/* ---- the data of a case (check_fill.c) ---- */

/* A case with its inputs drawn, packed; the same values at each call. `real` is KR_F32, or KR_F64:
 * then every float of the case is a double of the same value. */
typedef struct kr_check_data {
    const kr_op *op;
    kr_case k;
    kr_call call;             /* shapes only; data is packed inputs, or NULL where absent */
    bool present[KR_MAX_OUT]; /* outputs that exist in this case */
    void *in[KR_MAX_IN];
    void *before[KR_MAX_OUT]; /* what accumulating outputs hold beforehand */
} kr_check_data;

int kr_check_data_make(kr_check_data *d, const kr_op *op, const kr_case *k, kr_dtype real,
                       krait_error *e);
void kr_check_data_free(kr_check_data *d);

/* ---- one run (check_run.c) ---- */

typedef struct kr_check_result {
    void *out[KR_MAX_OUT]; /* packed; NULL: absent */
    char fault[160];       /* "": nothing wrong was seen besides the values */
} kr_check_result;

int kr_check_run(const kr_check_data *d, kr_kernel *kernel, const kr_check_layout *layout,
                 kr_check_result *r, krait_error *e);
void kr_check_result_free(kr_check_result *r);
/* Changes one output value by more than any tolerance. */
void kr_check_corrupt(const kr_check_data *d, kr_check_result *r);
/* The largest difference of an output relative to that output's largest magnitude, infinite for a
 * NaN or a value written where the other wrote none. The place is described in detail. The two may
 * be of different real type. */
double kr_check_compare(const kr_check_data *want_data, const kr_check_result *want,
                        const kr_check_data *got_data, const kr_check_result *got,
                        char detail[160]);
bool kr_check_same_bytes(const kr_check_data *d, const kr_check_result *a, const kr_check_result *b,
                         char detail[160]);

/* ---- rows ---- */

typedef struct kr_check_state {
    const krait_check_options *options;
    int threads;
    int64_t failed, passed;
} kr_check_state;

void kr_check_row(kr_check_state *s, krait_check_row row);
/* All kernels of an op against the reference, and the reference against itself in double
 * (check_kernel.c). */
int kr_check_kernels(kr_check_state *s, const kr_op *op, krait_error *e);
/* The op's gradients in double against central differences (check_gradient.c). */
int kr_check_gradients(kr_check_state *s, const kr_op *op, krait_error *e);

#endif
