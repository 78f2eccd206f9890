/* vec_chunk.h - what the plan CHUNK shares between its two directions: the rows of a chunk side by
 * side, and what decays do between them. Included by scan_chunk*_vec.c only.
 *
 * A chunk is up to kr_scan_chunk_rows rows of a sequence. An input is a (row, rank) s = t R + r, a
 * read l = t Q + q. Columns of every array here are filled up to whole lines with zeros. With s_t
 * the sum of the logarithms of the decays of rows 0..t of the chunk, what an input at u adds to a
 * read at t >= u is weighed by exp(s_t - s_u), if no segment starts in between: README.md. Sums are
 * kept as two floats, so that differences lose nothing however long the chunk's way is. */
#ifndef KR_VEC_CHUNK_H
#define KR_VEC_CHUNK_H

#include <math.h>

#include "scan/vec_product.h"
#include "scan/vec_rows.h"

enum { KR_CHUNK_MOST = KR_SCAN_PRODUCT, KR_CHUNK_LINES = KR_CHUNK_MOST / KR_SCAN_LINE };

typedef struct kr_chunk {
    const kr_scan_view *v;
    kr_scan_seq q;
    int64_t R, Q, group;
    int64_t P16, N16, L16;      /* columns: channels, states, reads of a chunk */
    int64_t t0, count, columns; /* columns: whole lines of the chunk's reads */
    /* Rows [0, live) see the state in front, rows [tail, count) reach the state behind; a row that
     * starts a segment cuts both. */
    int64_t live, tail;
    int64_t stop[KR_CHUNK_MOST]; /* where the segment of each row ends */
    float *b;                    /* [C R, N16] */
    float *c;                    /* [C Q, N16] */
    float *ct;                   /* [N, L16] */
    float *scores;               /* [C R, L16]: b_s . c_l for rows l >= s */
    float index[KR_CHUNK_MOST];  /* numbers of the reads */
    /* of one head */
    float raw[KR_CHUNK_MOST], delta[KR_CHUNK_MOST]; /* before the softplus, and behind */
    float high[KR_CHUNK_MOST], low[KR_CHUNK_MOST];  /* s_t = high + low */
    float carry[KR_CHUNK_MOST]; /* exp(s_t): the state in front, seen by row t < live */
    float keep[KR_CHUNK_MOST];  /* exp(s_last - s_t): row t >= tail, in the state behind */
    float decay;                /* of the whole chunk; 0 where a segment starts */
    /* Between rows, where asked for (kr_chunk_ways): s of the reads, and with m the row of the
     * first read of a line of reads, exp(s_l - s_m) and exp(s_m - s_t). A gentle line decays so
     * little that rows t > m of its own may have the latter too. */
    float read_high[KR_CHUNK_MOST], read_low[KR_CHUNK_MOST], near[KR_CHUNK_MOST];
    float far[KR_CHUNK_LINES][KR_CHUNK_MOST];
    bool gentle[KR_CHUNK_LINES];
} kr_chunk;

KR_VINLINE float *kr_chunk_take(float **at, int64_t floats) {
    float *p = *at;
    *at += kr_scan_line(floats);
    return p;
}

static inline __attribute__((unused)) kr_chunk kr_chunk_begin(const kr_scan_view *v, int64_t group,
                                                              float **at) {
    int64_t C = kr_scan_chunk_rows(v->d);
    kr_chunk k = {.v = v, .R = v->d->inputs, .Q = v->d->reads, .group = group};
    k.P16 = kr_scan_line(v->P);
    k.N16 = kr_scan_line(v->N);
    k.L16 = kr_scan_line(C * k.Q);
    k.b = kr_chunk_take(at, C * k.R * k.N16);
    k.c = kr_chunk_take(at, C * k.Q * k.N16);
    k.ct = kr_chunk_take(at, v->N * k.L16);
    k.scores = kr_chunk_take(at, C * k.R * k.L16);
    for (int64_t l = 0; l < KR_CHUNK_MOST; l++) k.index[l] = (float)l;
    return k;
}

