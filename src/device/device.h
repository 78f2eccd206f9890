/* device.h - where kernels run: the CPU's levels and threads, and the GPU as one more level.
 *
 * A level of the CPU is one compilation of the same kernel sources. The best one that the machine
 * has is chosen once; KRAIT_ISA=ref|v1|v3|v4 (neon on ARM) forces one, and naming one that the
 * machine lacks is an error, not a fallback.
 *
 * The GPU is used only where a caller asks for it by name. Its kernels read and write its own
 * memory: everything a graph needs is allocated and copied by the functions below, which on the CPU
 * are the plain ones. All work of the process on the GPU is one queue, in order: a put, a kernel,
 * a get after each other need no waiting in between, and only a get waits for what is before it.
 * KRAIT_SYNC=1 in the environment is for finding faults: nothing is recorded, and every op is
 * waited for, so that one which fails on the GPU is named. */
#ifndef KR_DEVICE_H
#define KR_DEVICE_H

#include <krait/error.h>
#include <stdbool.h>
#include <stddef.h>

typedef enum kr_level {
    KR_LEVEL_REF64, /* the reference on f64 tensors: gradients against finite differences */
    KR_LEVEL_REF,   /* the scalar reference on f32 tensors, sums in double */
    KR_LEVEL_V1,    /* x86-64 baseline, or NEON on ARM: 128-bit vectors */
    KR_LEVEL_V3,    /* AVX2, FMA, F16C: 256 bits */
    KR_LEVEL_V4,    /* AVX-512 F BW DQ VL: 512 bits */
    KR_LEVEL_COUNT, /* of the CPU's levels */
    KR_LEVEL_CUDA = KR_LEVEL_COUNT, /* an NVIDIA GPU */
    KR_LEVELS
} kr_level;

const char *kr_level_name(kr_level level); /* "ref", "v3", ... */
bool kr_level_supported(kr_level level);   /* by this build and this machine */

/* The level this process uses, after KRAIT_ISA. Decided once; every call returns the error */
int kr_device_level(kr_level *level, krait_error *e);

/* Worker threads used when an option says 0: OMP_NUM_THREADS, or the usable cores */
int kr_device_threads(void);

/* "cpu" or NULL: the level above. "cuda" or "cuda:N": the GPU, opened at the first call; a process
 * uses one. Says what is missing when there is none: the build, the driver, the card, cuBLASLt. */
int kr_device_open(const char *name, kr_level *level, krait_error *e);

/* ---- memory of a level ---------------------------------------------------------------------- */

/* At least KR_ALIGN-aligned (256 on the GPU), contents undefined; NULL when there is not enough */
void *kr_device_alloc(kr_level level, size_t bytes);
void kr_device_free(kr_level level, void *p);
/* Host to device; the host's bytes may be reused at once. */
int kr_device_put(kr_level level, void *to, const void *host, size_t bytes, krait_error *e);
/* Device to host, after everything queued before it; waits. */
int kr_device_get(kr_level level, void *host, const void *from, size_t bytes, krait_error *e);
int kr_device_copy(kr_level level, void *to, const void *from, size_t bytes, krait_error *e);
int kr_device_fill(kr_level level, void *to, int byte, size_t bytes, krait_error *e);
/* Waits until all queued work has ended. An error of that work is reported by the first of get,
 * wait or check that sees it. */
int kr_device_wait(kr_level level, krait_error *e);
/* The launch just made: 0, or an error that begins with `what` (the op's name). Does not wait, but
 * with KRAIT_SYNC. */
int kr_device_check(kr_level level, const char *what, krait_error *e);
/* Threads share the queue. In between, it is the calling thread's alone (a thread may lock it more
 * than once): what launches kernels holds it, so that nothing of another thread falls into a
 * recording. The functions above do so by themselves. Nothing on the CPU. */
void kr_device_lock(kr_level level);
void kr_device_unlock(kr_level level);
/* Bytes that can still be allocated, and in all; 0 where it is not known (the CPU). */
void kr_device_memory(kr_level level, size_t *free_bytes, size_t *total);
/* "NVIDIA H100 80GB HBM3"; "" for the CPU. */
const char *kr_device_name(kr_level level);

/* ---- copies that arrive later -----------------------------------------------------------------
 */

/* A place on the host for one copy from a level's memory. send queues the copy behind what is
 * queued; read waits until it is there, and for nothing that was queued after it. */
typedef struct kr_mail kr_mail;
int kr_mail_create(kr_mail **out, kr_level level, size_t bytes, krait_error *e);
void kr_mail_free(kr_mail *m); /* NULL does nothing */
int kr_mail_send(kr_mail *m, const void *from, size_t bytes, krait_error *e);
const void *kr_mail_read(kr_mail *m, krait_error *e); /* NULL: failed */

/* ---- recorded work -------------------------------------------------------------------------- */

/* Between begin and end, kernels and copies within the device are recorded, not run (a CUDA graph):
 * a whole step is then launched at once. Worth it only where kr_device_records is true. */
typedef struct kr_recording kr_recording;
bool kr_device_records(kr_level level);
int kr_device_record_begin(kr_level level, krait_error *e);
int kr_device_record_end(kr_level level, kr_recording **out, krait_error *e);
int kr_device_replay(const kr_recording *r, krait_error *e);
void kr_recording_free(kr_recording *r); /* NULL does nothing */

#endif
