/* rnn_test.c - the nonlinear recurrences against PyTorch's RNN, LSTM and GRU: outputs, last states
 * and gradients, made by tests/reference/make_rnn_fixture.py. The checker covers the rest. */
#include "ops/rnn/rnn.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { H = 3, T = 4, MOST = 4 * H };

static const struct {
    const char *name;
    double y[T * H], last[2 * H], dx[T * MOST], dw[MOST * H], db[MOST], dh[2 * H];
} known[] = {
    {
        .name = "tanh",
        .y = {-0.418038267570186, -0.302709729332108, 0.44974055235365, -0.339758173555311,
              0.66685432193579, 0.42785419317772, -0.419941614796697, 0.524849769572504,
              0.187889197153652, -0.508016660151784, 0.484116867347528, 0.107641178139662},
        .last = {-0.508016660151784, 0.484116867347528, 0.107641178139662},
        .dx = {-0.260385516474212, -0.381951605883787, 0.195938712317774, -0.106629514327168,
               -0.0875482644424114, -0.274299150193611, 0.336098938864618, 0.026661127052422,
               -0.132699000361886, -0.278219652378085, 0.334963500702957, 0.185327508144132},
        .dw = {0.144863434604317, 0.159205585298429, 0.0435712565274203, 0.0301069277872912,
               0.291702241497801, 0.0349690934191447, 0.00844936138302128, 0.0550727109885643,
               -0.145318238337848},
        .db = {-0.309135744314848, -0.10787524257082, -0.0257319300935905},
        .dh = {0.346443657631235, -0.00124072734397011, -0.140740230481541},
    },
    {
        .name = "relu",
        .y = {0, 0, 0.484375, 0, 0.5908203125, 0.5927734375, 0, 0.47479248046875, 0.38934326171875,
              0, 0.388652801513672, 0.343135833740234},
        .last = {0, 0.388652801513672, 0.343135833740234},
        .dx = {0, 0, 0.251068115234375, 0, -0.1826171875, -0.43505859375, 0, 0.0234375, -0.03125, 0,
               0.4375, 0.1875},
        .dw = {0, 0, 0, 0, 0.221569061279297, 0.0957756042480469, -0.0941505432128906,
               0.0234851837158203, -0.156253814697266},
        .db = {0, 0.2783203125, -0.027740478515625},
        .dh = {0.125534057617188, -0.0627670288085938, 0.0156917572021484},
    },
    {
        .name = "lstm",
        .y = {-0.0892385922556463, 0.292956451875207, -0.019536682207248, -0.106532672023057,
              0.270611415991154, -0.0731319143220382, 0.0948136536731964, 0.206766975266364,
              -0.112282163312496, 0.094113762035938, 0.106160220134426, -0.0180038606960436},
        .last = {0.094113762035938, 0.106160220134426, -0.0180038606960436, 0.170067472570031,
                 0.35357072304795, -0.0299089865834256},
        .dx = {0.0045171405905877,   -0.0384060012998908,   0.000308853836731331,
               0.00351082952485024,  -0.0173940638233697,   -0.00202171951305,
               -0.0289319039689759,  -0.0407649184879347,   0.0414703153286846,
               0.00828283591493563,  -0.0627883746124989,   -0.00255919493893138,
               -0.00582071272253801, -0.000768952956426277, 0.0109132371246681,
               -0.00302327431641497, -0.000687994001242045, 0.00152317467677191,
               0.0232687343973183,   -0.00173179429826675,  -0.0850815166911218,
               -0.00111891400752209, -0.026058356391746,    0.0175091021065522,
               0.013335161960478,    0.00935671242753061,   -0.00612250985956888,
               -0.0045220226641092,  0.0149554009364408,    -0.00189151129535576,
               0.046653928289181,    0.0360907147681878,    0.0184981237677189,
               0.0117630619472203,   0.0123368549539382,    0.00262196516948145,
               -0.0116340287981006,  0.00465978482635281,   0.00446067103832647,
               -0.00760009981826311, 0.0178032073290804,    -0.00859732938154295,
               -0.0811848232408884,  0.050928854112862,     0.0777387032284624,
               -0.015574097230594,   0.0319235542120826,    -0.00134308450636694},
        .dw = {-0.00369819072498362,  -0.0013490650914635,  0.000444785414206336,
               0.0139158864152626,    0.0104713783269291,   -0.00119246222291773,
               -1.45222529263594e-05, 0.00240469152786372,  -0.000266311373079848,
               -0.00128561840251346,  -0.00433912886011517, 0.00124312457256457,
               0.00667891786095119,   0.0107880522389661,   -0.00307925861258279,
               8.58239543920756e-06,  -0.00146421208399962, 0.00107389880405463,
               -0.00389460246812104,  0.00808020311968008,  0.00524912262591335,
               0.0164252977745818,    0.0274330464497403,   -0.00832395146021331,
               -0.00255877753924722,  -0.0116212633804799,  -0.00841926242079401,
               -0.0057360006387188,   -0.0019178149385928,  0.000910297957583495,
               0.0275835622110604,    0.0140780871417648,   -0.00397756971938244,
               -0.00100945722624658,  0.00604108166599013,  -0.000383014661833478},
        .db = {0.000397561030427125, -0.0251584570024337, 0.00956025214015699, -0.011634567273937,
               0.0146765504409095, -0.0109873855131768, -0.040194064523365, 0.0445228560948484,
               0.0526256256337442, 0.00335288662403983, -0.044586321838224, 0.0162287878307354},
        .dh = {0.0341572882605412, 0.00918164917103634, -4.76888320804832e-05, -0.0307197405492381,
               -0.144579459270414, 0.0272464679040748},
    },
    {
        .name = "gru",
        .y = {-0.294838019289287, 0.0568560745909871, 0.0213084053214512, -0.359117248973181,
              0.24242199445552, -0.0814356879039633, 0.0286795414591741, 0.29643608686187,
              -0.235590226124481, 0.188033282036828, 0.193951872453008, -0.43079438739532},
        .last = {0.188033282036828, 0.193951872453008, -0.43079438739532},
        .dx = {-9.62323005235234e-05, -0.0131035819797423,  -0.00067256057703862,
               0.00565052986120528,   0.0809889603432307,   -0.000969216853654632,
               -0.103508434927146,    -0.104949100157539,   0.0663539730004464,
               0.00105217088910753,   0.00111573422982519,  0.0022570714893863,
               0.00249186899924234,   -0.00349259071232884, -0.0154067502360698,
               0.0658377706586328,    0.00850772871978706,  -0.231539083088918,
               0.00235976580526789,   0.0176838403976034,   -0.000212255753145899,
               -0.0346511670960494,   -0.00977846880949615, 0.00168851818175468,
               0.0647118570611643,    0.131596004693911,    0.0167766537468513,
               -0.0103260507304731,   0.0224692525484648,   -0.00435668558237316,
               0.0304661039696421,    0.0234335620743157,   0.012922381961758,
               -0.160808738828587,    0.207449076671937,    0.0862788175481933},
        .dw = {-0.00141771187244492,  -0.0024110890754159,   0.00226296755869332,
               -0.00112128188281933,  0.0134680070487945,    -0.0067098574791035,
               -0.000461983313571266, -0.00108850095558603,  0.00109177232890891,
               0.0104639392751232,    -0.000286748854232303, -0.00430257693955417,
               -0.0251574309678175,   -0.010807967531386,    -0.00479882339236159,
               0.00467018402835863,   0.0035457551064069,    -0.00351018580682358,
               -0.000590094314691036, -0.00855258785946006,  0.0164743922467495,
               -0.00923460815249551,  0.0562405488085133,    -0.0293322468731407,
               0.021647354320908,     -0.000437438673257384, -0.0135936045565803},
        .db = {-0.00701034633662121, 0.0281652451961511, -0.00298443042317137, 0.00395733573404031,
               0.0911514628957215, -0.00176506694621167, -0.0730685902127623, 0.135384223739012,
               -0.039365681021612},
        .dh = {-0.0475392040334507, -0.391048017844356, 0.0386293392530387},
    },
};

