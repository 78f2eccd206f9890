/* state_file.h - the bytes of a saved timeline.
 *
 * In the byte order of the machine that wrote it, without padding:
 *
 *    0  magic "KRAITSTA"
 *    8  version u32 = 1, byte order u32 = 0x01020304
 *   16  model hash u64
 *   24  type of the states u32 (f32; bf16: of those that may be; no other), tensors n u32
 *   32  position i64 (tokens read)
 *   40  next token i32 (-1: none), 0 u32
 *   48  payload bytes u64
 *   56  bytes of each tensor u64 [n], the payload tensor by tensor, checksum u64 of all before it
 *
 * The checksum is FNV-1a over bytes: each step is a bijection of what came before, so no single
 * wrong byte can hide. */
#ifndef KR_STATE_FILE_H
#define KR_STATE_FILE_H

#include <krait/error.h>
#include <stddef.h>
#include <stdint.h>

#include "tensor/tensor.h"

typedef struct kr_state_file {
    uint64_t model_hash;
    kr_dtype dtype;
    int64_t position;
    int32_t next;
    uint32_t n_tensors;
    const unsigned char *sizes;   /* u64 [n_tensors], unaligned */
    const unsigned char *payload; /* payload_bytes, unaligned */
    uint64_t payload_bytes;
} kr_state_file;

/* Reads the header and checks sizes and checksum; the pointers lead into `bytes`. `name` is for the
 * message. */
int kr_state_parse(kr_state_file *f, const unsigned char *bytes, size_t size, const char *name,
                   krait_error *e);
uint64_t kr_state_tensor_bytes(const kr_state_file *f, uint32_t i);

/* Writes a file durably. parts[i] is the tensor of sizes[i] bytes. */
int kr_state_write(const kr_state_file *f, const void *const *parts, const uint64_t *sizes,
                   const char *path, krait_error *e);

#endif
