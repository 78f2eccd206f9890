/* bench.c - krait_bench: picks the parts, times, sorts, reports. */
#include "check/bench.h"

#include <omp.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/options.h"

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int kr_bench_time(const kr_bench *b, kr_bench_work *work, void *user,
                  double seconds[KR_BENCH_MOST_RUNS], krait_error *e) {
    KR_TRY(work(user, e));
    for (int i = 0; i < b->o.runs; i++) {
        double start = omp_get_wtime();
        KR_TRY(work(user, e));
        seconds[i] = omp_get_wtime() - start;
    }
    qsort(seconds, (size_t)b->o.runs, sizeof *seconds, ascending);
    return 0;
}

void kr_bench_tell(const kr_bench *b, const kr_bench_report *r, const double *seconds) {
    double middle = seconds[b->o.runs / 2], amount = r->amount / r->scale;
    krait_bench_row row = {.name = r->name,
                           .unit = r->unit,
                           .median = amount / middle,
                           .minimum = amount / seconds[b->o.runs - 1],
                           .maximum = amount / seconds[0],
                           .ceiling = r->ceiling / r->scale,
                           .note = r->note ? r->note : "",
                           .ms = r->calls > 0 ? 1e3 * middle / r->calls : 0};
    if (b->o.on_row) b->o.on_row(b->o.user, &row);
}

int kr_bench_measure(const kr_bench *b, const kr_bench_report *r, kr_bench_work *work, void *user,
                     double *median, krait_error *e) {
    double seconds[KR_BENCH_MOST_RUNS];
    KR_TRY(kr_bench_time(b, work, user, seconds, e));
    kr_bench_tell(b, r, seconds);
    if (median) *median = seconds[b->o.runs / 2];
    return 0;
}

void kr_bench_rate(const kr_bench *b, const char *name, const char *unit, double amount,
                   const double *seconds, const char *note) {
    kr_bench_report r = {.name = name, .unit = unit, .note = note, .amount = amount, .scale = 1};
    kr_bench_tell(b, &r, seconds);
}

bool kr_bench_shape(const char *name, int64_t *width, int64_t *layers) {
    static const struct {
        const char *name;
        int64_t width, layers;
    } shapes[] = {{"mamba-130m", 768, 24},   {"mamba-370m", 1024, 48},  {"mamba-790m", 1536, 48},
                  {"mamba-1.4b", 2048, 48},  {"mamba-2.8b", 2560, 64},  {"mamba2-130m", 768, 24},
                  {"mamba2-370m", 1024, 48}, {"mamba2-780m", 1536, 48}, {"mamba2-1.3b", 2048, 48},
                  {"mamba2-2.7b", 2560, 64}, {"mamba3-130m", 768, 24},  {"mamba3-370m", 1024, 48}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (strcmp(name, shapes[i].name) != 0) continue;
        *width = shapes[i].width;
        *layers = shapes[i].layers;
        return true;
    }
    return false;
}

const char *kr_bench_mixer(const char *name) {
    if (strncmp(name, "mamba3-", 7) == 0) return "mamba3";
    return strncmp(name, "mamba2-", 7) == 0 ? "mamba2" : "mamba1";
}

static int check_options(const kr_bench *b, krait_error *e) {
    static const char *const parts[] = {"machine", "ops", "scan", "prefill", "decode", "train"};
    bool known = !b->o.what;
    for (size_t i = 0; !known && i < sizeof parts / sizeof *parts; i++)
        known = strcmp(b->o.what, parts[i]) == 0;
    if (!known)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "bench: there is no part \"%s\"; use machine, ops, scan, prefill, decode or "
                       "train",
                       b->o.what);
    if (b->o.runs < 1 || b->o.runs > KR_BENCH_MOST_RUNS)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "bench: %d runs; 1 to %d are possible", b->o.runs,
                       KR_BENCH_MOST_RUNS);
    if (b->o.dtype && strcmp(b->o.dtype, "f16") == 0 && b->o.device &&
        strcmp(b->o.device, "cpu") != 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "bench: %s: a GPU computes in f32 or bf16, not in f16", b->o.device);
    if (b->o.batch >= 0 && b->o.tokens >= 0) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "bench: batch and tokens cannot be negative");
}

