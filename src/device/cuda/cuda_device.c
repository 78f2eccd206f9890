/* cuda_device.c - the GPU of this process: opening, memory, copies, errors, recorded work. */
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "device/cuda/cuda.h"
#include "device/cuda/cuda_device.h"

static struct {
    bool open, begins_early, hopper;
    bool each; /* KRAIT_SYNC: every op is waited for */
    int ordinal, processors, shared;
    cudaStream_t stream;
    char name[128];
} gpu;

struct kr_recording {
    cudaGraphExec_t exec;
};

/* A kernel that fails does so after its launch, which is when its op was known; whatever is asked
 * of the card next is told. */
static bool is_late(cudaError_t rc) {
    return rc == cudaErrorIllegalAddress || rc == cudaErrorMisalignedAddress ||
           rc == cudaErrorLaunchFailure || rc == cudaErrorAssert ||
           rc == cudaErrorIllegalInstruction || rc == cudaErrorInvalidAddressSpace ||
           rc == cudaErrorInvalidPc || rc == cudaErrorHardwareStackError;
}

static int failed(krait_error *e, const char *what, cudaError_t rc) {
    krait_err code = rc == cudaErrorMemoryAllocation ? KRAIT_ERR_MEMORY : KRAIT_ERR_UNSUPPORTED;
    if (!is_late(rc) || gpu.each)
        return kr_fail(e, code, "%s: the GPU says: %s", what, cudaGetErrorString(rc));
    return kr_fail(e, code,
                   "%s, or what was queued before: the GPU says: %s; KRAIT_SYNC=1 in the "
                   "environment makes it wait after every op and name the one that fails",
                   what, cudaGetErrorString(rc));
}

static int tried(krait_error *e, const char *what, cudaError_t rc) {
    return rc == cudaSuccess ? 0 : failed(e, what, rc);
}

/* ---- threads --------------------------------------------------------------------------------- */

static pthread_once_t lock_made = PTHREAD_ONCE_INIT;
static pthread_mutex_t queue;

static void make_lock(void) {
    pthread_mutexattr_t again;
    pthread_mutexattr_init(&again);
    pthread_mutexattr_settype(&again, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&queue, &again);
    pthread_mutexattr_destroy(&again);
}

/* The card that is used, also by an allocation, is a thread's own choice. */
static void choose_card(void) {
    static _Thread_local bool chosen;
    if (gpu.open && !chosen) chosen = cudaSetDevice(gpu.ordinal) == cudaSuccess;
}

void kr_cuda_lock(void) {
    pthread_once(&lock_made, make_lock);
    pthread_mutex_lock(&queue);
    choose_card();
}

void kr_cuda_unlock(void) { pthread_mutex_unlock(&queue); }

/* The result of a call that queues something. */
static int queued(krait_error *e, const char *what, cudaError_t rc) {
    kr_cuda_unlock();
    return tried(e, what, rc);
}

/* ---- opening --------------------------------------------------------------------------------- */

static int find_card(int ordinal, krait_error *e) {
    int count = 0;
    cudaError_t rc = cudaGetDeviceCount(&count);
    if (rc != cudaSuccess || count == 0) {
        cudaGetLastError();
        return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                       "no NVIDIA GPU can be used here (%s): use --device cpu",
                       rc == cudaSuccess ? "none found" : cudaGetErrorString(rc));
    }
    if (ordinal >= 0 && ordinal < count) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "cuda:%d: there are %d GPUs, cuda:0 to cuda:%d", ordinal,
                   count, count - 1);
}

static int check_card(int ordinal, krait_error *e) {
    struct cudaDeviceProp p;
    KR_TRY(tried(e, "cuda", cudaGetDeviceProperties(&p, ordinal)));
    if (p.major < 8)
        return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                       "cuda:%d: %s has compute capability %d.%d; 8.0 or later is needed", ordinal,
                       p.name, p.major, p.minor);
    snprintf(gpu.name, sizeof gpu.name, "%.120s", p.name);
    gpu.processors = p.multiProcessorCount;
    gpu.shared = (int)p.sharedMemPerBlockOptin;
    gpu.begins_early = p.major >= 9;
    gpu.hopper = p.major == 9;
    return 0;
}

static int open_card(int ordinal, krait_error *e) {
    if (gpu.open && gpu.ordinal == ordinal) return tried(e, "cuda", cudaSetDevice(ordinal));
    if (gpu.open)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "cuda:%d: this process already uses cuda:%d", ordinal,
                       gpu.ordinal);
    KR_TRY(find_card(ordinal, e));
    KR_TRY(check_card(ordinal, e));
    KR_TRY(tried(e, "cuda", cudaSetDevice(ordinal)));
    KR_TRY(tried(e, "cuda", cudaStreamCreateWithFlags(&gpu.stream, cudaStreamNonBlocking)));
    if (kr_cuda_blas_open(e) < 0) { /* last, since it stays open, on this card */
        cudaStreamDestroy(gpu.stream);
        gpu.stream = NULL;
        return e ? e->code : KRAIT_ERR_UNSUPPORTED;
    }
    gpu.ordinal = ordinal;
    gpu.each = getenv("KRAIT_SYNC") && strcmp(getenv("KRAIT_SYNC"), "0") != 0;
    gpu.open = true;
    return 0;
}

int kr_cuda_open(int ordinal, krait_error *e) {
    kr_cuda_lock();
    int rc = open_card(ordinal, e);
    kr_cuda_unlock();
    return rc;
}

