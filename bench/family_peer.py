#!/usr/bin/env python3
"""family_peer.py - training steps of a language model of the family of linear recurrences, in krait
and in PyTorch, turn by turn on the same cores.

The model is that of a recipe (S4D, LRU or Mamba-2), of fresh weights: RMSNorm in front of each
layer, tied embedding, AdamW with two groups. PyTorch computes it in whichever of several ways is
fastest here: an LRU's recurrence by a loop over time, by doubling, or by one product with the
matrix of powers; S4D's convolution by Fourier transforms, its kernel from all powers (the paper's
listing) or as products of matrices; Mamba-2 by transformers' Mamba2ForCausalLM.

Usage: family_peer.py KRAIT RECIPE [BATCH TOKENS RUNS THREADS]   (16 128 5 2)
Needs torch, and transformers for Mamba-2. Prints one JSON line; bench/family.sh makes the table."""
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # neither may spin while the other works
import torch
from torch import nn
from torch.nn import functional as F

VOCABULARY = 264  # bytes and their specials, padded
RECURRENT = ("nu_log", "theta_log", "gamma_log", "B", "log_dt", "log_rate", "frequency")


def rms(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight


def pairs(*shape):
    return nn.Parameter(torch.randn(*shape, 2) * 0.5 ** 0.5)


# ---- LRU ----

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


def by_matrix(log_lambda, v):
    t = torch.arange(v.shape[1])
    gap = (t[:, None] - t[None, :]).clamp(min=0)
    powers = torch.exp(log_lambda[:, None, None] * gap) * (t[:, None] >= t[None, :])
    return torch.einsum("nts,bsn->btn", powers, v)


class Lru(nn.Module):
    gelu = "tanh"

    def __init__(self, recipe):
        super().__init__()
        H, N = recipe["width"], recipe["state"]
        low, high = recipe["r_min"], recipe["r_max"]
        u = torch.rand(N) * (high ** 2 - low ** 2) + low ** 2
        self.nu_log = nn.Parameter(torch.log(-0.5 * torch.log(u)))
        self.theta_log = nn.Parameter(torch.log(6.28 * torch.rand(N)))
        self.gamma_log = nn.Parameter(0.5 * torch.log(1 - u))
        self.B, self.C = pairs(N, H), pairs(H, N)
        self.D = nn.Parameter(torch.randn(H))

    @staticmethod
    def ways(tokens):
        return [by_loop, by_doubling] + ([by_matrix] if tokens <= 256 else [])

    def forward(self, u, scan):
        log_lambda = torch.complex(-torch.exp(self.nu_log), torch.exp(self.theta_log))
        B = torch.view_as_complex(self.B) * torch.exp(self.gamma_log)[:, None]
        # two real products, as krait has them: PyTorch's complex ones are slower
        h = scan(log_lambda, torch.complex(u @ B.real.T, u @ B.imag.T))
        C = torch.view_as_complex(self.C)
        return h.real @ C.real.T - h.imag @ C.imag.T + self.D * u


# ---- S4D ----

def by_powers(z, w, T):
    return 2 * (w[..., None] * torch.exp(z[..., None] * torch.arange(T))).sum(1).real


def by_blocks(z, w, T, span=64):
    far = w[..., None] * torch.exp(z[..., None] * torch.arange(0, T, span))
    near = torch.exp(z[..., None] * torch.arange(span))
    return 2 * torch.bmm(far.mT, near).real.reshape(len(z), -1)[:, :T]


class S4d(nn.Module):
    gelu = "none"  # exact

    def __init__(self, recipe):
        super().__init__()
        H, N = recipe["width"], recipe["state"] // 2
        self.log_dt = nn.Parameter(torch.rand(H) * math.log(100) + math.log(1e-3))
        self.log_rate = nn.Parameter(torch.full((H, N), math.log(0.5)))
        self.frequency = nn.Parameter(torch.pi * torch.arange(N).float().repeat(H, 1))
        self.B, self.C = nn.Parameter(torch.tensor([1.0, 0]).repeat(H, N, 1)), pairs(H, N)
        self.D = nn.Parameter(torch.randn(H))

    @staticmethod
    def ways(tokens):
        return [by_powers, by_blocks]

    def forward(self, u, kernel):
        T = u.shape[1]
        lam = torch.complex(-torch.exp(self.log_rate), self.frequency)
        z = lam * torch.exp(self.log_dt)[:, None]
        w = torch.view_as_complex(self.C) * torch.view_as_complex(self.B) * (z.exp() - 1) / lam
        x = u.mT
        K = torch.fft.rfft(kernel(z, w, T), n=2 * T)
        y = torch.fft.irfft(torch.fft.rfft(x, n=2 * T) * K, n=2 * T)[..., :T]
        return (y + self.D[:, None] * x).mT


# ---- the model ----

class Layer(nn.Module):
    def __init__(self, mixer, recipe):
        super().__init__()
        H = recipe["width"]
        self.mixer, self.norm = mixer(recipe), nn.Parameter(torch.ones(H))
        self.glu = nn.Linear(H, 2 * H)

    def forward(self, x, way):
        y = self.mixer(rms(x, self.norm), way)
        a, b = self.glu(F.gelu(y, approximate=self.mixer.gelu)).chunk(2, -1)
        return x + a * torch.sigmoid(b)


class Model(nn.Module):
    def __init__(self, mixer, recipe):
        super().__init__()
        H = recipe["width"]
        self.embedding = nn.Embedding(VOCABULARY, H)
        self.layers = nn.ModuleList(Layer(mixer, recipe) for _ in range(recipe["layers"]))
        self.norm = nn.Parameter(torch.ones(H))

    def forward(self, ids, way):
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, way)
        return rms(x, self.norm) @ self.embedding.weight.T