KR_VINLINE int64_t kr_chunk_row(const kr_chunk *k, int64_t t) {
    return kr_scan_row(&k->q, k->t0 + t);
}

/* to [count, width filled up] = from, times scale; zeros behind the width. */
KR_VINLINE void kr_chunk_line(float *to, const float *from, int64_t width, float scale) {
    int64_t n = 0;
    for (; n < width; n += KR_W) kr_vstore(to + n, kr_vload_n(from + n, width - n) * scale);
    for (; n < kr_scan_line(width); n += KR_W) kr_vstore(to + n, kr_vzero());
}

/* to [columns, to_row] = the transpose of from [rows, from_row], zeros up to whole lines of rows.
 */
static inline __attribute__((unused)) void kr_chunk_transpose(float *to, int64_t to_row,
                                                              const float *from, int64_t from_row,
                                                              int64_t rows, int64_t columns) {
    int64_t fours = rows / 4 * 4, square = columns / 4 * 4, line = kr_scan_line(rows);
    for (int64_t r = 0; r < fours; r += 4) {
        for (int64_t c = 0; c < square; c += 4)
            kr_vturn_four(to + c * to_row + r, to_row, from + r * from_row + c, from_row);
        for (int64_t c = square; c < columns; c++)
            for (int64_t i = r; i < r + 4; i++) to[c * to_row + i] = from[i * from_row + c];
    }
    for (int64_t c = 0; c < columns && fours < line; c++)
        for (int64_t r = fours; r < line; r++)
            to[c * to_row + r] = r < rows ? from[r * from_row + c] : 0;
}

/* Where segments start among the rows of the chunk. */
static inline __attribute__((unused)) void kr_chunk_segments(kr_chunk *k) {
    int64_t stop = k->count;
    k->live = k->count;
    k->tail = 0;
    for (int64_t t = k->count - 1; t >= 0; t--) {
        k->stop[t] = stop;
        if (!kr_scan_starts(&k->q, k->t0 + t)) continue;
        if (stop == k->count) k->tail = t;
        k->live = stop = t;
    }
}

/* Rows [t0, t0 + count) of the sequence become the chunk: its inputs, and (reads) its reads and
 * their scores. */
static inline __attribute__((unused)) void kr_chunk_load(kr_chunk *k, int64_t t0, bool reads) {
    const kr_scan_view *v = k->v;
    int64_t C = kr_scan_chunk_rows(v->d), N = v->N;
    k->t0 = t0;
    k->count = k->q.T - t0 < C ? k->q.T - t0 : C;
    k->columns = kr_scan_line(k->count * k->Q);
    kr_chunk_segments(k);
    for (int64_t t = 0; t < k->count; t++) {
        const float *b = v->b + kr_chunk_row(k, t) * v->b_row + k->group * N;
        const float *c = v->c + kr_chunk_row(k, t) * v->c_row + k->group * N;
        for (int64_t r = 0; r < k->R; r++)
            kr_chunk_line(k->b + (t * k->R + r) * k->N16, b + r * v->G * N, N, 1);
        for (int64_t q = 0; reads && q < k->Q; q++)
            kr_chunk_line(k->c + (t * k->Q + q) * k->N16, c + q * v->G * N, N, 1);
    }
    if (!reads) return;
    kr_chunk_transpose(k->ct, k->L16, k->c, k->N16, k->count * k->Q, N);
    kr_product_run(&(kr_product){.rows = k->count * k->R,
                                 .columns = k->columns,
                                 .to = N,
                                 .a = k->b,
                                 .a_row = k->N16,
                                 .a_k = 1,
                                 .b = k->ct,
                                 .b_row = k->L16,
                                 .c = k->scores,
                                 .c_row = k->L16,
                                 .shape = KR_PRODUCT_ABOVE,
                                 .ranks = k->R,
                                 .other = k->Q});
}

/* The logarithm of a row's decay, no smaller than what is 0 in any sum of floats: what follows a
 * row that forgets all must not drown in its size. NaN stays NaN. */
