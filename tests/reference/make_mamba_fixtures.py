#!/usr/bin/env python3
# make_mamba_fixtures.py - writes tests/data/mamba_*: tiny random models as the transformers library
# saves them, each with the logits, loss and gradients that library computes (expected.safetensors).
#
# The files are committed, and mamba_reference_test.c compares against them; run this only to make
# them anew. Needs: pip install torch transformers safetensors. It uses the library's plain path
# (no fused kernels), in fp32.
import json
import math
import pathlib
import shutil

import torch
from safetensors.torch import save_file
from transformers import (FalconMambaConfig, FalconMambaForCausalLM, MambaConfig,
                          MambaForCausalLM)

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
BATCH, LENGTH = 2, 13


def randomise(model, seed):
    """Draws every parameter so that each has a gradient worth comparing: the libraries' own
    initial values hide mistakes (A equal in all channels, D and norms one, biases zero)."""
    gen = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=gen)
        with torch.no_grad():
            if name.endswith("A_log"):
                p.copy_(torch.log(torch.arange(1, p.shape[1] + 1).float()) + 0.3 * noise)
            elif name.endswith("dt_proj.bias"):
                p.copy_(noise - 2.0)
            elif name.endswith(".D") or "norm" in name:
                p.copy_(1 + 0.3 * noise)
            elif p.dim() == 1:
                p.copy_(0.3 * noise)
            elif "embedding" in name:
                p.copy_(0.5 * noise)
            else:
                p.copy_(noise / math.sqrt(p[0].numel()))


def expectations(model, ids):
    """Logits [B,T,V], the mean next-token loss, and its gradient for every parameter."""
    model.eval()
    logits = model(ids, use_cache=False).logits.float()
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    out = {"ids": ids.to(torch.int32), "logits": logits.detach(), "loss": loss.detach().reshape(1)}
    for name, p in model.named_parameters():
        out["grad." + name] = p.grad.detach()
    return {k: v.contiguous() for k, v in out.items()}


def fresh(name):
    folder = DATA / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def token_ids(vocabulary, seed):
    gen = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (BATCH, LENGTH), generator=gen)


def hugging_face(name, model, seed, **how):
    """A folder as save_pretrained leaves it."""
    folder = fresh(name)
    randomise(model, seed)
    model.save_pretrained(folder, **how)
    (folder / "generation_config.json").unlink(missing_ok=True)
    save_file(expectations(model, token_ids(model.config.vocab_size, seed)),
              folder / "expected.safetensors")


def state_spaces(name, seed):
    """A folder as the official implementation publishes it: its own names, a tied head that is
    stored all the same, and a vocabulary that config.json gives without its padding."""
    folder = fresh(name)
    width, layers, used, padded = 12, 2, 29, 32
    model = MambaForCausalLM(MambaConfig(
        vocab_size=padded, hidden_size=width, num_hidden_layers=layers, state_size=6,
        conv_kernel=4, time_step_rank=2, use_bias=False))
    randomise(model, seed)
    tensors = {k.replace("embeddings", "embedding"): v.detach().clone()
               for k, v in model.state_dict().items()}
    tensors["lm_head.weight"] = tensors["backbone.embedding.weight"]
    torch.save(tensors, folder / "pytorch_model.bin")
    config = {"d_model": width, "n_layer": layers, "vocab_size": used,
              "ssm_cfg": {"d_state": 6, "dt_rank": 2}, "rms_norm": True,
              "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(expectations(model, token_ids(used, seed)), folder / "expected.safetensors")


def main():
    hugging_face("mamba_odd", MambaForCausalLM(MambaConfig(
        vocab_size=61, hidden_size=20, num_hidden_layers=3, state_size=5, conv_kernel=3,
        time_step_rank=3, use_bias=False)), 1)
    hugging_face("mamba_bias", MambaForCausalLM(MambaConfig(
        vocab_size=37, hidden_size=18, num_hidden_layers=2, state_size=16, conv_kernel=4,
        use_bias=True, use_conv_bias=False, layer_norm_epsilon=1e-3, expand=3,
        tie_word_embeddings=False)), 2)
    hugging_face("mamba_falcon", FalconMambaForCausalLM(FalconMambaConfig(
        vocab_size=41, hidden_size=16, num_hidden_layers=2, state_size=7, conv_kernel=4,
        time_step_rank=5, expand=16, intermediate_size=24, mixer_rms_eps=1e-2, use_bias=False,
        tie_word_embeddings=False)), 3, max_shard_size="12KB")
    state_spaces("mamba_statespaces", 4)


if __name__ == "__main__":
    main()
