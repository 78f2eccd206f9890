/* selftest.c - krait_selftest: every op of the build through the checker. */
#include <string.h>

#include "base/err.h"
#include "base/options.h"
#include "check/check.h"
#include "device/device.h"

void kr_check_row(kr_check_state *s, krait_check_row row) {
    if (!row.detail) row.detail = "";
    s->skipped += row.skipped != 0;
    if (!row.skipped && row.passed) s->passed++;
    if (!row.skipped && !row.passed) s->failed++;
    if (s->options->on_row) s->options->on_row(s->options->user, &row);
}

bool kr_check_mine(kr_check_state *s) {
    int64_t shares = s->options->shares;
    return shares == 0 || s->cases++ % shares == s->options->share - 1;
}

/* Corruption is of kernels that the checker calls itself; the gradient rows, which are the CPU's,
 * would only repeat what they say without it. */
static int check_op(kr_check_state *s, const kr_op *op, krait_error *e) {
    KR_TRY(kr_check_kernels(s, op, e));
    if (!op->grad || s->options->corrupt || s->level == KR_LEVEL_CUDA) return 0;
    return kr_check_gradients(s, op, e);
}

int krait_selftest(const krait_check_options *given, krait_error *e) {
    enum { FEWEST_THREADS = 3 }; /* more than two, and odd: partitions that do not divide */
    krait_check_options o = KRAIT_CHECK_OPTIONS_INIT, *options = &o;
    KR_TRY(kr_options_read(&o, sizeof o, given, "krait_check_options", e));
    if (options->corrupt && !kr_op_find(options->corrupt))
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "selftest: there is no op \"%s\" to corrupt",
                       options->corrupt);
    if (options->corrupt && options->only && !strstr(options->corrupt, options->only))
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "selftest: to corrupt %s has no effect: only ops are checked whose name "
                       "contains \"%s\"",
                       options->corrupt, options->only);
    bool whole = options->share == 0 && options->shares == 0, any = false;
    if (!whole && (options->share < 1 || options->share > options->shares))
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "selftest: there is no share %d of %d",
                       options->share, options->shares);
    kr_check_state s = {.options = options};
    KR_TRY(kr_device_open(options->device, &s.level, e));
    s.threads = options->threads > 0 ? options->threads : kr_device_threads();
    if (s.threads < FEWEST_THREADS) s.threads = FEWEST_THREADS;
    for (int i = 0; kr_ops[i]; i++) {
        if (options->only && !strstr(kr_ops[i]->name, options->only)) continue;
        KR_TRY(check_op(&s, kr_ops[i], e));
        any = true;
    }
    if (!any)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "selftest: no op's name contains \"%s\"",
                       options->only ? options->only : "");
    if (s.failed == 0) return 0;
    return kr_fail(e, KRAIT_ERR_NUMERIC, "selftest: %lld of %lld rows failed", (long long)s.failed,
                   (long long)(s.failed + s.passed));
}
