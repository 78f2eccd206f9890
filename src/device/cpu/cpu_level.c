/* cpu_level.c - which vector levels this machine has, and which one KRAIT_ISA asks for. */
#include "device/device.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

static const char *const names[KR_LEVELS] = {
    [KR_LEVEL_REF64] = "ref64", [KR_LEVEL_REF] = "ref", [KR_LEVEL_V1] = "v1",
    [KR_LEVEL_V3] = "v3",       [KR_LEVEL_V4] = "v4",   [KR_LEVEL_CUDA] = "cuda",
};

const char *kr_level_name(kr_level level) {
#if defined(__aarch64__)
    if (level == KR_LEVEL_V1) return "neon";
#endif
    return names[level];
}

#if defined(__x86_64__)
/* Asked of the processor: clang 14 does not know this one by name. */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static bool has_v3(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi2") && has_f16c();
}

static bool has_v4(void) {
    return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

bool kr_level_supported(kr_level level) {
    if (level <= KR_LEVEL_V1) return true;
    if (level == KR_LEVEL_CUDA) return kr_device_name(level)[0] != 0;
#if defined(__x86_64__)
    if (level == KR_LEVEL_V3) return has_v3();
    if (level == KR_LEVEL_V4) return has_v4();
#endif
    return false;
}

static kr_level best_level(void) {
    for (int level = KR_LEVEL_COUNT - 1; level > KR_LEVEL_V1; level--)
        if (kr_level_supported((kr_level)level)) return (kr_level)level;
    return KR_LEVEL_V1;
}

int kr_device_level(kr_level *level, krait_error *e) {
    const char *wanted = getenv("KRAIT_ISA");
    *level = best_level();
    if (!wanted || !*wanted) return 0;
    for (int i = KR_LEVEL_REF; i < KR_LEVEL_COUNT; i++) {
        if (strcmp(wanted, kr_level_name((kr_level)i)) != 0) continue;
        if (!kr_level_supported((kr_level)i))
            return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                           "KRAIT_ISA=%s: this machine does not have that level; its best is %s",
                           wanted, kr_level_name(*level));
        *level = (kr_level)i;
        return 0;
    }
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "KRAIT_ISA=%s: no such level; use ref, v1, v3 or v4",
                   wanted);
}

int kr_device_threads(void) { return omp_get_max_threads(); }
