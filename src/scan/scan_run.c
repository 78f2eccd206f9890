/* scan_run.c - the recurrence on plain arrays, for programs that have no graph: arrays become the
 * tensors of the two ops, which do the work. */
#include "base/err.h"
#include "base/mem.h"
#include "scan/scan_op.h"

/* Two sequences of one slot would overwrite each other's state. */
static int check_slots(const krait_scan_arrays *a, krait_error *e) {
    if (!a->slots)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "scan: slots is 0; states and their gradients need 1 or more");
    unsigned char *taken = a->seqs ? kr_calloc((size_t)a->slots, 1) : NULL;
    if (a->seqs && !taken) return kr_fail_memory(e, "scan");
    int rc = 0;
    for (int64_t s = 0; a->seqs && rc == 0 && s < a->sequences; s++) {
        int64_t slot = a->seqs[3 * s + 2];
        if (slot < 0 || slot >= a->slots)
            rc = kr_fail(e, KRAIT_ERR_ARGUMENT, "scan: sequence %lld has slot %lld of %lld",
                         (long long)s, (long long)slot, (long long)a->slots);
        else if (taken[slot]++)
            rc = kr_fail(e, KRAIT_ERR_ARGUMENT,
                         "scan: sequence %lld has slot %lld, as one before it: each needs its own",
                         (long long)s, (long long)slot);
    }
    kr_free(taken);
    return rc;
}

static int check_seqs(const krait_scan_arrays *a, krait_error *e) {
    int64_t row = 0;
    for (int64_t s = 0; a->seqs && s < a->sequences; s++) {
        const int64_t *q = a->seqs + 3 * s;
        if (q[0] != row || q[1] < 0 || q[1] > a->rows - row)
            return kr_fail(
                e, KRAIT_ERR_ARGUMENT,
                "scan: sequence %lld has %lld rows from %lld on; expected it to start at %lld "
                "and to end within %lld rows",
                (long long)s, (long long)q[1], (long long)q[0], (long long)row, (long long)a->rows);
        row += q[1];
    }
    if (a->seqs && row != a->rows)
        return kr_fail(e, KRAIT_ERR_ARGUMENT, "scan: the sequences have %lld rows of %lld",
                       (long long)row, (long long)a->rows);
    return 0;
}

static int check_index(const krait_scan_arrays *a, krait_error *e) {
    for (int64_t i = 0; a->index && i < a->index_count; i++)
        if (a->index[i] < 0 || a->index[i] >= a->index_count)
            return kr_fail(e, KRAIT_ERR_ARGUMENT, "scan: index[%lld] is %d, outside [0, %lld)",
                           (long long)i, (int)a->index[i], (long long)a->index_count);
    int64_t sequences = a->seqs ? a->sequences : 1;
    for (int64_t s = 0; a->index && s < sequences; s++)
        if ((a->seqs ? a->seqs[3 * s + 1] : a->rows) != a->index_count)
            return kr_fail(e, KRAIT_ERR_ARGUMENT,
                           "scan: sequence %lld has another length than the index table's %lld",
                           (long long)s, (long long)a->index_count);
    return 0;
}

static kr_tensor tensor(const void *data, kr_dtype dtype, int rank, int64_t first, int64_t second) {
    return kr_tensor_make((void *)(uintptr_t)data, dtype, rank, (int64_t[]){first, second});
}

/* The tensor of input i of the op over `data`, which may be NULL. */
static kr_tensor input(const krait_scan_desc *d, int64_t rows, int i, const float *data) {
    bool constant;
    int64_t cols = kr_scan_input_cols(d, i, &constant);
    return tensor(data, KR_F32, 2, constant ? 1 : rows, cols);
}

static kr_tensor state_tensor(const krait_scan_desc *d, int64_t slots, const float *data) {
    return kr_tensor_make((void *)(uintptr_t)data, KR_F32, 3,
                          (int64_t[]){slots, kr_scan_lanes(d), kr_scan_n(d)});
}

