/* block.h - a layer of a model: norms, mixer and channel mixer around the residual stream.
 *
 *   norm_place before:   r = x + mixer(norm(x)),     y = r + channel(norm2(r)),   a norm at the end
 *   norm_place after:    r = norm(x + mixer(x)),     y = norm2(r + channel(r))
 *
 *   bidirectional:       mixer(a) + R mixer_back(R a) for mixer(a), R: the rows of each sequence
 * from the last to the first
 *
 *   sequence_norm:       mixer((a - mean a) / mean |a - mean a|) for mixer(a), the means over the
 * rows of each sequence
 *
 *   channel mixer   none:        y = r
 *                   mlp:         down gelu(up a + b) + c
 *                   gated_mlp:   down (p * silu(q)),     [p ; q] = up a
 *                   glu:         p * sigmoid(q),         [p ; q] = up a + b
 *
 * In training, dropout works on what each part made, and behind the function inside mlp and
 * gated_mlp (mixers have places of their own: kr_nn_dropout).
 *
 * a [M,D] is one token's: only mixers let tokens see each other. The width of mlp and gated_mlp is
 * channel_width. up and down are the tensors mlp.fc1 and mlp.fc2, as state-spaces calls those of
 * gated_mlp. Sources: Vaswani et al. 2017 (mlp, norm behind), Dauphin et al. 2017 (glu),
 * Shazeer 2020 (gated_mlp). docs/references.md has the full titles. */
#ifndef KR_BLOCK_H
#define KR_BLOCK_H

#include "mixers/mixer.h"

/* What runs through the layers: branch, on top of sum. */
typedef struct kr_stream {
    kr_value *branch; /* [M,D] what the last part made */
    kr_value *sum;    /* [M,D] the stream in front of it; NULL: branch is the stream */
    int norms;        /* that were recorded */
} kr_stream;

/* Records a layer: nn->prefix becomes its own, nn's states are those of its mixer. */
void kr_block_build(kr_nn *nn, const kr_mixer *mixer, int layer, kr_stream *s);
/* The norm behind the last layer; where norms stand behind each part, what comes in. */
kr_value *kr_block_last_norm(kr_nn *nn, kr_stream *s);

#endif