static void numbers(double *to, int n, int a, int b) {
    for (int i = 0; i < n; i++) to[i] = ((i * a + b) % 17 - 8) / 16.0;
}

static kr_tensor matrix(double *data, int64_t rows, int64_t columns) {
    return kr_tensor_make(data, KR_F64, 2, (int64_t[]){rows, columns});
}

/* One call in double, forward and back. */
typedef struct rig {
    kr_rnn_attr attr;
    double x[T * MOST], w[MOST * H], bias[MOST], state[2 * H], dy[T * H];
    double y[T * H], last[2 * H], gates[T * MOST], memory[T * H];
    double dx[T * MOST], dw[MOST * H], db[MOST], dstate[2 * H];
    int64_t seq[3];
    kr_call forward, backward;
} rig;

static void run(kr_call *c, const kr_op *op) {
    c->threads = 1;
    c->scratch = malloc(op->scratch(c));
    op->kernel[KR_LEVEL_REF64](c);
    free(c->scratch);
}

static void open_rig(rig *r, kr_rnn_cell cell) {
    memset(r, 0, sizeof *r);
    int64_t G = kr_rnn_gates(cell), n = G * H, K = kr_rnn_states(cell);
    r->attr.cell = cell;
    numbers(r->w, (int)(n * H), 5, 3);
    numbers(r->bias, (int)n, 7, 1);
    numbers(r->x, (int)(T * n), 11, 6);
    numbers(r->state, H, 3, 2);
    numbers(r->state + H, H, 9, 5);
    numbers(r->dy, T * H, 13, 4);
    r->seq[1] = T;
    kr_call *f = &r->forward, *b = &r->backward;
    f->attr = &r->attr;
    f->n_in = KR_RNN_INS;
    f->n_out = KR_RNN_OUTS;
    f->in[KR_RNN_X] = matrix(r->x, T, n);
    f->in[KR_RNN_W] = matrix(r->w, n, H);
    f->in[KR_RNN_BIAS] = kr_tensor_make(r->bias, KR_F64, 1, &n);
    f->in[KR_RNN_SEQS] = kr_tensor_make(r->seq, KR_I64, 2, (int64_t[]){1, 3});
    f->in[KR_RNN_STATE] = kr_tensor_make(r->state, KR_F64, 3, (int64_t[]){1, K, H});
    f->out[KR_RNN_Y] = matrix(r->y, T, H);
    f->out[KR_RNN_STATE_OUT] = kr_tensor_make(r->last, KR_F64, 3, (int64_t[]){1, K, H});
    if (kr_rnn_keeps(cell)) {
        f->out[KR_RNN_GATES] = matrix(r->gates, T, n);
        f->out[KR_RNN_MEMORY] = matrix(r->memory, T, H);
    }
    *b = *f;
    b->n_in = KR_RNN_GRAD_INS;
    b->n_out = KR_RNN_GRAD_OUTS;
    for (int i = 0; i < 3; i++) b->in[KR_RNN_IN_Y + i] = (kr_tensor){0};
    b->in[KR_RNN_IN_Y] = f->out[KR_RNN_Y];
    b->in[KR_RNN_IN_GATES] = f->out[KR_RNN_GATES];
    b->in[KR_RNN_IN_MEMORY] = f->out[KR_RNN_MEMORY];
    b->in[KR_RNN_DY] = matrix(r->dy, T, H);
    b->out[KR_RNN_DX] = matrix(r->dx, T, n);
    b->out[KR_RNN_DW] = matrix(r->dw, n, H);
    b->out[KR_RNN_DBIAS] = kr_tensor_make(r->db, KR_F64, 1, &n);
    b->out[KR_RNN_DSTATE_IN] = kr_tensor_make(r->dstate, KR_F64, 3, (int64_t[]){1, K, H});
}

