#!/usr/bin/env python3
"""conv_peer.py - S4D's convolution, forward and backward, in krait (plan CONV) and in PyTorch, turn
by turn in one process on the same cores.

Both are given a, b, c of every mode, D and x [B,T,H], and dL/dy, and compute y and the gradients of
all of them. PyTorch multiplies spectra (rfft of 2 T numbers), and forms the kernel in one of two
ways (all powers at once, as the S4D paper lists it, need more memory than most machines have):
  blocks   a^(64 q) a^r, as products of matrices: as little work as there is
  given    not at all: the kernel is a leaf whose gradient is where the work ends

Usage: conv_peer.py LIBKRAIT.so [TOKENS WIDTH STATE BATCH RUNS THREADS]  (16384 512 64 1 5 2)
Needs torch. Each row: medians and the median of the ratios of neighbouring runs."""
import ctypes
import os
import statistics
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # neither pool may spin while the other works
import torch

from scan_structs import Arrays, Desc, Error, Gradients

FORMS = ("blocks", "given")


def draw(T, H, N, B):
    """Modes as S4D-Lin starts them; complex tensors [H,N/2], rows [B,T,H]."""
    g = torch.Generator().manual_seed(1)
    dt = torch.exp(torch.rand(H, 1, generator=g) * 4.6 - 6.9)
    lam = torch.complex(torch.full((N // 2,), -0.5), torch.pi * torch.arange(N // 2).float())
    a = torch.exp(dt * lam)
    return {"a": a, "b": (a - 1) / lam,
            "c": torch.view_as_complex(torch.randn(H, N // 2, 2, generator=g) * 0.5 ** 0.5),
            "d": torch.randn(H, generator=g), "x": torch.randn(B, T, H, generator=g),
            "dy": torch.randn(B, T, H, generator=g)}


# ---- krait ----

def lines(v):
    """[H,N] complex -> [H,2,N] as krait lays it out."""
    return torch.stack([v.real, v.imag], 1).contiguous()


def krait(path, v, threads):
    library = ctypes.CDLL(path)
    library.krait_scan_s4d.restype = Desc
    library.krait_scan_s4d.argtypes = [ctypes.c_int64, ctypes.c_int64]
    B, T, H = v["x"].shape
    desc = library.krait_scan_s4d(H, v["a"].shape[1])
    desc.form = 0  # a itself
    held = {k: lines(v[k]) if k in "abc" else v[k].contiguous() for k in v}
    seqs = torch.tensor([[b * T, T, b] for b in range(B)], dtype=torch.int64)
    out = {k: torch.empty_like(held[k]) for k in held}
    arrays = Arrays(rows=B * T, sequences=B, slots=B, seqs=seqs.data_ptr(), y=out["dy"].data_ptr(),
                    **{k: held[k].data_ptr() for k in "abcdx"})
    gradients = Gradients(dy=held["dy"].data_ptr(),
                          **{"d" + k: out[k].data_ptr() for k in "abcdx"})
    error = Error()

    def step():
        for rc in (library.krait_scan_run(ctypes.byref(desc), ctypes.byref(arrays), threads,
                                          ctypes.byref(error)),
                   library.krait_scan_gradient(ctypes.byref(desc), ctypes.byref(arrays),
                                               ctypes.byref(gradients), threads,
                                               ctypes.byref(error))):
            if rc < 0:
                sys.exit(error.message.decode(errors="replace"))
        return out["dy"], out["x"], out["d"], [out[k] for k in "abc"]
    return step, (held, seqs)  # krait reads where they lie


# ---- PyTorch ----

def blocks(a, w, T, span=64):
    log = torch.log(a)[..., None]
    far = w[..., None] * torch.exp(log * torch.arange(0, T, span))
    near = torch.exp(log * torch.arange(span))
    return 2 * torch.bmm(far.mT, near).real.reshape(len(a), -1)[:, :T]


def peer(v, form):
    T = v["x"].shape[1]
    leaves = {k: v[k].clone().requires_grad_() for k in ("a", "b", "c", "d", "x")}
    kernel = None
    if form == "given":
        with torch.no_grad():
            kernel = blocks(v["a"], v["b"] * v["c"], T)
        kernel.requires_grad_()

    def step():
        for t in list(leaves.values()) + ([kernel] if form == "given" else []):
            t.grad = None
        K = kernel if form == "given" else \
            blocks(leaves["a"], leaves["b"] * leaves["c"], T)
        u = leaves["x"].mT
        y = torch.fft.irfft(torch.fft.rfft(u, n=2 * T) * torch.fft.rfft(K, n=2 * T), n=2 * T)
        y = y[..., :T] + leaves["d"][:, None] * u
        y.mT.backward(v["dy"])
        return y.detach().mT, leaves["x"].grad, leaves["d"].grad, \
            [lines(leaves[k].grad) if form != "given" else None for k in "abc"]
    return step


# ---- both ----

def apart(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def clocked(step):
    start = time.monotonic()
    step()
    return time.monotonic() - start


def main(args):
    given = [int(a) for a in args[1:]]
    T, H, N, B, runs, threads = given + [16384, 512, 64, 1, 5, 2][len(given):]
    torch.set_num_threads(threads)
    v = draw(T, H, N, B)
    ours, _held = krait(args[0], v, threads)
    print(f"S4D's convolution, forward and backward: T {T}, width {H}, state {N}, batch {B}, "
          f"{threads} threads, {runs} runs")
    for form in FORMS:
        theirs = peer(v, form)
        a, b = ours(), theirs()
        off = max([apart(x, y) for x, y in zip(a[:3], b[:3])] +
                  [apart(x, y) for x, y in zip(a[3], b[3]) if y is not None])
        if not off < 1e-3:
            sys.exit(f"{form}: results differ by {off:.1e} of the largest")
        times = [(clocked(ours), clocked(theirs)) for _ in range(runs)]
        ratio = statistics.median(p / k for k, p in times)
        print(f"kernel by {form}: PyTorch {statistics.median(p for _, p in times):.3f} s, krait "
              f"{statistics.median(k for k, _ in times):.3f} s: {ratio:.2f} times as fast "
              f"(results differ by {off:.0e})", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
