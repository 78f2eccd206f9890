/* cuda_device.h - what device.c needs of the GPU; the contracts are in device.h. */
#ifndef KR_CUDA_DEVICE_H
#define KR_CUDA_DEVICE_H

#include <cuda_runtime_api.h>

#include "device/cuda/cuda.h"
#include "device/device.h"

void kr_cuda_lock(void);
void kr_cuda_unlock(void);
const char *kr_cuda_name(void); /* "" before it is open */
void *kr_cuda_alloc(size_t bytes);
void kr_cuda_free(void *p);
int kr_cuda_copy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                 krait_error *e);
int kr_cuda_fill(void *to, int byte, size_t bytes, krait_error *e);
int kr_cuda_wait(krait_error *e);
int kr_cuda_check(const char *what, krait_error *e);
bool kr_cuda_waits(void); /* KRAIT_SYNC: after every op */
void kr_cuda_memory(size_t *free_bytes, size_t *total);
/* Page-locked memory and an event: copies that are waited for one by one. */
void *kr_cuda_mail_alloc(size_t bytes, cudaEvent_t *arrived);
void kr_cuda_mail_free(void *p, cudaEvent_t arrived);
int kr_cuda_mail_send(void *to, const void *from, size_t bytes, cudaEvent_t arrived,
                      krait_error *e);
int kr_cuda_mail_wait(cudaEvent_t arrived, krait_error *e);
/* Queued: bytes of the card to page-locked memory (cuda_mail.cu). */
void kr_cuda_write(void *to, const void *from, size_t bytes);
int kr_cuda_record_begin(krait_error *e);
int kr_cuda_record_end(kr_recording **out, krait_error *e);
int kr_cuda_replay(const kr_recording *r, krait_error *e);
void kr_cuda_recording_free(kr_recording *r);

#endif
