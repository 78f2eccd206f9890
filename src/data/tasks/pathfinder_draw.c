/* pathfinder_draw.c - two dashed paths, other paths around them, and two markers.
 *
 * Each path is a snake of strokes. `mask` says where strokes are, with the free pixels that they
 * keep around them; the mask of a path's newest stroke is held back until the next one is drawn,
 * because consecutive strokes come nearer than that. With l a stroke's length and m the margin:
 *   head = tail + l;  pivot = m behind the tail;  next pivot = pivot + (l + 2m) along the stroke
 *   candidates: pixels on the circle of radius l+m about the pivot, at angle o'
 *   weight = max(cos(min(c |o' - o|, pi/2)), 0)^2 (1 - D),  D: mask dilated by a disc of radius m
 *   the stroke goes from the candidate back to the pivot; refused where mask + its mask >= 1.8
 * A path that cannot go on starts both anew. Source: the picture generator of Linsley et al. 2018
 * with the Long Range Arena's parameters. All strokes have contrast 1, so that brightness tells
 * nothing. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "data/tasks/pathfinder_stroke.h"

enum { MOST_STARTS = 1000000, MOST_RING = 256 };
static const double pi = 3.14159265358979323846;

typedef struct pixel {
    int y, x;
} pixel;

typedef struct snake {
    pixel pivot, end;
    double o;
    pixel at;                  /* of the newest stroke's window */
    const kr_path_print *last; /* the newest stroke; its mask is not in the picture's yet */
} snake;

typedef struct picture {
    const kr_path_shape *p;
    kr_rng *r;
    kr_path_pen pen;
    int w;
    float *image, *mask, *spare; /* [W,W]; spare [2,W,W] */
    kr_path_print *prints;       /* of each stroke, once it was drawn */
    bool *drawn;
    kr_path_facts *facts;
} picture;

static bool inside(const picture *c, pixel q) {
    return q.y >= 0 && q.y < c->w && q.x >= 0 && q.x < c->w;
}

static pixel move(pixel q, double o, double d) {
    return (pixel){(int)ceil(q.y + d * sin(o)), (int)ceil(q.x + d * cos(o))};
}

static double degrees(kr_rng *r) { return ((double)kr_rng_below(r, 360) - 180) * pi / 180; }
static double turned(double o) { return o < 0 ? o + pi : o - pi; }

/* ---- strokes on the picture ---- */

/* Attempts take hundreds of strokes, few of them different. */
static const kr_path_print *print_of(const picture *c, double o) {
    int i = kr_path_pen_stroke(&c->pen, o);
    if (!c->drawn[i]) kr_path_pen_draw(&c->pen, o, &c->prints[i]);
    c->drawn[i] = true;
    return &c->prints[i];
}

/* Calls for the part of a window at `at` that is inside the picture: rows and columns [from, to)
 * of the window. */
static void clip(const picture *c, int at, int *from, int *to) {
    int span = c->pen.span;
    *from = at - span < 0 ? span - at : 0;
    *to = at + span >= c->w ? c->w - at + span : c->pen.side;
}

static void join(const picture *c, float *to, pixel at, const float *print) {
    int y0, y1, x0, x1, span = c->pen.span;
    clip(c, at.y, &y0, &y1);
    clip(c, at.x, &x0, &x1);
    for (int y = y0; y < y1; y++)
        for (int x = x0; x < x1; x++) {
            float *t = to + (at.y + y - span) * c->w + at.x + x - span;
            *t = fmaxf(*t, print[y * c->pen.side + x]);
        }
}

/* The largest mask + print under a window. */
static double heaviest(const picture *c, pixel at, const float *print) {
    int y0, y1, x0, x1, span = c->pen.span;
    double most = 0;
    clip(c, at.y, &y0, &y1);
    clip(c, at.x, &x0, &x1);
    for (int y = y0; y < y1; y++)
        for (int x = x0; x < x1; x++) {
            const float *m = c->mask + (at.y + y - span) * c->w + at.x + x - span;
            most = fmax(most, (double)*m + (double)print[y * c->pen.side + x]);
        }
    return most;
}

