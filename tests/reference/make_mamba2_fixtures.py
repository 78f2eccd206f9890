#!/usr/bin/env python3
# make_mamba2_fixtures.py - writes tests/data/mamba2_*: tiny random models of Mamba-2, each with
# logits, loss and gradients (expected.safetensors): one group and biases as transformers'
# Mamba2ForCausalLM computes them; several groups, norm before the gate, D for each channel, and a
# gated map beside the recurrence (d_ssm) by the official formulas, written out here as the
# recurrence they define.
#
# The files are committed, and mamba_reference_test.c compares against them; run this only to make
# them anew. Needs: pip install torch transformers safetensors. In fp32, no fused kernels.
import torch
import torch.nn.functional as F
from transformers import Mamba2Config, Mamba2ForCausalLM

import fixtures


def own_values(name, noise):
    if name.endswith("A_log"):
        return 0.5 + 0.7 * noise
    return noise - 1.0 if name.endswith("dt_bias") else None


def hugging_face(name, seed, **config):
    folder = fixtures.fresh(name)
    model = Mamba2ForCausalLM(Mamba2Config(**config))
    fixtures.randomise(model.named_parameters(), seed, own_values)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    fixtures.save_expected(model, fixtures.token_ids(model.config.vocab_size, seed), folder)


class Official(fixtures.Original):
    """The official block, one token after the other."""

    def __init__(self, vocabulary, width, layers, head_dim, state, groups, kernel, before, rest=0):
        self.sizes = width, head_dim, state, groups, kernel, before, rest
        super().__init__(vocabulary, width, layers)

    def declare(self, m, width):
        _, head_dim, state, groups, kernel, _, rest = self.sizes
        inner = 2 * width - rest  # of the recurrence
        heads, mixed = inner // head_dim, inner + 2 * groups * state
        self.add(m + "in_proj.weight", 2 * rest + inner + mixed + heads, width)
        self.add(m + "conv1d.weight", mixed, 1, kernel)
        self.add(m + "conv1d.bias", mixed)
        self.add(m + "dt_bias", heads)
        self.add(m + "A_log", heads)
        self.add(m + "D", inner)
        self.add(m + "norm.weight", inner)
        self.add(m + "out_proj.weight", width, 2 * width)

    def mixer(self, a, m):
        d, P, N, G, K, before, rest = self.sizes
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


def official(name, seed, before, rest=0):
    """A folder as the official implementation publishes it, of several groups."""
    folder = fixtures.fresh(name)
    used, padded, width, layers, state, groups, head_dim = 29, 32, 18, 2, 5, 3, 6
    model = Official(padded, width, layers, head_dim, state, groups, 4, before, rest)
    fixtures.randomise(model.named_parameters(), seed, own_values)
    ssm = {"layer": "Mamba2", "d_state": state, "headdim": head_dim, "ngroups": groups,
           "D_has_hdim": True, "norm_before_gate": before}
    if rest:
        ssm["d_ssm"] = 2 * width - rest
    fixtures.save_state_spaces(model, folder,
                               fixtures.state_spaces_config(width, layers, used, ssm))
    fixtures.save_expected(model, fixtures.token_ids(used, seed), folder)


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
