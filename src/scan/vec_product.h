/* vec_product.h - small matrix products in registers, for the plan CHUNK. Included by
 * scan_chunk*_vec.c only.
 *
 *   c[i, :] = beta c[i, :] + scale_i sum_k a[i, k] b[k, :]
 *
 * A tile of c, ROWS rows of up to WIDE vectors, is summed in registers, each number of a spread
 * over a vector as it is read; so a may lie transposed. b and c have whole lines of columns. What
 * is triangular in time is cut by tile: rows i, the k's and the columns each count time by so many
 * ranks. */
#ifndef KR_VEC_PRODUCT_H
#define KR_VEC_PRODUCT_H

#include "vec/vec.h"

enum { KR_TILE_ROWS = 6, KR_TILE_WIDE = KR_W == 16 ? 4 : 2 };

typedef enum kr_product_shape {
    KR_PRODUCT_FULL,
    KR_PRODUCT_UPTO,  /* k not later than the tile's last row */
    KR_PRODUCT_FROM,  /* k not earlier than the tile's first row */
    KR_PRODUCT_ABOVE, /* columns not earlier than the tile's first row: others are left alone */
} kr_product_shape;

typedef struct kr_product {
    int64_t rows, columns, from, to; /* k in [from, to) */
    const float *a;                  /* a[i, k] = a[i * a_row + k * a_k] */
    int64_t a_row, a_k;
    const float *b;
    int64_t b_row;
    float *c;
    int64_t c_row;
    const float *scale; /* [rows], or NULL: 1 */
    float beta;         /* 0: c is not read */
    kr_product_shape shape;
    int64_t ranks, other; /* of the rows; of k or the columns */
} kr_product;

/* `rows` and `vectors` are constants where this is inlined. */
KR_VINLINE void kr_tile_(const kr_product *p, int64_t i, int64_t j, int64_t from, int64_t to,
                         int rows, int vectors) {
    kr_vf sum[KR_TILE_ROWS][KR_TILE_WIDE];
    int64_t row = p->a_row, next = p->a_k, b_row = p->b_row;
    /* Two pointers and a stride reach all rows of a without an address of its own for each. */
    const float *near = p->a + i * row + from * next, *far = near + 3 * row;
    const float *b = p->b + j + from * b_row;
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) sum[r][v] = kr_vzero();
    for (int64_t k = from; k < to; k++, near += next, far += next, b += b_row) {
        kr_vf x[KR_TILE_WIDE];
        for (int v = 0; v < vectors; v++) x[v] = kr_vload(b + v * KR_W);
        for (int r = 0; r < rows; r++) {
            kr_vf w = kr_vset(r < 3 ? near[r * row] : far[(r - 3) * row]);
            for (int v = 0; v < vectors; v++) sum[r][v] = kr_vfma(w, x[v], sum[r][v]);
        }
    }
    for (int r = 0; r < rows; r++) {
        float *c = p->c + (i + r) * p->c_row + j;
        for (int v = 0; v < vectors; v++) {
            kr_vf y = p->scale ? sum[r][v] * p->scale[i + r] : sum[r][v];
            if (p->beta != 0) y = kr_vfma(kr_vset(p->beta), kr_vload(c + v * KR_W), y);
            kr_vstore(c + v * KR_W, y);
        }
    }
}

/* A tile of `rows` rows, a constant, and any width. */
KR_VINLINE void kr_tile_rows_(const kr_product *p, int64_t i, int64_t j, int64_t from, int64_t to,
                              int rows) {
    for (; j + KR_TILE_WIDE * KR_W <= p->columns; j += KR_TILE_WIDE * KR_W)
        kr_tile_(p, i, j, from, to, rows, KR_TILE_WIDE);
    if (j + 2 * KR_W <= p->columns) {
        kr_tile_(p, i, j, from, to, rows, 2);
        j += 2 * KR_W;
    }
    if (j < p->columns) kr_tile_(p, i, j, from, to, rows, 1);
}

static __attribute__((unused)) void kr_product_run(const kr_product *p) {
    for (int64_t i = 0; i < p->rows; i += KR_TILE_ROWS) {
        int64_t rows = p->rows - i < KR_TILE_ROWS ? p->rows - i : KR_TILE_ROWS;
        int64_t from = p->from, to = p->to, j = 0;
        if (p->shape != KR_PRODUCT_FULL) {
            int64_t first = i / p->ranks * p->other;
            int64_t last = ((i + rows - 1) / p->ranks + 1) * p->other;
            if (p->shape == KR_PRODUCT_UPTO && last < to) to = last;
            if (p->shape == KR_PRODUCT_FROM && first > from) from = first;
            if (p->shape == KR_PRODUCT_ABOVE) j = first / KR_W * KR_W;
        }
        switch (rows) {
        case 6: kr_tile_rows_(p, i, j, from, to, 6); break;
        case 5: kr_tile_rows_(p, i, j, from, to, 5); break;
        case 4: kr_tile_rows_(p, i, j, from, to, 4); break;
        case 3: kr_tile_rows_(p, i, j, from, to, 3); break;
        case 2: kr_tile_rows_(p, i, j, from, to, 2); break;
        default: kr_tile_rows_(p, i, j, from, to, 1); break;
        }
    }
}

#endif
