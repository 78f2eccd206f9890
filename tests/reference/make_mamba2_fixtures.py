#!/usr/bin/env python3
# make_mamba2_fixtures.py - writes tests/data/mamba2_*: tiny random models of Mamba-2, each with
# logits, loss and gradients (expected.safetensors): one group and biases as transformers'
# Mamba2ForCausalLM computes them; several groups, norm before the gate, D for each channel, and a
# gated map beside the recurrence (d_ssm) by
# the official formulas, written out here as the recurrence they define.
#
# The files are committed, and mamba_reference_test.c compares against them; run this only to make
# them anew. Needs: pip install torch transformers safetensors. In fp32, no fused kernels.
import json
import math

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import Mamba2Config, Mamba2ForCausalLM

from make_mamba_fixtures import expectations, fresh, token_ids


def randomise(named, seed):
    """Every parameter drawn so that each has a gradient worth comparing."""
    gen = torch.Generator().manual_seed(seed)
    for name, p in named:
        noise = torch.randn(p.shape, generator=gen)
        with torch.no_grad():
            if name.endswith("A_log"):
                p.copy_(0.5 + 0.7 * noise)
            elif name.endswith("dt_bias"):
                p.copy_(noise - 1.0)
            elif name.endswith(".D") or "norm" in name:
                p.copy_(1 + 0.3 * noise)
            elif p.dim() == 1:
                p.copy_(0.3 * noise)
            elif "embedding" in name:
                p.copy_(0.5 * noise)
            else:
                p.copy_(noise / math.sqrt(p[0].numel()))


def hugging_face(name, seed, **config):
    folder = fresh(name)
    model = Mamba2ForCausalLM(Mamba2Config(**config))
    randomise(model.named_parameters(), seed)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    save_file(expectations(model, token_ids(model.config.vocab_size, seed)),
              folder / "expected.safetensors")


class Official(torch.nn.Module):
    """The official block, one token after the other; parameters by their published names."""

    def __init__(self, vocab, d, layers, head_dim, state, groups, kernel, before, rest=0):
        super().__init__()
        self.sizes = d, layers, head_dim, state, groups, kernel, before, rest
        inner, self.names = 2 * d - rest, {}  # of the recurrence
        heads, mixed = inner // head_dim, inner + 2 * groups * state
        self.add("backbone.embeddings.weight", vocab, d)
        for i in range(layers):
            m = f"backbone.layers.{i}.mixer."
            self.add(f"backbone.layers.{i}.norm.weight", d)
            self.add(m + "in_proj.weight", 2 * rest + inner + mixed + heads, d)
            self.add(m + "conv1d.weight", mixed, 1, kernel)
            self.add(m + "conv1d.bias", mixed)
            self.add(m + "dt_bias", heads)
            self.add(m + "A_log", heads)
            self.add(m + "D", inner)
            self.add(m + "norm.weight", inner)
            self.add(m + "out_proj.weight", d, 2 * d)
        self.add("backbone.norm_f.weight", d)

    def add(self, name, *shape):
        self.names[name] = torch.nn.Parameter(torch.zeros(shape))
        self.register_parameter(name.replace(".", "/"), self.names[name])

    def named_parameters(self):
        return list(self.names.items())

    def rms(self, x, groups=1, eps=1e-5):
        g = x.unflatten(-1, (groups, -1))
        return (g * torch.rsqrt(g.pow(2).mean(-1, keepdim=True) + eps)).flatten(-2)

    def mixer(self, a, m):
        d, _, P, N, G, K, before, rest = self.sizes
        w, E = lambda name: self.names[m + name], 2 * d - rest
        H = E // P
        z0, x0, z, xbc, dt = (a @ w("in_proj.weight").T).split(
            [rest, rest, E, E + 2 * G * N, H], -1)
        xbc = F.silu(F.conv1d(F.pad(xbc.mT, (K - 1, 0)), w("conv1d.weight"), w("conv1d.bias"),
                              groups=xbc.shape[-1]).mT)
        x, b, c = xbc.split([E, G * N, G * N], -1)
        x, dt = x.unflatten(-1, (H, P)), F.softplus(dt + w("dt_bias"))
        b, c = (v.unflatten(-1, (G, N)).repeat_interleave(H // G, -2) for v in (b, c))
        h, y = torch.zeros(a.shape[0], H, P, N), []
        for t in range(a.shape[1]):
            h = h * torch.exp(-dt[:, t] * w("A_log").exp())[..., None, None]
            h = h + torch.einsum("bh,bhp,bhn->bhpn", dt[:, t], x[:, t], b[:, t])
            y.append(torch.einsum("bhpn,bhn->bhp", h, c[:, t]) + w("D").view(H, P) * x[:, t])
        y, gate = torch.stack(y, 1).flatten(-2), F.silu(z)
        v = self.rms(y, G) * gate if before else self.rms(y * gate, G)
        return torch.cat([F.silu(z0) * x0, v * w("norm.weight")], -1) @ w("out_proj.weight").T

    def forward(self, ids, use_cache=False):
        n = self.names
        res = n["backbone.embeddings.weight"][ids]
        for i in range(self.sizes[1]):
            layer = f"backbone.layers.{i}."
            res = res + self.mixer(self.rms(res) * n[layer + "norm.weight"], layer + "mixer.")
        out = self.rms(res) * n["backbone.norm_f.weight"]
        self.logits = out @ n["backbone.embeddings.weight"].T
        return self


def official(name, seed, before, rest=0):
    """A folder as the official implementation publishes it, of several groups."""
    folder = fresh(name)
    used, padded, d, layers, state, groups, head_dim = 29, 32, 18, 2, 5, 3, 6
    model = Official(padded, d, layers, head_dim, state, groups, 4, before, rest)
    randomise(model.named_parameters(), seed)
    tensors = {k.replace("embeddings", "embedding"): v.detach().clone()
               for k, v in model.named_parameters()}
    tensors["lm_head.weight"] = tensors["backbone.embedding.weight"]
    torch.save(tensors, folder / "pytorch_model.bin")
    ssm = {"layer": "Mamba2", "d_state": state, "headdim": head_dim, "ngroups": groups,
           "D_has_hdim": True, "norm_before_gate": before}
    if rest:
        ssm["d_ssm"] = 2 * d - rest
    config = {"d_model": d, "d_intermediate": 0, "n_layer": layers, "vocab_size": used,
              "ssm_cfg": ssm, "attn_layer_idx": [], "attn_cfg": {}, "rms_norm": True,
              "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 16,
              "tie_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(expectations(model, token_ids(used, seed)), folder / "expected.safetensors")


def main():
    hugging_face("mamba2_odd", 11, vocab_size=61, hidden_size=21, num_hidden_layers=2,
                 num_heads=6, head_dim=7, state_size=5, n_groups=1, conv_kernel=3, chunk_size=4,
                 tie_word_embeddings=True)
    hugging_face("mamba2_bias", 12, vocab_size=37, hidden_size=12, num_hidden_layers=2,
                 num_heads=4, head_dim=9, expand=3, state_size=16, n_groups=2, use_bias=True,
                 use_conv_bias=False, layer_norm_epsilon=1e-3, time_step_limit=(0.05, 1.5))
    official("mamba2_official", 13, False)
    official("mamba2_before", 14, True)
    official("mamba2_part", 15, False, 18)


if __name__ == "__main__":
    main()