KR_VINLINE double kr_chunk_log(const kr_chunk *k, int64_t row, int64_t head, float delta) {
    const float *A = kr_rows_A(k->v, row, head);
    if (!A) return 0;
    if (k->v->d->form == KRAIT_FORM_GIVEN) return log((double)A[0]);
    double g = (double)A[0] * (k->v->d->form == KRAIT_FORM_DT ? (double)delta : 1);
    return g < -256 ? -256 : g;
}

/* delta of every row, W rows at once. */
static inline __attribute__((unused)) void kr_chunk_delta(kr_chunk *k, int64_t head) {
    const kr_scan_view *v = k->v;
    if (!v->dt) memset(k->delta, 0, sizeof k->delta);
    if (!v->dt) return;
    for (int64_t t = 0; t < k->count; t++) k->raw[t] = kr_rows_raw(v, kr_chunk_row(k, t), head);
    for (int64_t t = 0; t < k->count; t += KR_W) {
        int64_t n = k->count - t;
        kr_vstore_n(k->delta + t, n, kr_scan_delta(v->d, kr_vload_n(k->raw + t, n)));
    }
}

/* What time does to a head within the chunk. */
static inline __attribute__((unused)) void kr_chunk_head(kr_chunk *k, int64_t head) {
    double sum = 0;
    kr_chunk_delta(k, head);
    for (int64_t t = 0; t < k->count; t++) {
        sum += kr_chunk_log(k, kr_chunk_row(k, t), head, k->delta[t]);
        k->high[t] = (float)sum;
        k->low[t] = (float)(sum - (double)k->high[t]);
    }
    float high = k->high[k->count - 1], low = k->low[k->count - 1];
    for (int64_t t = 0; t < k->count; t += KR_W) {
        kr_vf h = kr_vload_n(k->high + t, k->count - t), l = kr_vload_n(k->low + t, k->count - t);
        kr_vf e = kr_vexp(h);
        kr_vstore_n(k->carry + t, k->count - t, kr_vfma(e, l, e));
        kr_vstore_n(k->keep + t, k->count - t, kr_vexp((high - h) + (low - l)));
    }
    k->decay = k->live == k->count ? k->carry[k->count - 1] : 0;
}

/* exp(s_l - s_t), the difference of long sums, for the reads [l, l + W). */
KR_VINLINE kr_vf kr_chunk_way(const kr_chunk *k, int64_t t, int64_t l) {
    kr_vf high = kr_vload(k->read_high + l), low = kr_vload(k->read_low + l);
    return kr_vexp((high - k->high[t]) + (low - k->low[t]));
}

/* Fills what kr_chunk_weight takes. An exponential of a difference is a product of two, so that
 * the chunk has as many as it has rows and reads, not pairs of them. */
static inline __attribute__((unused)) void kr_chunk_ways(kr_chunk *k) {
    const float most = 8; /* e^8 costs 3 bits of an exponent's last place */
    for (int64_t l = 0, t = 0; t < k->count; t++)
        for (int64_t q = 0; q < k->Q; q++, l++) {
            k->read_high[l] = k->high[t];
            k->read_low[l] = k->low[t];
        }
    for (int64_t l = k->count * k->Q; l < k->columns; l++) {
        k->read_high[l] = k->high[k->count - 1];
        k->read_low[l] = k->low[k->count - 1];
    }
    for (int64_t l = 0, j = 0; l < k->columns; l += KR_SCAN_LINE, j++) {
        int64_t m = l / k->Q, end = (l + KR_SCAN_LINE - 1) / k->Q + 1;
        if (end > k->count) end = k->count;
        k->gentle[j] = k->high[m] - k->high[end - 1] < most;
        for (int64_t i = 0; i < KR_SCAN_LINE; i += KR_W)
            kr_vstore(k->near + l + i, kr_chunk_way(k, m, l + i));
        for (int64_t t = 0; t < end; t += KR_W) {
            kr_vf high = kr_vload_n(k->high + t, end - t), low = kr_vload_n(k->low + t, end - t);
            kr_vstore_n(k->far[j] + t, end - t, kr_vexp((k->high[m] - high) + (k->low[m] - low)));
        }
    }
}