bool kr_cuda_is_open(void) { return gpu.open; }
cudaStream_t kr_cuda_stream(void) { return gpu.stream; }
int kr_cuda_processors(void) { return gpu.processors; }
int kr_cuda_shared(void) { return gpu.shared; }
bool kr_cuda_begins_early(void) { return gpu.begins_early; }
bool kr_cuda_hopper(void) { return gpu.hopper; }
const char *kr_cuda_name(void) { return gpu.open ? gpu.name : ""; }

/* ---- what went wrong ------------------------------------------------------------------------- */

bool kr_cuda_waits(void) { return gpu.each; }

int kr_cuda_check(const char *what, krait_error *e) {
    KR_TRY(tried(e, what, cudaGetLastError()));
    enum cudaStreamCaptureStatus recording = cudaStreamCaptureStatusNone;
    if (gpu.each) (void)cudaStreamIsCapturing(gpu.stream, &recording);
    if (!gpu.each || recording != cudaStreamCaptureStatusNone) return 0;
    return tried(e, what, cudaStreamSynchronize(gpu.stream));
}

/* ---- memory ---------------------------------------------------------------------------------- */

void *kr_cuda_alloc(size_t bytes) {
    void *p = NULL;
    choose_card();
    if (cudaMalloc(&p, bytes ? bytes : 1) == cudaSuccess) return p;
    cudaGetLastError(); /* it was not sticky, and is not the next launch's */
    return NULL;
}

void kr_cuda_free(void *p) {
    if (p) cudaFree(p);
}

int kr_cuda_copy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                 krait_error *e) {
    if (!bytes) return 0;
    kr_cuda_lock();
    return queued(e, "copying", cudaMemcpyAsync(to, from, bytes, kind, gpu.stream));
}

int kr_cuda_fill(void *to, int byte, size_t bytes, krait_error *e) {
    if (!bytes) return 0;
    kr_cuda_lock();
    return queued(e, "filling", cudaMemsetAsync(to, byte, bytes, gpu.stream));
}

/* Waits for what is queued now, and lets other threads queue more meanwhile. */
int kr_cuda_wait(krait_error *e) {
    cudaEvent_t now = NULL;
    kr_cuda_lock();
    int rc = tried(e, "a kernel", cudaGetLastError());
    if (rc == 0) rc = tried(e, "a kernel", cudaEventCreateWithFlags(&now, cudaEventDisableTiming));
    if (rc == 0) rc = tried(e, "a kernel", cudaEventRecord(now, gpu.stream));
    kr_cuda_unlock();
    if (rc == 0) rc = tried(e, "a kernel", cudaEventSynchronize(now));
    if (now) cudaEventDestroy(now);
    return rc;
}

void kr_cuda_memory(size_t *free_bytes, size_t *total) {
    choose_card();
    if (cudaMemGetInfo(free_bytes, total) == cudaSuccess) return;
    cudaGetLastError();
    *free_bytes = *total = 0;
}

/* ---- copies that arrive later -----------------------------------------------------------------
 */

void *kr_cuda_mail_alloc(size_t bytes, cudaEvent_t *arrived) {
    void *p = NULL;
    *arrived = NULL;
    choose_card();
    if (cudaMallocHost(&p, bytes ? bytes : 1) == cudaSuccess &&
        cudaEventCreateWithFlags(arrived, cudaEventDisableTiming) == cudaSuccess)
        return p;
    cudaGetLastError();
    kr_cuda_mail_free(p, *arrived);
    return NULL;
}

void kr_cuda_mail_free(void *p, cudaEvent_t arrived) {
    if (p) cudaFreeHost(p);
    if (arrived) cudaEventDestroy(arrived);
}

int kr_cuda_mail_send(void *to, const void *from, size_t bytes, cudaEvent_t arrived,
                      krait_error *e) {
    kr_cuda_lock();
    kr_cuda_write(to, from, bytes);
    cudaError_t rc = cudaGetLastError();
    return queued(e, "copying", rc == cudaSuccess ? cudaEventRecord(arrived, gpu.stream) : rc);
}

int kr_cuda_mail_wait(cudaEvent_t arrived, krait_error *e) {
    return tried(e, "a kernel", cudaEventSynchronize(arrived));
}

/* ---- recorded work --------------------------------------------------------------------------- */

/* The queue stays locked until the end, whatever is in between. */
int kr_cuda_record_begin(krait_error *e) {
    kr_cuda_lock();
    cudaError_t rc = cudaStreamBeginCapture(gpu.stream, cudaStreamCaptureModeThreadLocal);
    return rc == cudaSuccess ? 0 : queued(e, "recording", rc);
}

int kr_cuda_record_end(kr_recording **out, krait_error *e) {
    cudaGraph_t graph = NULL;
    *out = NULL;
    KR_TRY(queued(e, "recording", cudaStreamEndCapture(gpu.stream, &graph)));
    kr_recording *r = kr_calloc(1, sizeof *r);
    int rc = r ? tried(e, "recording", cudaGraphInstantiate(&r->exec, graph, 0))
               : kr_fail_memory(e, "a recording");
    cudaGraphDestroy(graph);
    if (rc < 0)
        kr_free(r);
    else
        *out = r;
    return rc;
}

int kr_cuda_replay(const kr_recording *r, krait_error *e) {
    kr_cuda_lock();
    return queued(e, "a recorded step", cudaGraphLaunch(r->exec, gpu.stream));
}

void kr_cuda_recording_free(kr_recording *r) {
    if (!r) return;
    cudaGraphExecDestroy(r->exec);
    kr_free(r);
}