/* The inputs that both directions share. whole [3] becomes the one sequence when none are given. */
static void fill_inputs(kr_call *c, const krait_scan_desc *d, const krait_scan_arrays *a,
                        int64_t whole[3]) {
    const float *data[KR_SCAN_INS] = {
        [KR_SCAN_X] = a->x, [KR_SCAN_DT] = a->dt,     [KR_SCAN_A] = a->a,
        [KR_SCAN_B] = a->b, [KR_SCAN_C] = a->c,       [KR_SCAN_D] = a->d,
        [KR_SCAN_Z] = a->z, [KR_SCAN_GAIN] = a->gain, [KR_SCAN_BIAS] = a->dt_bias};
    for (int i = 0; i < KR_SCAN_INS; i++) c->in[i] = input(d, a->rows, i, data[i]);
    whole[1] = a->rows;
    c->in[KR_SCAN_SEQS] =
        tensor(a->seqs ? a->seqs : whole, KR_I64, 2, a->seqs ? a->sequences : 1, 3);
    c->in[KR_SCAN_RESET] = tensor(a->reset, KR_U8, 1, a->rows, 0);
    c->in[KR_SCAN_INDEX] = tensor(a->index, KR_I32, 1, a->index_count, 0);
    c->in[KR_SCAN_STATE] = state_tensor(d, a->slots, a->state);
}

/* `states`: some array of the call has slots. */
static int check(const krait_scan_desc *d, const krait_scan_arrays *a, bool states,
                 krait_error *e) {
    if (!d || !a) return kr_fail_null(e, "scan");
    KR_TRY(krait_scan_check(d, e));
    if (a->rows < 0 || a->sequences < 0 || a->slots < 0)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "scan: rows (%lld), sequences (%lld) and slots (%lld) must be 0 or more",
                       (long long)a->rows, (long long)a->sequences, (long long)a->slots);
    KR_TRY(check_seqs(a, e));
    if (states) KR_TRY(check_slots(a, e));
    return check_index(a, e);
}

static int run(const kr_op *op, kr_call *c, int threads, krait_error *e) {
    kr_tensor shapes[KR_MAX_OUT] = {{0}};
    kr_level level;
    KR_TRY(op->shape(c, shapes, e));
    KR_TRY(kr_device_level(&level, e));
    c->threads = threads > 0 ? threads : kr_device_threads();
    size_t size = op->scratch(c);
    c->scratch = kr_aligned(size);
    if (!c->scratch) return kr_fail_memory(e, "scan");
    kr_op_kernel(op, level)(c);
    kr_free(c->scratch);
    return 0;
}

int krait_scan_run(const krait_scan_desc *d, const krait_scan_arrays *a, int threads,
                   krait_error *e) {
    kr_call c = {.n_in = KR_SCAN_INS, .n_out = KR_SCAN_OUTS, .attr = d};
    int64_t whole[3] = {0, 0, 0};
    KR_TRY(check(d, a, a && a->state, e));
    if (!a->y) return kr_fail(e, KRAIT_ERR_ARGUMENT, "scan: y is missing");
    fill_inputs(&c, d, a, whole);
    c.out[KR_SCAN_OUT_Y] = tensor(a->y, KR_F32, 2, a->rows, d->reads * kr_scan_lanes(d));
    c.out[KR_SCAN_OUT_STATE] = state_tensor(d, a->slots, a->state);
    return run(&kr_op_scan, &c, threads, e);
}

int krait_scan_gradient(const krait_scan_desc *d, const krait_scan_arrays *a,
                        const krait_scan_gradients *g, int threads, krait_error *e) {
    kr_call c = {.n_in = KR_SCAN_GRAD_INS, .n_out = KR_SCAN_GRAD_OUTS, .attr = d};
    int64_t whole[3] = {0, 0, 0};
    if (!g) return kr_fail_null(e, "krait_scan_gradient");
    KR_TRY(check(d, a, (a && a->state) || g->dstate_out || g->dstate_in, e));
    fill_inputs(&c, d, a, whole);
    c.in[KR_SCAN_DY] = input(d, a->rows, KR_SCAN_DY, g->dy);
    c.in[KR_SCAN_DSTATE] = state_tensor(d, a->slots, g->dstate_out);
    const struct {
        int out, in;
        float *data;
    } wanted[] = {
        {KR_SCAN_DX, KR_SCAN_X, g->dx},         {KR_SCAN_DDT, KR_SCAN_DT, g->ddt},
        {KR_SCAN_DA, KR_SCAN_A, g->da},         {KR_SCAN_DB, KR_SCAN_B, g->db},
        {KR_SCAN_DC, KR_SCAN_C, g->dc},         {KR_SCAN_DD, KR_SCAN_D, g->dd},
        {KR_SCAN_DZ, KR_SCAN_Z, g->dz},         {KR_SCAN_DBIAS, KR_SCAN_BIAS, g->ddt_bias},
        {KR_SCAN_DGAIN, KR_SCAN_GAIN, g->dgain}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        c.out[wanted[i].out] = input(d, a->rows, wanted[i].in, wanted[i].data);
    c.out[KR_SCAN_DSTATE_IN] = state_tensor(d, a->slots, g->dstate_in);
    return run(&kr_op_scan_grad, &c, threads, e);
}