/* exp(s_l - s_t) for the reads [l, l + W), where they are in the segment of row t and not before
 * it. */
KR_VINLINE kr_vf kr_chunk_weight(const kr_chunk *k, int64_t t, int64_t l) {
    int64_t j = l / KR_SCAN_LINE, first = t * k->Q;
    kr_vf at = kr_vload(k->index + l), zero = kr_vzero(), e;
    if (first <= j * KR_SCAN_LINE || k->gentle[j])
        e = kr_vload(k->near + l) * k->far[j][t];
    else
        e = kr_chunk_way(k, t, l);
    e = kr_vselect(kr_vle(kr_vset((float)first), at), e, zero);
    return kr_vselect(kr_vlt(at, kr_vset((float)(k->stop[t] * k->Q))), e, zero);
}

/* Has the rows of a chunk that comes next, [ranks,columns] from `from` on, brought nearer: a part
 * [first, first + width) of each is short, so that reading them in turn would be waiting. */
static inline __attribute__((unused)) void kr_chunk_fetch(const kr_chunk *k, const float *from,
                                                          int64_t from_row, int64_t ranks,
                                                          int64_t columns, int64_t t0,
                                                          int64_t first, int64_t width) {
    int64_t C = kr_scan_chunk_rows(k->v->d);
    for (int64_t t = t0 > 0 ? t0 : 0; from && t < t0 + C && t < k->q.T; t++) {
        const float *row = from + kr_scan_row(&k->q, t) * from_row + first;
        for (int64_t r = 0; r < ranks; r++, row += columns)
            for (int64_t c = 0; c < width; c += KR_SCAN_LINE) __builtin_prefetch(row + c, 0, 2);
    }
}

/* The same of x of a head; and, before the part's first head, of b and c. */
static inline __attribute__((unused)) void kr_chunk_fetch_head(const kr_chunk *k, int64_t t0,
                                                               int64_t head, bool first) {
    const kr_scan_view *v = k->v;
    int64_t N = v->N, GN = v->G * N, at = k->group * N;
    kr_chunk_fetch(k, v->x, v->x_row, k->R, v->E, t0, head * v->P, v->P);
    if (!first) return;
    kr_chunk_fetch(k, v->b, v->b_row, k->R, GN, t0, at, N);
    kr_chunk_fetch(k, v->c, v->c_row, k->Q, GN, t0, at, N);
}

/* gain x of every input of a head: [C R, P16]. */
static inline __attribute__((unused)) void kr_chunk_inputs(const kr_chunk *k, int64_t head,
                                                           float *x) {
    const kr_scan_view *v = k->v;
    for (int64_t t = 0; t < k->count; t++) {
        int64_t row = kr_chunk_row(k, t);
        const float *from = v->x + row * v->x_row + head * v->P;
        for (int64_t r = 0; r < k->R; r++)
            kr_chunk_line(x + (t * k->R + r) * k->P16, from + r * v->E, v->P,
                          kr_rows_gain(v, row, head, r, k->delta[t]));
    }
}

/* Rows [first, end) of x [count ranks, P16] times the weight of their time. */
static inline __attribute__((unused)) void kr_chunk_scale(float *to, const float *x, int64_t width,
                                                          const float *weight, int64_t ranks,
                                                          int64_t first, int64_t end) {
    for (int64_t t = first; t < end; t++)
        for (int64_t i = t * ranks * width; i < (t + 1) * ranks * width; i += KR_W)
            kr_vstore(to + i, kr_vload(x + i) * weight[t]);
}

/* Numbers of the rows [first, end), for each of their ranks. */
KR_VINLINE void kr_chunk_spread(float *to, const float *from, int64_t ranks, int64_t first,
                                int64_t end) {
    for (int64_t t = first; t < end; t++)
        for (int64_t r = 0; r < ranks; r++) to[t * ranks + r] = from[t];
}

#endif
