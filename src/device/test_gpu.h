/* test_gpu.h - for tests: whether there is a GPU, and what must succeed there. */
#ifndef KR_TEST_GPU_H
#define KR_TEST_GPU_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "device/device.h"

/* Says why where there is none: such a test is skipped. */
static inline bool kr_test_gpu(void) {
    kr_level level;
    krait_error e;
    if (kr_device_open("cuda", &level, &e) == 0) return true;
    print_message("skipped: no GPU (%s)\n", e.message);
    return false;
}

/* e: of the call that gave rc. */
static inline void kr_ok(int rc, const krait_error *e) {
    if (rc < 0) fail_msg("%s", e->message);
}

#endif
