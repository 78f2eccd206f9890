/* weights.h - named tensors of a model file, whatever its format.
 *
 * Readers fill a kr_weights with views into a mapped file, or into memory it owns; writers take
 * one. A set of weights keeps everything its tensors point to alive until kr_weights_free. */
#ifndef KR_WEIGHTS_H
#define KR_WEIGHTS_H

#include <krait/error.h>

#include "base/file.h"
#include "tensor/tensor.h"

typedef struct kr_weight {
    char *name;
    kr_tensor tensor; /* contiguous; f32 f64 bf16 f16 i64 i32 u8 as the file has it */
} kr_weight;

typedef struct kr_weights {
    kr_weight *items; /* sorted by name once kr_weights_sort ran; readers sort */
    int64_t count;
    size_t capacity;
    kr_map *maps; /* files that tensors point into */
    int64_t n_maps;
    size_t maps_capacity;
    void **blocks; /* memory that tensors point into (kr_free) */
    int64_t n_blocks;
    size_t blocks_capacity;
} kr_weights;

void kr_weights_free(kr_weights *w);
/* Adds a tensor; the name is copied, the data is not. */
int kr_weights_add(kr_weights *w, const char *name, const kr_tensor *t, krait_error *e);
/* w owns a block (kr_aligned / kr_malloc) or a map: freed with it, also when this call fails */
int kr_weights_own(kr_weights *w, void *block, krait_error *e);
int kr_weights_own_map(kr_weights *w, kr_map map, krait_error *e);
/* A new block of w's, KR_ALIGN-aligned, for tensor data; NULL: failed. */
void *kr_weights_block(kr_weights *w, size_t size, const char *what, krait_error *e);
/* Adds copies of all tensors in f32, in memory that can be written (a file's own are mapped
 * read-only), and sorts. */
int kr_weights_copy_f32(kr_weights *to, const kr_weights *from, krait_error *e);
void kr_weights_sort(kr_weights *w);
/* Sorted weights: no name twice. `where` is the file or folder, for the message. */
int kr_weights_check_unique(const kr_weights *w, const char *where, krait_error *e);
/* Takes a name out; its memory stays until kr_weights_free. */
void kr_weights_remove(kr_weights *w, const char *name);
/* NULL: none of that name. Sorted weights only. */
const kr_tensor *kr_weights_find(const kr_weights *w, const char *name);
/* This tensor will not be read again soon: if it lies in a mapped file, its memory goes back. */
void kr_weights_forget(const kr_weights *w, const kr_tensor *t);

/* Hashes all tensors (names, types, shapes, bytes; any number of threads gives the same) and
 * refuses one that holds a NaN or an infinity, by name (weights_scan.c). */
int kr_weights_scan(const kr_weights *w, int threads, uint64_t *hash, krait_error *e);

/* safetensors (safetensors.c): one file. Header sizes, offsets, overlaps, gaps, duplicate names and
 * dtypes are checked; errors name the file and the tensor. Reading adds to w and sorts it. */
int kr_safetensors_read(kr_weights *w, const char *path, krait_error *e);
/* The same from size bytes in memory that outlive w; `path` is only for messages. */
int kr_safetensors_read_bytes(kr_weights *w, const void *bytes, size_t size, const char *path,
                              krait_error *e);
/* Durable: the file appears whole or not at all (kr_out). */
int kr_safetensors_write(const kr_weights *w, const char *path, krait_error *e);
/* The same of items[0..count) into an open file that the caller commits. */
int kr_safetensors_put(kr_out *out, const kr_weight *items, int64_t count, krait_error *e);

/* pytorch_model.bin / .pth (pth.c): a zip with a pickle. Only the opcodes that a dictionary of
 * tensors needs are understood; any other, and any global but the few tensor constructors, is
 * refused by name. Stored (uncompressed) members are mapped, not copied; their checksums are
 * verified. */
int kr_pth_read(kr_weights *w, const char *path, krait_error *e);
int kr_pth_read_bytes(kr_weights *w, const void *bytes, size_t size, const char *path,
                      krait_error *e);

/* One pytorch_model.bin as torch.save writes it (pth_write.c). Tensors of one place in memory share
 * a storage. Durable: the file appears whole or not at all. */
int kr_pth_write(const kr_weights *w, const char *path, krait_error *e);

/* Folders (weights_folder.c): model.safetensors, or its shards by their index, or
 * pytorch_model.bin, or its shards. */
int kr_weights_read_folder(kr_weights *w, const char *folder, krait_error *e);
/* One model.safetensors, or shards of at most shard_bytes (0: one file) with their index. Whatever
 * weights lay in the folder, in any of these forms, are removed once the new ones are in place; of
 * what an index names only files that are called as shards are. A save that fails or is killed
 * leaves the old weights or the new ones, never some of each. */
int kr_weights_write_folder(const kr_weights *w, const char *folder, int64_t shard_bytes,
                            krait_error *e);
/* One pytorch_model.bin; old weights go as above. */
int kr_weights_write_pth(const kr_weights *w, const char *folder, krait_error *e);

#endif
