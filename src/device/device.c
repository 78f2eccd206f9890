/* device.c - which level a device's name means, and the memory of each: the CPU's here, the GPU's
 * in cuda/. */
#include "device/device.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#ifdef KR_CUDA
#include "device/cuda/cuda_device.h"
#define GPU(level, call)                                                                           \
    if ((level) == KR_LEVEL_CUDA) return call
#else
#define GPU(level, call) (void)(level)
#endif

/* "cuda" is 0, "cuda:N" is N, everything else -1. */
static int ordinal_of(const char *name) {
    if (strcmp(name, "cuda") == 0) return 0;
    if (strncmp(name, "cuda:", 5) != 0 || name[5] < '0' || name[5] > '9') return -1;
    char *end;
    long ordinal = strtol(name + 5, &end, 10);
    return *end || ordinal > 1000 ? -1 : (int)ordinal;
}

int kr_device_open(const char *name, kr_level *level, krait_error *e) {
    if (!name || strcmp(name, "cpu") == 0) return kr_device_level(level, e);
    int ordinal = ordinal_of(name);
    if (ordinal < 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "\"%.60s\": no such device; use cpu, cuda or cuda:N",
                       name);
#ifdef KR_CUDA
    KR_TRY(kr_cuda_open(ordinal, e));
    *level = KR_LEVEL_CUDA;
    return 0;
#else
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                   "%.60s: this krait was built without CUDA: configure it with -DKRAIT_CUDA=ON",
                   name);
#endif
}

void *kr_device_alloc(kr_level level, size_t bytes) {
    GPU(level, kr_cuda_alloc(bytes));
    return kr_aligned(bytes);
}

void kr_device_free(kr_level level, void *p) {
#ifdef KR_CUDA
    if (level == KR_LEVEL_CUDA) {
        kr_cuda_free(p);
        return;
    }
#endif
    (void)level;
    kr_free(p);
}

int kr_device_put(kr_level level, void *to, const void *host, size_t bytes, krait_error *e) {
    GPU(level, kr_cuda_copy(to, host, bytes, cudaMemcpyHostToDevice, e));
    (void)e;
    memmove(to, host, bytes);
    return 0;
}

int kr_device_get(kr_level level, void *host, const void *from, size_t bytes, krait_error *e) {
#ifdef KR_CUDA
    if (level == KR_LEVEL_CUDA) {
        KR_TRY(kr_cuda_copy(host, from, bytes, cudaMemcpyDeviceToHost, e));
        return kr_cuda_wait(e);
    }
#endif
    (void)level;
    (void)e;
    memmove(host, from, bytes);
    return 0;
}

int kr_device_copy(kr_level level, void *to, const void *from, size_t bytes, krait_error *e) {
    GPU(level, kr_cuda_copy(to, from, bytes, cudaMemcpyDeviceToDevice, e));
    (void)e;
    memmove(to, from, bytes);
    return 0;
}

int kr_device_fill(kr_level level, void *to, int byte, size_t bytes, krait_error *e) {
    GPU(level, kr_cuda_fill(to, byte, bytes, e));
    (void)e;
    memset(to, byte, bytes);
    return 0;
}

int kr_device_wait(kr_level level, krait_error *e) {
    GPU(level, kr_cuda_wait(e));
    (void)e;
    return 0;
}

int kr_device_check(kr_level level, const char *what, krait_error *e) {
    GPU(level, kr_cuda_check(what, e));
    (void)what;
    (void)e;
    return 0;
}

void kr_device_lock(kr_level level) {
#ifdef KR_CUDA
    if (level == KR_LEVEL_CUDA) kr_cuda_lock();
#endif
    (void)level;
}

void kr_device_unlock(kr_level level) {
#ifdef KR_CUDA
    if (level == KR_LEVEL_CUDA) kr_cuda_unlock();
#endif
    (void)level;
}

void kr_device_memory(kr_level level, size_t *free_bytes, size_t *total) {
    *free_bytes = *total = 0;
#ifdef KR_CUDA
    if (level == KR_LEVEL_CUDA) kr_cuda_memory(free_bytes, total);
#endif
    (void)level;
}

const char *kr_device_name(kr_level level) {
    GPU(level, kr_cuda_name());
    return "";
}

/* ---- copies that arrive later -----------------------------------------------------------------
 */

struct kr_mail {
    kr_level level;
    void *bytes;
#ifdef KR_CUDA
    cudaEvent_t arrived;
#endif
};

int kr_mail_create(kr_mail **out, kr_level level, size_t bytes, krait_error *e) {
    *out = kr_calloc(1, sizeof **out);
    if (!*out) return kr_fail_memory(e, "a copy from the device");
    (*out)->level = level;
#ifdef KR_CUDA
    if (level == KR_LEVEL_CUDA) (*out)->bytes = kr_cuda_mail_alloc(bytes, &(*out)->arrived);
#endif
    if (level != KR_LEVEL_CUDA) (*out)->bytes = kr_malloc(bytes);
    if ((*out)->bytes) return 0;
    kr_free(*out);
    *out = NULL;
    return kr_fail_memory(e, "a copy from the device");
}

void kr_mail_free(kr_mail *m) {
    if (!m) return;
#ifdef KR_CUDA
    if (m->level == KR_LEVEL_CUDA) kr_cuda_mail_free(m->bytes, m->arrived);
#endif
    if (m->level != KR_LEVEL_CUDA) kr_free(m->bytes);
    kr_free(m);
}

int kr_mail_send(kr_mail *m, const void *from, size_t bytes, krait_error *e) {
    GPU(m->level, kr_cuda_mail_send(m->bytes, from, bytes, m->arrived, e));
    (void)e;
    memcpy(m->bytes, from, bytes);
    return 0;
}

const void *kr_mail_read(kr_mail *m, krait_error *e) {
#ifdef KR_CUDA
    if (m->level == KR_LEVEL_CUDA && kr_cuda_mail_wait(m->arrived, e) < 0) return NULL;
#endif
    (void)e;
    return m->bytes;
}

/* ---- recorded work --------------------------------------------------------------------------- */

bool kr_device_records(kr_level level) {
    GPU(level, !kr_cuda_waits());
    return false;
}

int kr_device_record_begin(kr_level level, krait_error *e) {
    GPU(level, kr_cuda_record_begin(e));
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "the CPU records no work");
}

int kr_device_record_end(kr_level level, kr_recording **out, krait_error *e) {
    *out = NULL;
    GPU(level, kr_cuda_record_end(out, e));
    return kr_fail(e, KRAIT_ERR_UNSUPPORTED, "the CPU records no work");
}

int kr_device_replay(const kr_recording *r, krait_error *e) {
#ifdef KR_CUDA
    if (r) return kr_cuda_replay(r, e);
#endif
    (void)r;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "there is no recording");
}

void kr_recording_free(kr_recording *r) {
#ifdef KR_CUDA
    kr_cuda_recording_free(r);
#endif
    (void)r;
}