static double off(const double *a, const double *b, int64_t n) {
    double worst = 0;
    for (int64_t i = 0; i < n; i++) worst = fmax(worst, fabs(a[i] - b[i]));
    return worst;
}

static void as_pytorch(void **state) {
    (void)state;
    for (int k = 0; k < 4; k++) {
        rig r;
        open_rig(&r, (kr_rnn_cell)k);
        int64_t n = kr_rnn_gates(r.attr.cell) * H, K = kr_rnn_states(r.attr.cell);
        run(&r.forward, &kr_op_rnn);
        run(&r.backward, &kr_op_rnn_grad);
        double forward = fmax(off(r.y, known[k].y, T * H), off(r.last, known[k].last, K * H));
        double back = fmax(off(r.dx, known[k].dx, T * n), off(r.dw, known[k].dw, n * H));
        back = fmax(back, fmax(off(r.db, known[k].db, n), off(r.dstate, known[k].dh, K * H)));
        print_message("%s: outputs %.1e, gradients %.1e\n", known[k].name, forward, back);
        assert_true(forward < 1e-13 && back < 1e-13);
    }
}

static void bad_shapes_are_refused(void **state) {
    (void)state;
    rig r;
    kr_tensor out[KR_MAX_OUT] = {{0}};
    krait_error e;
    open_rig(&r, KR_RNN_LSTM);
    assert_int_equal(kr_op_rnn.shape(&r.forward, out, &e), 0);
    r.attr.cell = KR_RNN_GRU; /* x has four gates */
    assert_int_equal(kr_op_rnn.shape(&r.forward, out, &e), KRAIT_ERR_SHAPE);
    print_message("%s\n", e.message);
    r.attr.cell = (kr_rnn_cell)9;
    assert_int_equal(kr_op_rnn.shape(&r.forward, out, &e), KRAIT_ERR_ARGUMENT);
    print_message("%s\n", e.message);
    open_rig(&r, KR_RNN_LSTM);
    r.forward.in[KR_RNN_STATE].shape[1] = 1; /* h without c */
    assert_int_equal(kr_op_rnn.shape(&r.forward, out, &e), KRAIT_ERR_SHAPE);
    print_message("%s\n", e.message);
}

/* An h that the shared memory of the card has no room for: none is open here, which has none. */
static void too_large_for_the_card_is_refused(void **state) {
    (void)state;
    int64_t size = KR_RNN_CUDA_MOST;
    rig r;
    krait_error e;
    open_rig(&r, KR_RNN_LSTM);
#if !defined(KR_CUDA)
    assert_int_equal(kr_op_rnn_grad.check_cuda(&r.backward, &e), 0);
    size++;
#endif
    r.forward.in[KR_RNN_W].shape[1] = r.backward.in[KR_RNN_W].shape[1] = size;
    assert_int_equal(kr_op_rnn.check_cuda(&r.forward, &e), KRAIT_ERR_UNSUPPORTED);
    print_message("%s\n", e.message);
    assert_int_equal(kr_op_rnn_grad.check_cuda(&r.backward, &e), KRAIT_ERR_UNSUPPORTED);
    print_message("%s\n", e.message);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(as_pytorch),
                                       cmocka_unit_test(bad_shapes_are_refused),
                                       cmocka_unit_test(too_large_for_the_card_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
