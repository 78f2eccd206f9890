/* scan_gpu_test.c - the GPU's plan, which is plain C: what is refused, and how time is cut. */
#include "scan/scan_gpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static kr_call call_of(const krait_scan_desc *d, kr_dtype type, int64_t M, int64_t S) {
    kr_call c = {.attr = d, .n_in = KR_SCAN_GRAD_INS, .n_out = KR_SCAN_GRAD_OUTS};
    c.in[KR_SCAN_X] = kr_tensor_make(NULL, type, 2, (int64_t[]){M, kr_scan_lanes(d)});
    c.in[KR_SCAN_SEQS] = kr_tensor_make(NULL, KR_I64, 2, (int64_t[]){S, 3});
    return c;
}

static void refuses(void **state) {
    (void)state;
    krait_error e = {0};
    krait_scan_desc good[] = {krait_scan_mamba1(64, 16),
                              krait_scan_mamba1(64, 257),
                              krait_scan_mamba2(2, 64, 128, 1),
                              krait_scan_mamba2(2, 65, 129, 1),
                              krait_scan_s4d(8, 4),
                              krait_scan_s4(8, 256, 2),
                              krait_scan_lssl(8, 512),
                              krait_scan_lru(8),
                              krait_scan_gla(2, 8, 8)};
    krait_scan_desc varying = krait_scan_lru(8), low = krait_scan_s4(8, 4, 1);
    krait_scan_desc early = good[0], paths = good[0];
    varying.a_constant = low.a_constant = false;
    early.read = KRAIT_READ_BEFORE;
    paths.order = KRAIT_ORDER_INDEX;
    krait_scan_desc bad[] = {krait_scan_mamba1(64, 513),
                             krait_scan_s4d(8, 257),
                             krait_scan_lssl(8, 513),
                             varying,
                             low,
                             early,
                             paths};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        kr_call c = call_of(&good[i], KR_F32, 10, 1);
        assert_int_equal(kr_scan_gpu_check(&c, &e), 0);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kr_call c = call_of(&bad[i], KR_F32, 10, 1);
        assert_int_equal(kr_scan_gpu_check(&c, &e), KRAIT_ERR_UNSUPPORTED);
        printf("refused: %s\n", e.message);
        assert_non_null(strstr(e.message, "GPU"));
    }
}

/* A card without room for Mamba's own kernels has those for all members: here none is open. */
static void small_cards_have_other_kernels(void **state) {
    (void)state;
#if defined(KR_CUDA)
    static const int64_t states[] = {16, 17, 208, 256};
    krait_error e = {0};
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        krait_scan_desc d = krait_scan_mamba1(64, states[i]);
        for (int half = 0; half < 2; half++) {
            kr_call c = call_of(&d, half ? KR_BF16 : KR_F32, 10, 1);
            assert_int_equal(kr_scan_gpu_pick(&c), KR_SCAN_GPU_ROWS);
            c.n_in = KR_SCAN_INS;
            assert_int_equal(kr_scan_gpu_pick(&c), KR_SCAN_GPU_ROWS);
            assert_int_equal(kr_scan_gpu_check(&c, &e), 0);
        }
    }
#else
    print_message("skipped: built without CUDA\n");
    skip();
#endif
}

/* Bytes of scratch of one pass; `own`: of Mamba's own kernels, whatever the card has room for. */
static size_t scratch_of(const kr_call *c, bool back, bool own) {
    kr_scan_gpu_cut s;
    if (!own) return back ? kr_scan_gpu_scratch_grad(c) : kr_scan_gpu_scratch(c);
    kr_scan_gpu_plan(c, back, &s);
    return (size_t)s.total * sizeof(float);
}

/* A plan made for some rows and sequences has room for any fewer: scratch grows with both (see
 * scratch_test.c, of every op; here are the sizes of models). */
static void check_room(krait_scan_desc d, kr_dtype type, bool own) {
    static const int64_t sequences[] = {1, 2, 5, 8, 64, 300};
    size_t before[2] = {0}, n = sizeof sequences / sizeof *sequences, most[8][2] = {{0}};
    for (int64_t M = 0; M <= 1 << 20; M += 1 + M / 256) {
        for (size_t k = 0; k < n; k++) {
            kr_call c = call_of(&d, type, M, sequences[k]);
            size_t now[2] = {scratch_of(&c, false, own), scratch_of(&c, true, own)};
            for (int back = 0; back < 2; back++) {
                assert_true(now[back] >= most[k][back]);
                assert_true(k == 0 || now[back] >= before[back]);
                before[back] = most[k][back] = now[back];
            }
        }
    }
    printf("scratch of the backward pass: at most %zu MB\n", before[1] >> 20);
}

static void scratch_has_room_for_fewer(void **state) {
    (void)state;
    check_room(krait_scan_mamba1(1536, 16), KR_F32, true);
    check_room(krait_scan_mamba1(64, 100), KR_F32, true);
    check_room(krait_scan_mamba1(1536, 16), KR_F32, false);
    check_room(krait_scan_mamba2(24, 64, 128, 1), KR_BF16, false);
    check_room(krait_scan_lru(192), KR_F32, false);
    check_room(krait_scan_s4(64, 32, 2), KR_F32, false);
    check_room(krait_scan_lssl(8, 40), KR_F32, false);
}

/* Numbers of pieces, by first row and sequence alone, must not meet, and must lie in the grid. */
static void pieces_do_not_meet(void **state) {
    (void)state;
    static const int64_t lengths[] = {700, 0, 1, 128, 129, 0, 5000, 127, 1, 1};
    krait_scan_desc d = krait_scan_mamba1(48, 16);
    int64_t M = 0, S = sizeof lengths / sizeof *lengths, next = 0, first = 0;
    for (int64_t s = 0; s < S; s++) M += lengths[s];
    kr_call c = call_of(&d, KR_F32, M, S);
    kr_scan_gpu_cut cut;
    kr_scan_gpu_plan(&c, true, &cut);
    assert_true(cut.chunk <= M);
    for (int64_t s = 0; s < S; s++) {
        int64_t from = first / cut.chunk + s, many = (lengths[s] + cut.chunk - 1) / cut.chunk;
        assert_true(from >= next);
        next = from + (many > 0 ? many : 1);
        assert_true(next <= cut.pieces);
        first += lengths[s];
    }
    printf("%lld rows in %lld sequences: pieces of %lld, %lld numbers\n", (long long)M,
           (long long)S, (long long)cut.chunk, (long long)cut.pieces);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses),
        cmocka_unit_test(small_cards_have_other_kernels),
        cmocka_unit_test(scratch_has_room_for_fewer),
        cmocka_unit_test(pieces_do_not_meet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