/* D: the largest mask within the margin of q; outside the picture nothing is. */
static double dilated(const picture *c, pixel q) {
    int m = c->pen.margin;
    double most = 0;
    for (int y = -m; y <= m; y++)
        for (int x = -m; x <= m; x++) {
            pixel at = {q.y + y, q.x + x};
            if (x * x + y * y <= m * m && inside(c, at))
                most = fmax(most, (double)c->mask[at.y * c->w + at.x]);
        }
    return most;
}

/* ---- where a path may begin ---- */

static pixel pivot_behind(const picture *c, pixel tail, double o) {
    return move(move(tail, o, c->pen.length), turned(o), c->pen.length + c->pen.margin);
}

static bool fits(const picture *c, pixel tail, double o) {
    return inside(c, move(tail, o, c->pen.length)) && inside(c, pivot_behind(c, tail, o));
}

/* Does ground that is `edge` pixels from the border, or a mask, block q? Nothing is outside. */
static bool blocked(const picture *c, pixel q, int edge) {
    if (!inside(c, q)) return false;
    return q.y < edge || q.x < edge || q.y >= c->w - edge || q.x >= c->w - edge ||
           c->mask[q.y * c->w + q.x] > 0.3f;
}

/* The pixels that a stroke in direction o covers in full, seen from one pixel above and to the left
 * of its tail, as far as l+m from there: the published generator looks there. */
static int footprint(const picture *c, double o, pixel at[KR_PATH_WINDOW * KR_PATH_WINDOW]) {
    const kr_path_print *print = print_of(c, o);
    int n = 0, reach = c->pen.length + c->pen.margin, side = c->pen.side, span = c->pen.span;
    for (int i = 0; i < side * side; i++) {
        pixel q = {i / side - span + 1, i % side - span + 1};
        if (print->mask[i] >= 1 && abs(q.y) <= reach && abs(q.x) <= reach) at[n++] = q;
    }
    return n;
}

/* A pixel from which the footprint meets only free ground; false: there is none. */
static bool find_free(const picture *c, double o, int edge, pixel *found) {
    pixel at[KR_PATH_WINDOW * KR_PATH_WINDOW];
    int n = footprint(c, o, at), count = 0;
    float *open = c->spare; /* [W,W], between the copies that are kept there */
    for (int i = 0; i < c->w * c->w; i++) {
        bool here = true;
        for (int k = 0; k < n && here; k++)
            here = !blocked(c, (pixel){i / c->w + at[k].y, i % c->w + at[k].x}, edge);
        if (here) open[count++] = (float)i;
    }
    if (count == 0) return false;
    int i = (int)open[kr_rng_below(c->r, (uint64_t)count)];
    *found = (pixel){i / c->w, i % c->w};
    return true;
}

/* A tail and a direction, with `edge` pixels of border blocked. */
static bool find_seed(const picture *c, int edge, pixel *tail, double *o) {
    for (int tries = 0; tries < 3; tries++) {
        *o = degrees(c->r);
        if (!find_free(c, *o, edge, tail)) return false;
        if (fits(c, *tail, *o)) return true;
    }
    return false;
}

/* ---- a path ---- */

static void begin(const picture *c, snake *s, pixel tail, double o) {
    s->o = o;
    s->at = s->end = tail;
    s->pivot = pivot_behind(c, tail, o);
    s->last = print_of(c, o);
    join(c, c->image, tail, s->last->stroke);
}

typedef struct ring {
    int n;
    pixel at[MOST_RING];
    double o[MOST_RING], weight[MOST_RING], sum;
} ring;

