/* bpe_text.h - byte-level BPE of whole texts: what the kinds "tokenizer.json" and "vocab.json with
 * merges.txt" share.
 *
 *   text -> valid UTF-8 and bytes that are not -> added tokens of raw text -> normal form -> added
 *   tokens of normal text -> pre-tokenizer -> words -> ids
 *
 * A byte that is not UTF-8 becomes the id of that byte. */
#ifndef KR_BPE_TEXT_H
#define KR_BPE_TEXT_H

#include "data/tokenizer/added.h"
#include "data/tokenizer/bpe.h"
#include "data/tokenizer/pretok.h"

typedef struct kr_bpe_text {
    kr_bpe bpe;
    kr_pretok *pretok;
    kr_added raw, normal; /* added tokens looked for before and after normalisation */
    bool nfc;
} kr_bpe_text;

void kr_bpe_text_close(krait_tokenizer *t); /* frees t->inside, a kr_bpe_text */
int kr_bpe_text_scratch_open(void **scratch, const krait_tokenizer *t, size_t length,
                             krait_error *e);
void kr_bpe_text_scratch_close(void *scratch);
int kr_bpe_text_encode(const krait_tokenizer *t, void *scratch, const char *text, size_t length,
                       kr_ids *out, krait_error *e);

#endif
