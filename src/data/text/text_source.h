/* text_source.h - documents, one after the other, from files, folders and stdin, without loading
 * the corpus.
 *
 *   file          one document, or cut at a separator
 *   file.jsonl    a JSON object a line; the document is its "text"
 *   folder        its files, sorted by name, recursively; names beginning with "." are left out
 *   "-"           stdin, as a file
 *   lines         (an option) every line of every file is a document: token id files
 *
 * A document larger than a piece (4 MiB) comes in several; they are cut where no tokenizer of the
 * usual patterns would see across: between a line end and a letter. */
#ifndef KR_TEXT_SOURCE_H
#define KR_TEXT_SOURCE_H

#include <krait/error.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kr_source_options {
    const char *const *paths;
    int64_t n_paths;
    const char *separator; /* NULL or "": a file is a document */
    bool lines;            /* a document a line */
    size_t piece;          /* bytes of a piece; 0: 4 MiB */
} kr_source_options;

typedef struct kr_source kr_source;

typedef struct kr_piece {
    const char *bytes; /* valid until the next call */
    size_t size;
    bool first, last; /* of its document */
    const char *path;
    int64_t line; /* 1-based, in files of lines; 0 elsewhere */
} kr_piece;

/* Lists the files (so that a missing one is told at once) and opens none. */
int kr_source_open(kr_source **out, const kr_source_options *o, krait_error *e);
/* 1: *p holds a piece; 0: no more; negative: an error that names the file. */
int kr_source_next(kr_source *s, kr_piece *p, krait_error *e);
void kr_source_close(kr_source **s);

/* Bytes read, and bytes of all files (-1: unknown, stdin is among them). */
void kr_source_progress(const kr_source *s, int64_t *done, int64_t *all);
/* Hash of path, size and time of every file; 0 when stdin is among them. */
uint64_t kr_source_hash(const kr_source *s);

#endif
