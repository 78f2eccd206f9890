/* text_docs.h - documents as token ids, one after the other. */
#ifndef KR_TEXT_DOCS_H
#define KR_TEXT_DOCS_H

#include "data/tokenizer/tokenizer.h"
#include "data/text/text_source.h"

typedef struct kr_docs_options {
    const char *const *paths; /* as text_source.h says */
    int64_t n_paths;
    bool ids;              /* files hold decimal token ids, a document a line */
    const char *separator; /* cuts a file into documents; NULL: a file is a document */
    const krait_tokenizer
        *tokenizer; /* NULL only with ids: then no bytes are counted and no end token is known */
    int64_t vocabulary; /* with ids: ids at or above are refused; 0: the tokenizer's, or no limit */
    bool whole; /* every document in one part, however long; else huge ones come in several */
} kr_docs_options;

typedef struct kr_docs kr_docs;

/* A document, or a part of a huge one. */
typedef struct kr_doc {
    int64_t index; /* of the document, from 0; documents without a token are counted and come with
                      count 0 */
    const int32_t *ids; /* [count]; valid until the next call */
    int64_t count;
    int64_t bytes; /* of text that ids stand for; 0 without a tokenizer */
    bool first, last;
    const char *path;
    int64_t line; /* 1-based in files of lines, else 0 */
} kr_doc;

int kr_docs_open(kr_docs **out, const kr_docs_options *o, krait_error *e);
/* 1: *doc is filled; 0: no more; negative: an error. */
int kr_docs_next(kr_docs *d, kr_doc *doc, krait_error *e);
void kr_docs_close(kr_docs **d);
/* Bytes of the files read so far, and in all (-1: unknown). */
void kr_docs_progress(const kr_docs *d, int64_t *done, int64_t *all);
/* Hash of the files' paths, sizes and times, the tokenizer and the options; 0: unknown (stdin). */
uint64_t kr_docs_hash(const kr_docs *d);

#endif