/* Where the next stroke may end. */
static void look_around(const picture *c, const snake *s, pixel pivot, ring *k) {
    double radius = c->pen.length + c->pen.margin, step = 1 / radius;
    k->n = 0;
    k->sum = 0;
    for (int i = 0; i * step < 2 * pi && k->n < MOST_RING; i++) {
        double y = pivot.y + radius * sin(i * step), x = pivot.x + radius * cos(i * step);
        pixel q = {(int)y, (int)x};
        bool seen = y < 0 || x < 0 || !inside(c, q);
        for (int j = 0; j < k->n && !seen; j++) seen = k->at[j].y == q.y && k->at[j].x == q.x;
        if (seen) continue;
        double o = atan2(q.y - pivot.y, q.x - pivot.x), turn = fabs(remainder(o - s->o, 2 * pi));
        double bend = fmax(cos(fmin(c->p->continuity * turn, pi / 2)), 0);
        k->at[k->n] = q;
        k->o[k->n] = o;
        k->weight[k->n] = bend * bend * (1 - dilated(c, q));
        k->sum += k->weight[k->n++];
    }
}

static int choose(const ring *k, kr_rng *r) {
    double u = kr_rng_uniform(r) * k->sum;
    for (int i = 0; i < k->n; i++)
        if ((u -= k->weight[i]) < 0) return i;
    return k->n - 1;
}

/* One stroke more; false: there is no way on. */
static bool extend(picture *c, snake *s) {
    ring k;
    pixel pivot = move(s->pivot, s->o, c->pen.length + 2 * c->pen.margin);
    look_around(c, s, pivot, &k);
    for (int tries = 0; k.sum >= 1e-4 && tries < 3; tries++) {
        int i = choose(&k, c->r);
        const kr_path_print *next = print_of(c, turned(k.o[i]));
        double most = heaviest(c, k.at[i], next->mask);
        if (most >= 1.8) continue;
        c->facts->heaviest = fmax(c->facts->heaviest, most);
        join(c, c->image, k.at[i], next->stroke);
        join(c, c->mask, s->at, s->last->mask);
        *s = (snake){pivot, k.at[i], k.o[i], k.at[i], next};
        return true;
    }
    return false;
}

static void note_stroke(const picture *c, int path, int stroke, const snake *s, bool first) {
    if (!c->facts->strokes) return;
    double back =
        first ? c->pen.length : -(double)c->pen.length; /* `at` is the tail, or the head */
    double far[2] = {s->at.y + back * sin(s->o), s->at.x + back * cos(s->o)};
    double at[2] = {s->at.y, s->at.x};
    kr_path_stroke *k = &c->facts->strokes[path * c->p->strokes + stroke];
    memcpy(k->tail, first ? at : far, sizeof at);
    memcpy(k->head, first ? far : at, sizeof at);
}

/* ---- the two paths ---- */

static void clear(picture *c) {
    int pad = c->p->padding;
    for (int y = 0; y < c->w; y++)
        for (int x = 0; x < c->w; x++) {
            bool edge = y < pad || x < pad || y >= c->w - pad || x >= c->w - pad;
            c->mask[y * c->w + x] = edge ? 1 : 0;
            c->image[y * c->w + x] = 0;
        }
}

static bool begin_pair(picture *c, snake s[2], pixel tails[2]) {
    double o, from;
    if (!find_seed(c, 2 * c->p->distance, &tails[0], &o)) return false;
    begin(c, &s[0], tails[0], o);
    for (int tries = 0; tries < 3; tries++) {
        o = degrees(c->r);
        from = degrees(c->r);
        tails[1] = (pixel){(int)lround(tails[0].y + c->p->distance * sin(from)),
                           (int)lround(tails[0].x + c->p->distance * cos(from))};
        if (!fits(c, tails[1], o)) continue;
        begin(c, &s[1], tails[1], o);
        return true;
    }
    return false;
}

static bool draw_pair(picture *c, snake s[2], pixel tails[2]) {
    clear(c);
    c->facts->heaviest = 0;
    if (!begin_pair(c, s, tails)) return false;
    for (int i = 0; i < 2; i++) note_stroke(c, i, 0, &s[i], true);
    for (int k = 1; k < c->p->strokes; k++)
        for (int i = 0; i < 2; i++) {
            if (!extend(c, &s[i])) return false;
            note_stroke(c, i, k, &s[i], false);
        }
    join(c, c->mask, s[1].at, s[1].last->mask); /* the source leaves out the first path's last */
    return true;
}

