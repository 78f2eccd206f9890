/* scratch_test.c - a plan made for some rows and sequences has room for any fewer, which a batch of
 * ragged examples has: every op's scratch, on the CPU and on the GPU, grows with both. */
#include "ops/op.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "ops/causal_conv/causal_conv.h"
#include "ops/scale/scale.h"

enum { MOST_ROWS = 1 << 20, MOST_SEQS = 500 };

/* About every 256th part more: what is not monotone falls for longer. */
static int64_t next_of(int64_t n) { return n + 1 + n / 256; }

/* The call of a case; `half`: with bf16 activations, as the GPU's kernels have them. */
static kr_call call_of(const kr_op *op, const kr_case *k, bool half, int threads) {
    static float there;
    kr_call c = {.n_in = k->n_in, .n_out = k->n_out, .attr = k->attr, .threads = threads};
    if (half && k->half.attr) c.attr = k->half.attr;
    for (int i = 0; i < k->n_in; i++) {
        c.in[i] = k->in[i];
        c.in[i].data = k->fill[i].kind == KR_FILL_ABSENT ? NULL : &there;
        if (half && (op->half_in & ~k->half.wide) >> i & 1) c.in[i].dtype = KR_BF16;
    }
    for (int i = 0; i < k->n_out; i++) {
        c.out[i] = k->out[i];
        c.out[i].data = k->out_absent[i] ? NULL : &there;
    }
    return c;
}

/* Something else is as long as there are rows. */
static bool mixes_up(const kr_call *c, int64_t rows) {
    for (int i = 0; i < c->n_in; i++)
        for (int d = 1; d < c->in[i].rank; d++)
            if (c->in[i].shape[d] == rows) return true;
    return false;
}

/* Gives whatever has `from` rows `to` of them; false: not what the op takes. */
static bool set_rows(const kr_op *op, const kr_case *k, kr_call *c, int64_t from, int64_t to) {
    kr_tensor out[KR_MAX_OUT] = {{0}};
    krait_error e;
    for (int i = 0; i < c->n_in; i++)
        if (k->fill[i].kind != KR_FILL_SEQS && c->in[i].shape[0] == from) c->in[i].shape[0] = to;
    for (int i = 0; i < c->n_out; i++)
        if (c->out[i].rank && c->out[i].shape[0] == from) c->out[i].shape[0] = to;
    return op->shape(c, out, &e) == 0;
}

static int seqs_of(const kr_case *k) {
    for (int i = 0; i < k->n_in; i++)
        if (k->fill[i].kind == KR_FILL_SEQS) return i;
    return -1;
}

static void grows(const kr_op *op, const kr_case *k, kr_level level, size_t now, size_t *most,
                  int64_t rows, int64_t seqs) {
    if (now < *most)
        fail_msg("%s, %s, at level %s: %zu bytes for %lld rows in %lld sequences, %zu for fewer",
                 op->name, k->name, kr_level_name(level), now, (long long)rows, (long long)seqs,
                 *most);
    *most = now;
}

/* More rows, then more sequences of the last of them. False: the case's rows are not to be told. */
static bool check_case(const kr_op *op, const kr_case *k, kr_level level, bool half, int threads) {
    int64_t M = k->tokens ? k->tokens : k->in[0].shape[0], from = M;
    int seqs = seqs_of(k);
    kr_call c = call_of(op, k, half, threads);
    int64_t S = seqs < 0 ? 1 : c.in[seqs].shape[0];
    size_t most = 0;
    if (mixes_up(&c, M) || !set_rows(op, k, &c, M, MOST_ROWS + 7)) return false;
    from = MOST_ROWS + 7; /* as long as nothing else */
    for (int64_t m = 1; m <= MOST_ROWS; m = next_of(m)) {
        kr_call fewer = c;
        if (!set_rows(op, k, &fewer, from, m)) continue; /* some need rows */
        grows(op, k, level, kr_op_scratch(op, level, &fewer), &most, m, S);
    }
    for (int64_t s = S; seqs >= 0 && s < MOST_SEQS; s++) {
        c.in[seqs].shape[0] = s;
        grows(op, k, level, kr_op_scratch(op, level, &c), &most, from, s);
    }
    return true;
}

static int check_op(const kr_op *op, kr_level level, bool half, int threads) {
    int n = 0;
    kr_case k = {0};
    for (int i = 0; op->cases(i, &k); i++, k = (kr_case){0})
        if (!(half && k.half.none) && check_case(op, &k, level, half, threads)) n++;
    return n;
}

static void there_is_room_for_fewer(void **state) {
    (void)state;
    for (int i = 0; kr_ops[i]; i++) {
        const kr_op *op = kr_ops[i];
        int host = 0, gpu = 0;
        if (!op->cases) continue;
        if (op->scratch) host = check_op(op, KR_LEVEL_REF, false, 1);
        if (op->scratch) host += check_op(op, KR_LEVEL_REF, false, 8);
        if (op->scratch_cuda) gpu = check_op(op, KR_LEVEL_CUDA, false, 1);
        if (op->scratch_cuda && op->half_in) gpu += check_op(op, KR_LEVEL_CUDA, true, 1);
        assert_true((!op->scratch || host > 0) && (!op->scratch_cuda || gpu > 0));
        if (op->scratch || op->scratch_cuda) printf("%s: %d and %d cases\n", op->name, host, gpu);
    }
}

/* Where the number of parts is not what the scratch is made for, but at most that. */
static void parts_are_no_more_than_that(void **state) {
    (void)state;
    static const int64_t widths[] = {1, 128, 129, 768, 1536, 5000, 528 * 128, 2112 * 128, 300000};
    int64_t most = 0;
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (int64_t m = 1; m <= MOST_ROWS; m = next_of(m)) {
            int64_t parts = kr_causal_conv_parts(m, widths[w]);
            assert_true(parts <= kr_causal_conv_most_parts(m, widths[w]));
            if (parts > most) most = parts;
        }
    for (int64_t m = 1; m <= MOST_ROWS; m = next_of(m)) {
        int64_t parts = (m + kr_skip_rows(m) - 1) / kr_skip_rows(m);
        assert_true(parts <= kr_skip_most_parts(m));
    }
    printf("at most %lld parts of the convolution's gradient\n", (long long)most);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_is_room_for_fewer),
        cmocka_unit_test(parts_are_no_more_than_that),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
