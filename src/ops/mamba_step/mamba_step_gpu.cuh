/* mamba_step_gpu.cuh - what the GPU's files of decode steps share. */
#ifndef KR_MAMBA_STEP_GPU_CUH
#define KR_MAMBA_STEP_GPU_CUH

#include "ops/mamba_step/mamba_step.h"

/* mamba_step_scan of many rows (mamba_step_many.cu); false, and nothing is queued, for sizes and
 * types that it does not serve. */
bool kr_mamba_step_scan_many(const kr_call *c);

#endif