/* ---- the other paths ---- */

static bool is_full(const picture *c) {
    int open = 0;
    for (int i = 0; i < c->w * c->w; i++) open += c->mask[i] <= 0.3f;
    return open * 100 < c->w * c->w;
}

static bool draw_other(picture *c) {
    snake s;
    double o;
    pixel tail;
    if (is_full(c) || !find_seed(c, 1, &tail, &o)) return false;
    begin(c, &s, tail, o);
    for (int k = 1; k < c->p->distractor; k++)
        if (!extend(c, &s)) return false;
    join(c, c->mask, s.at, s.last->mask);
    return true;
}

/* A path that fails leaves nothing behind. */
static void draw_others(picture *c) {
    size_t size = (size_t)(c->w * c->w) * sizeof *c->image;
    float *image = c->spare + c->w * c->w, *mask = image + c->w * c->w;
    for (int i = 0; i < c->p->distractors; i++)
        for (int tries = 0; tries < 5; tries++) {
            memcpy(image, c->image, size);
            memcpy(mask, c->mask, size);
            if (draw_other(c)) {
                c->facts->distractors++;
                break;
            }
            memcpy(c->image, image, size);
            memcpy(c->mask, mask, size);
        }
}

/* ---- the picture ---- */

static void mark(picture *c, pixel q) {
    for (int y = 0; y < c->w; y++)
        for (int x = 0; x < c->w; x++)
            if (hypot(y - q.y, x - q.x) <= c->p->radius) c->image[y * c->w + x] = 1;
}

static int draw_all(picture *c, int label, krait_error *e) {
    snake s[2];
    pixel tails[2];
    bool done = false;
    for (int i = 0; i < MOST_STARTS && !done; i++) {
        done = draw_pair(c, s, tails);
        c->facts->starts++;
    }
    if (!done)
        return kr_fail(e, KRAIT_ERR_ARGUMENT,
                       "no room for two paths of %d strokes in %d x %d pixels after %d attempts",
                       c->p->strokes, c->w, c->w, MOST_STARTS);
    draw_others(c);
    int first = (int)kr_rng_below(c->r, 2), second = label ? first : 1 - first;
    mark(c, tails[first]);
    mark(c, s[second].end);
    c->facts->marker[0][0] = tails[first].y;
    c->facts->marker[0][1] = tails[first].x;
    c->facts->marker[1][0] = s[second].end.y;
    c->facts->marker[1][1] = s[second].end.x;
    return 0;
}

int kr_path_draw(const kr_path_shape *p, int label, kr_rng *r, float *image, kr_path_facts *facts,
                 krait_error *e) {
    size_t pixels = (size_t)p->width * (size_t)p->width;
    picture c = {.p = p, .r = r, .w = p->width, .image = image, .facts = facts};
    facts->starts = facts->distractors = 0;
    facts->margin =
        p->least_margin + (int)kr_rng_below(r, (uint64_t)(p->most_margin - p->least_margin + 1));
    kr_path_pen_make(&c.pen, p->length, facts->margin, p->thickness);
    size_t strokes = (size_t)kr_path_pen_strokes(&c.pen);
    c.mask = kr_malloc(4 * pixels * sizeof *c.mask);
    c.prints = kr_malloc(strokes * sizeof *c.prints);
    c.drawn = kr_calloc(strokes, sizeof *c.drawn);
    c.spare = c.mask ? c.mask + pixels : NULL;
    bool there = c.mask && c.prints && c.drawn;
    int rc = there ? draw_all(&c, label, e) : kr_fail_memory(e, "a picture");
    kr_free(c.mask);
    kr_free(c.prints);
    kr_free(c.drawn);
    return rc;
}