class Mamba2(nn.Module):
    def __init__(self, recipe):
        super().__init__()
        from transformers import Mamba2Config, Mamba2ForCausalLM
        self.inside = Mamba2ForCausalLM(Mamba2Config(
            vocab_size=VOCABULARY, hidden_size=recipe["width"], head_dim=recipe["head_dim"],
            num_hidden_layers=recipe["layers"], state_size=recipe["state"], n_groups=1,
            num_heads=2 * recipe["width"] // recipe["head_dim"], chunk_size=recipe.get("chunk", 64),
            tie_word_embeddings=True))

    def forward(self, ids, way):
        return self.inside(ids, use_cache=False).logits


def make(recipe, tokens):
    """The model, and the ways it can be computed."""
    if recipe["mixer"] == "mamba2":
        return Mamba2(recipe), [None]
    mixer = {"lru": Lru, "s4d": S4d}[recipe["mixer"]]
    return Model(mixer, recipe), mixer.ways(tokens)


def groups(model, decay):
    recurrent = [p for n, p in model.named_parameters() if n.rsplit(".", 1)[-1] in RECURRENT]
    theirs = {id(p) for p in recurrent}
    rest = [p for p in model.parameters() if id(p) not in theirs]
    both = [{"params": recurrent, "lr": 5e-5, "weight_decay": 0},
            {"params": rest, "lr": 1e-4, "weight_decay": decay}]
    return [g for g in both if g["params"]]


def theirs(recipe, batch, tokens):
    """A function: tokens a second of one step. And the way it takes."""
    torch.manual_seed(1)
    model, ways = make(recipe, tokens)
    model.train()
    optimiser = torch.optim.AdamW(groups(model, recipe["weight_decay"]), betas=(0.9, 0.95))
    ids = torch.randint(0, VOCABULARY, (batch, tokens))

    def rate(way):
        start = time.monotonic()
        logits = model(ids, way)[:, :-1]
        F.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return ids.numel() / (time.monotonic() - start)
    first = {}
    for way in ways:
        rate(way)  # warms up
        first[way] = rate(way)
    best = max(first, key=first.get)
    return lambda: rate(best), best.__name__ if best else "transformers"


def ours(krait, recipe, batch, tokens, threads, folder):
    """A function: tokens a second of one step, of a model that krait makes here."""
    text = pathlib.Path(folder) / "text"
    text.write_bytes(os.urandom(16000).hex().encode())
    model = pathlib.Path(folder) / "model"
    subprocess.run([krait, "train", "--recipe", recipe, "--data", text, "--out", model] +
                   [w for s in ("steps=1", "warmup=0", "held_out=0", "sample_every=0")
                    for w in ("--set", s)], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)

    def rate():
        lines = subprocess.run(
            [krait, "bench", "train", "--model", model, "--batch", str(batch), "--tokens",
             str(tokens), "--runs", "1", "--threads", str(threads), "--json"], check=True,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.splitlines()
        rows = [json.loads(line) for line in lines]
        return next(r["median"] for r in rows if r["name"].startswith("train")
                    and r["unit"] == "tok/s")
    return rate


def main(args):
    given = [int(a) for a in args[2:]]
    batch, tokens, runs, threads = given + [16, 128, 5, 2][len(given):]
    torch.set_num_threads(threads)
    recipe = json.loads(pathlib.Path(args[1]).read_text())
    peer, way = theirs(recipe, batch, tokens)
    with tempfile.TemporaryDirectory() as folder:
        mine = ours(args[0], args[1], batch, tokens, threads, folder)
        both = [(mine(), peer()) for _ in range(runs)]
    print(json.dumps({
        "mixer": recipe["mixer"], "batch": batch, "tokens": tokens, "threads": threads, "way": way,
        "krait": [k for k, _ in both], "pytorch": [p for _, p in both],
        "ratio": statistics.median(k / p for k, p in both)}))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1:])
