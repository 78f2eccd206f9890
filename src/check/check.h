/* check.h - the kernel checker's parts: guarded arrays, one run of one kernel, comparing.
 *
 * On the GPU an array is laid out here, guards and all, copied there, and fetched after the run. */
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
    bool recorded;   /* on the GPU: recorded first, then run from the recording */
    int threads;
} kr_check_layout;

/* ---- arrays (check_array.c) ---- */

/* A tensor in memory of its own, with guard bytes before, behind and between its rows. */
typedef struct kr_check_array {
    unsigned char *block;
    size_t bytes;
    bool mapped; /* sparse: only the pages that are touched exist */
    kr_tensor t;
    unsigned char *device; /* the block's copy on the GPU, or NULL */
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
/* Makes the copy on the GPU; brings it back. */
int kr_check_array_send(kr_check_array *a, krait_error *e);
int kr_check_array_fetch(kr_check_array *a, krait_error *e);
/* The array as the GPU's kernels see it. */
kr_tensor kr_check_array_there(const kr_check_array *a);

/* ---- the data of a case (check_fill.c) ---- */

/* In which types a case is drawn; the values are the same, but for the rounding to bf16. */
typedef enum kr_check_form {
    KR_CHECK_PLAIN,   /* as the case says */
    KR_CHECK_DOUBLE,  /* every float is a double */
    KR_CHECK_HALF,    /* activations are bf16 */
    KR_CHECK_ROUNDED, /* what KR_CHECK_HALF holds, as f32: for the reference */
    KR_CHECK_FORMS
} kr_check_form;

/* A case with its inputs drawn, packed; the same values at each call. */
typedef struct kr_check_data {
    const kr_op *op;
    kr_case k;
    kr_call call;             /* shapes only; data is packed inputs, or NULL where absent */
    bool present[KR_MAX_OUT]; /* outputs that exist in this case */
    void *in[KR_MAX_IN];
    void *before[KR_MAX_OUT]; /* what accumulating outputs hold beforehand */
} kr_check_data;

int kr_check_data_make(kr_check_data *d, const kr_op *op, const kr_case *k, kr_check_form form,
                       krait_error *e);
void kr_check_data_free(kr_check_data *d);

/* ---- one run (check_run.c) ---- */

typedef struct kr_check_result {
    void *out[KR_MAX_OUT]; /* packed; NULL: absent */
    char fault[160];       /* "": nothing wrong was seen besides the values */
    bool stopped;          /* the kernel did not come to its end: there are no values */
} kr_check_result;

int kr_check_run(const kr_check_data *d, kr_level level, const kr_check_layout *layout,
                 kr_check_result *r, krait_error *e);
void kr_check_result_free(kr_check_result *r);
/* Changes one output value by more than any tolerance. */
void kr_check_corrupt(const kr_check_data *d, kr_check_result *r);
/* The difference that is the largest part of its tolerance: of an output relative to that output's
 * largest magnitude, infinite for a NaN or a value written where the other wrote none. The place is
 * described in detail. The two may be of different real type; a value that was rounded to bf16 is
 * held to 2^-7, twice what the rounding takes, or to `tolerance` if that is wider. */
typedef struct kr_check_difference {
    double error, tolerance;
} kr_check_difference;
kr_check_difference kr_check_compare(const kr_check_data *want_data, const kr_check_result *want,
                                     const kr_check_data *got_data, const kr_check_result *got,
                                     double tolerance, char detail[160]);
bool kr_check_same_bytes(const kr_check_data *d, const kr_check_result *a, const kr_check_result *b,
                         char detail[160]);

/* ---- rows ---- */

typedef struct kr_check_state {
    const krait_check_options *options;
    kr_level level; /* KR_LEVEL_CUDA, or any of the CPU's: all of them */
    int threads;
    int64_t failed, passed, skipped;
    int64_t cases;       /* of all shares, so far */
    const char *stopped; /* the op that left the GPU unusable */
} kr_check_state;

void kr_check_row(kr_check_state *s, krait_check_row row);
/* Is the next case one of this share? Asked once for each. */
bool kr_check_mine(kr_check_state *s);
/* The op's kernels on the device against the reference, and on the CPU the reference against itself
 * in double (check_kernel.c). */
int kr_check_kernels(kr_check_state *s, const kr_op *op, krait_error *e);
/* The op's gradients in double against central differences (check_gradient.c). */
int kr_check_gradients(kr_check_state *s, const kr_op *op, krait_error *e);

#endif
