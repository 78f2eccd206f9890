/* device.h - where kernels run: the CPU's levels and threads. (CUDA joins here as one more device.)
 *
 * A level is one compilation of the same kernel sources. The best one that the machine has is
 * chosen once; KRAIT_ISA=ref|v1|v3|v4 (neon on ARM) forces one, and naming one that the machine
 * lacks is an error, not a fallback. */
#ifndef KR_DEVICE_H
#define KR_DEVICE_H

#include <krait/error.h>
#include <stdbool.h>

typedef enum kr_level {
    KR_LEVEL_REF64, /* the reference on f64 tensors: gradients against finite differences */
    KR_LEVEL_REF,   /* the scalar reference on f32 tensors, sums in double */
    KR_LEVEL_V1,    /* x86-64 baseline, or NEON on ARM: 128-bit vectors */
    KR_LEVEL_V3,    /* AVX2, FMA, F16C: 256 bits */
    KR_LEVEL_V4,    /* AVX-512 F BW DQ VL: 512 bits */
    KR_LEVEL_COUNT
} kr_level;

const char *kr_level_name(kr_level level); /* "ref", "v3", ... */
bool kr_level_supported(kr_level level);   /* by this build and this machine */

/* The level this process uses, after KRAIT_ISA. Decided once; every call returns the error */
int kr_device_level(kr_level *level, krait_error *e);

/* Worker threads used when an option says 0: OMP_NUM_THREADS, or the usable cores */
int kr_device_threads(void);

#endif