/* Options that were given to a part which does not look at them. */
static int check_effects(const kr_bench *b, krait_error *e) {
    static const struct {
        const char *part, *cpu, *gpu;
    } uses[] = {{"machine", "threads", ""},
                {"ops", "model threads", "model batch tokens"},
                {"scan", "model batch tokens threads", "model batch tokens"},
                {"prefill", "model dtype batch tokens threads",
                 "model dtype batch tokens state-type"},
                {"decode", "model dtype batch threads", "model dtype batch tokens state-type"},
                {"train", "model batch tokens threads", "model dtype batch tokens"}};
    const struct {
        const char *name;
        bool given;
    } options[] = {{"model", b->o.model != NULL},
                   {"dtype", b->o.dtype != NULL},
                   {"batch", b->o.batch > 0},
                   {"tokens", b->o.tokens > 0},
                   {"state-type", b->o.state_type != NULL},
                   {"threads", b->o.threads > 0}};
    bool gpu = b->level == KR_LEVEL_CUDA;
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        bool asked = false, used = false;
        for (size_t p = 0; p < sizeof uses / sizeof *uses; p++) {
            if (b->o.what && strcmp(uses[p].part, b->o.what) != 0) continue;
            asked = true;
            used |= strstr(gpu ? uses[p].gpu : uses[p].cpu, options[i].name) != NULL;
        }
        if (asked && options[i].given && !used)
            return kr_fail(e, KRAIT_ERR_ARGUMENT, "bench: %s has no effect on %s%s",
                           options[i].name, b->o.what ? b->o.what : "any part",
                           gpu         ? " on the GPU"
                           : b->o.what ? ""
                                       : " on the CPU");
    }
    return 0;
}

static int find_shape(kr_bench *b, krait_error *e) {
    krait_model_options o = KRAIT_MODEL_OPTIONS_INIT;
    krait_model_info info;
    krait_model *m;
    if (!b->o.model) b->o.model = "mamba-130m";
    if (kr_bench_shape(b->o.model, &b->width, &b->layers)) return 0;
    o.without_tokenizer = 1;
    KR_TRY(krait_model_open(&m, b->o.model, &o, e));
    krait_model_describe(m, &info);
    b->width = info.width;
    b->layers = info.layers;
    krait_model_close(&m);
    return 0;
}

static bool wants(const kr_bench *b, const char *part) {
    return !b->o.what || strcmp(b->o.what, part) == 0;
}

int krait_bench(const krait_bench_options *options, krait_error *e) {
    kr_bench b = {.o = KRAIT_BENCH_OPTIONS_INIT};
    KR_TRY(kr_options_read(&b.o, sizeof b.o, options, "krait_bench_options", e));
    KR_TRY(check_options(&b, e));
    KR_TRY(kr_device_open(b.o.device, &b.level, e));
    KR_TRY(check_effects(&b, e));
    KR_TRY(find_shape(&b, e));
    if (b.o.threads < 1) b.o.threads = kr_device_threads();
    bool gpu = b.level == KR_LEVEL_CUDA;
    KR_TRY((gpu ? kr_bench_gpu_machine : kr_bench_machine)(&b, wants(&b, "machine"), e));
    if (wants(&b, "ops")) KR_TRY((gpu ? kr_bench_gpu_ops : kr_bench_ops)(&b, e));
    if (wants(&b, "scan") || (!gpu && wants(&b, "train")))
        KR_TRY((gpu ? kr_bench_gpu_scan : kr_bench_scan)(&b, e));
    if (wants(&b, "prefill") || wants(&b, "decode") || wants(&b, "train"))
        KR_TRY(kr_bench_model(&b, b.o.what, e));
    return 0;
}
