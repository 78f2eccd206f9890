#!/usr/bin/env python3
"""lru_peer.py - one training step of an LRU language model in PyTorch: what bench/lru.sh measures
Krait against. The model is that of src/mixers/lru (RMSNorm in front of each layer, tied embedding);
its recurrence is computed in whichever of three ways is fastest on the machine: a loop over time, a
parallel scan by doubling, or one product with the matrix of powers of lambda.

Usage: lru_peer.py BATCH TOKENS RUNS [LAYERS WIDTH STATE VOCABULARY]
Prints one JSON line: tokens a second of each run, and the way that was taken."""
import json
import math
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


def by_loop(log_lambda, v):
    a, h, out = torch.exp(log_lambda), torch.zeros_like(v[:, 0]), []
    for t in range(v.shape[1]):
        h = a * h + v[:, t]
        out.append(h)
    return torch.stack(out, 1)


def by_doubling(log_lambda, v):
    step = 1
    while step < v.shape[1]:
        a = torch.exp(log_lambda * step)
        v = v + F.pad(a * v[:, :-step], (0, 0, step, 0))
        step *= 2
    return v


def by_powers(log_lambda, v):
    t = torch.arange(v.shape[1])
    gap = (t[:, None] - t[None, :]).clamp(min=0)
    powers = torch.exp(log_lambda[:, None, None] * gap) * (t[:, None] >= t[None, :])
    return torch.einsum("nts,bsn->btn", powers, v)


class Layer(nn.Module):
    def __init__(self, H, N):
        super().__init__()
        u = torch.rand(N) * (0.99 ** 2 - 0.5 ** 2) + 0.5 ** 2
        self.nu_log = nn.Parameter(torch.log(-0.5 * torch.log(u)))
        self.theta_log = nn.Parameter(torch.log(6.28 * torch.rand(N)))
        self.gamma_log = nn.Parameter(0.5 * torch.log(1 - u))
        self.B = nn.Parameter(torch.view_as_real(
            torch.complex(torch.randn(N, H), torch.randn(N, H)) / math.sqrt(2 * H)))
        self.C = nn.Parameter(torch.view_as_real(
            torch.complex(torch.randn(H, N), torch.randn(H, N)) / math.sqrt(N)))
        self.D = nn.Parameter(torch.randn(H))
        self.norm = nn.Parameter(torch.ones(H))
        self.glu = nn.Linear(H, 2 * H)

    def forward(self, x, scan):
        u = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.norm
        log_lambda = torch.complex(-torch.exp(self.nu_log), torch.exp(self.theta_log))
        B = torch.view_as_complex(self.B) * torch.exp(self.gamma_log)[:, None]
        # two real products, as Krait has them: PyTorch's complex ones are slower
        v = torch.complex(u @ B.real.T, u @ B.imag.T)
        h = scan(log_lambda, v)
        C = torch.view_as_complex(self.C)
        y = h.real @ C.real.T - h.imag @ C.imag.T + self.D * u
        a, b = self.glu(F.gelu(y, approximate="tanh")).chunk(2, -1)
        return x + a * torch.sigmoid(b)


class Model(nn.Module):
    def __init__(self, layers, H, N, V):
        super().__init__()
        self.embedding = nn.Embedding(V, H)
        self.layers = nn.ModuleList(Layer(H, N) for _ in range(layers))
        self.norm = nn.Parameter(torch.ones(H))

    def forward(self, ids, scan):
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, scan)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.norm
        return x @ self.embedding.weight.T


def groups(model):
    recurrent = [p for n, p in model.named_parameters() if n.rsplit(".", 1)[-1] in
                 ("nu_log", "theta_log", "gamma_log", "B")]
    theirs = {id(p) for p in recurrent}
    rest = [p for p in model.parameters() if id(p) not in theirs]
    return [{"params": recurrent, "lr": 5e-5, "weight_decay": 0},
            {"params": rest, "lr": 1e-4, "weight_decay": 0.05}]


def rate(model, optimiser, ids, scan):
    start = time.monotonic()
    logits = model(ids, scan)[:, :-1]
    F.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad()
    return ids.numel() / (time.monotonic() - start)


def main(args):
    batch, tokens, runs = (int(a) for a in args[:3])
    layers, H, N, V = (int(a) for a in args[3:]) if len(args) == 7 else (6, 192, 192, 264)
    torch.manual_seed(1)
    model = Model(layers, H, N, V)
    optimiser = torch.optim.AdamW(groups(model), betas=(0.9, 0.95))
    ids = torch.randint(0, V, (batch, tokens))
    ways = [by_loop, by_doubling] + ([by_powers] if tokens <= 256 else [])
    first = {}
    for way in ways:
        rate(model, optimiser, ids, way)  # warms up
        first[way] = rate(model, optimiser, ids, way)
    best = max(first, key=first.get)
    rates = [rate(model, optimiser, ids, best) for _ in range(runs)]
    print(json.dumps({"values": rates, "way": best.__name__, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    if len(sys.argv) not in (4, 8):
        sys.exit(__doc__)
    main(sys.argv[1:])
