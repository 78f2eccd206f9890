/* dna.c - the next base of a genome, or which file a stretch of it comes from.
 *
 * Files are FASTA, plain or gzip; ids A 0, C 1, G 2, T 3, N 4. Of each file the first 90% of the
 * bases are for training, then 5% each for validation and test. An example is a stretch of `length`
 * bases that begins anywhere in its part of a file, files as likely as they are long (`next`), or
 * all as likely (`file`). */
#include "data/dna/fasta.h"

#include <stdio.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "data/tasks/task.h"
#include "data/text/file_list.h"

enum { NEXT, FILE_OF };
#define MOST_BASES ((int64_t)1 << 33)

typedef struct dna {
    int64_t length;
    int answer;
} dna;

static const kr_setting settings[] = {
    KR_SETTING_INT_OF(dna, length, 1024, 2, 1 << 22, "bases of an example"),
    KR_SETTING_CHOICE_OF(dna, answer, NEXT, "next|file",
                         "the base that follows each one, or the file that it is from"),
    {.name = NULL}};

typedef struct genomes {
    kr_fasta all;
    int64_t *begin; /* [files + 1] */
    int64_t files;
} genomes;

static int read_file(kr_fasta *f, const char *path, krait_error *e) {
    kr_map map;
    KR_TRY(kr_map_open(&map, path, e));
    int rc = kr_fasta_add(f, map.data, map.size, MOST_BASES, path, e);
    kr_map_close(&map);
    return rc;
}

/* The part's bases of file i: [*from, *from + returned). */
static int64_t part_of(const genomes *g, int64_t i, kr_task_part part, int64_t *from) {
    int64_t begin = g->begin[i], n = g->begin[i + 1] - begin,
            cut[] = {0, n / 20 * 18, n / 20 * 19, n};
    *from = begin + cut[part];
    return cut[part + 1] - cut[part];
}

static int check(const kr_task_source *s, const genomes *g, const kr_file_list *l, krait_error *e) {
    const dna *c = (const dna *)s->settings;
    int64_t from;
    for (int64_t i = 0; i < g->files; i++)
        for (int p = 0; p < KR_TASK_PARTS; p++)
            if (part_of(g, i, (kr_task_part)p, &from) <= c->length)
                return kr_fail(e, KRAIT_ERR_ARGUMENT,
                               "%s: %lld bases; its parts must be longer than length (%lld)",
                               l->files[i].path, (long long)(g->begin[i + 1] - g->begin[i]),
                               (long long)c->length);
    if (c->answer == NEXT || g->files > 1) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "answer = file needs two files or more");
}

static int read_all(kr_task_source *s, genomes *g, const kr_file_list *l, krait_error *e) {
    g->begin = kr_calloc(l->count + 1, sizeof *g->begin);
    if (!g->begin) return kr_fail_memory(e, "a task");
    for (size_t i = 0; i < l->count; i++) {
        KR_TRY(read_file(&g->all, l->files[i].path, e));
        g->begin[++g->files] = g->all.count;
    }
    return check(s, g, l, e);
}

static int open_task(kr_task_source *s, krait_error *e) {
    const dna *c = (const dna *)s->settings;
    kr_file_list list = {0};
    genomes *g = s->inside = kr_calloc(1, sizeof *g);
    int rc = g ? 0 : kr_fail_memory(e, "a task");
    for (int64_t i = 0; rc == 0 && i < s->n_paths; i++)
        rc = kr_file_list_add(&list, s->paths[i], e);
    if (rc == 0) rc = read_all(s, g, &list, e);
    kr_file_list_free(&list);
    if (rc < 0) return rc;
    s->vocabulary = KR_DNA_IDS;
    s->classes = c->answer == FILE_OF ? g->files : 0;
    s->longest = c->length;
    s->answers = c->answer == FILE_OF ? 1 : c->length;
    return 0;
}

static void close_task(kr_task_source *s) {
    genomes *g = s->inside;
    if (!g) return;
    kr_fasta_free(&g->all);
    kr_free(g->begin);
    kr_free(g);
}

/* Where an example begins, and in which file. */
static int64_t choose(const kr_task_source *s, const genomes *g, kr_task_part part, kr_rng *r,
                      int64_t *file) {
    const dna *c = (const dna *)s->settings;
    int64_t all = 0, from = 0, n = 0;
    *file = c->answer == FILE_OF ? (int64_t)kr_rng_below(r, (uint64_t)g->files) : 0;
    n = part_of(g, *file, part, &from) - c->length;
    if (c->answer == FILE_OF) return from + (int64_t)kr_rng_below(r, (uint64_t)n);
    for (int64_t i = 0; i < g->files; i++) all += part_of(g, i, part, &from) - c->length;
    int64_t at = (int64_t)kr_rng_below(r, (uint64_t)all);
    for (; at >= (n = part_of(g, *file, part, &from) - c->length); ++*file) at -= n;
    return from + at;
}

static int make(const kr_task_source *s, kr_task_part part, int64_t index, kr_rng *r, kr_example *x,
                krait_error *e) {
    const dna *c = (const dna *)s->settings;
    const genomes *g = s->inside;
    int64_t file, at = choose(s, g, part, r, &file);
    (void)index;
    KR_TRY(kr_example_size(x, s, c->length, e));
    for (int64_t i = 0; i < c->length; i++) {
        x->ids[i] = g->all.bases[at + i];
        if (c->answer == NEXT) x->targets[i] = g->all.bases[at + i + 1];
    }
    if (c->answer == FILE_OF) x->label = (int32_t)file;
    return 0;
}

static const char *token(const kr_task_source *s, int32_t id, char text[16]) {
    (void)s;
    snprintf(text, 16, "%c", "ACGTN"[id]);
    return text;
}

const kr_task kr_task_dna = {
    .name = "dna",
    .about = "the next base of genomes, or which genome a stretch is from",
    .settings = settings,
    .settings_size = sizeof(dna),
    .files = "FASTA, plain or gzip",
    .open = open_task,
    .close = close_task,
    .make = make,
    .token = token,
};
