/* pickle.h - the tensors that a pickle written by torch.save describes. It runs nothing.
 *
 * A pickle is a program for a stack machine that can call any Python function. This one knows the
 * opcodes that a dictionary of tensors needs and a fixed handful of constructors; every other
 * opcode and every other name ends in an error that names it. */
#ifndef KR_PICKLE_H
#define KR_PICKLE_H

#include <krait/error.h>

#include "tensor/tensor.h"

/* A tensor as the pickle tells it: a view into the storage with this key. Nothing in it has been
 * checked against a storage. Texts point into the pickle and are not terminated. */
typedef struct kr_pickle_tensor {
    const char *name, *key;
    int name_length, key_length;
    kr_dtype dtype;
    int64_t storage_count; /* elements of the storage */
    int64_t offset;        /* elements, >= 0 */
    int rank;
    int64_t shape[KR_MAX_RANK], stride[KR_MAX_RANK]; /* >= 0 */
} kr_pickle_tensor;

typedef struct kr_pickle {
    kr_pickle_tensor *tensors;
    int64_t count;
    size_t capacity;
} kr_pickle;

/* Reads the dictionary of tensors: the pickled object itself, or its member "state_dict",
 * "model_state_dict" or "model". Members that are no tensors are passed over. `path` is for
 * messages. Free with kr_pickle_free, also after a failure. */
int kr_pickle_read(kr_pickle *p, const unsigned char *bytes, size_t size, const char *path,
                   krait_error *e);
void kr_pickle_free(kr_pickle *p);

#endif
