#!/usr/bin/env python3
# ssd_peer.py - a training step of Mamba-2 in PyTorch (transformers' own path, no fused kernels)
# beside krait's, one after the other on the same cores.
#
# Usage: ssd_peer.py KRAIT [BATCH TOKENS RUNS THREADS]   (1 512 3 2). Needs torch and
# transformers. The time is that of the processor, divided by the threads, so that other work on
# the machine does not count; forward, backward and AdamW.
import resource
import statistics
import subprocess
import sys

WIDTH, LAYERS, VOCABULARY = 768, 24, 50280


def seconds(who):
    u = resource.getrusage(who)
    return u.ru_utime + u.ru_stime


def peer(batch, tokens, runs, threads):
    import torch
    from transformers import Mamba2Config, Mamba2ForCausalLM
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    model = Mamba2ForCausalLM(Mamba2Config(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_heads=24,
        head_dim=64, state_size=128, n_groups=1, tie_word_embeddings=True))
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(0, VOCABULARY, (batch, tokens))
    times = []
    for _ in range(runs + 1):
        start = seconds(resource.RUSAGE_SELF)
        model(ids, labels=ids, use_cache=False).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        times.append((seconds(resource.RUSAGE_SELF) - start) / threads)
    return times[1:]


def ours(krait, batch, tokens, runs, threads):
    """From two runs of the program: what each further step took."""
    spent = []
    for n in (1, 1 + runs):
        before = seconds(resource.RUSAGE_CHILDREN)
        subprocess.run([krait, "bench", "train", "--model", "mamba2-130m", "--batch", str(batch),
                        "--tokens", str(tokens), "--runs", str(n), "--threads", str(threads)],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        spent.append(seconds(resource.RUSAGE_CHILDREN) - before)
    return (spent[1] - spent[0]) / runs / threads


def main(args):
    given = [int(a) for a in args[1:]]
    batch, tokens, runs, threads = given + [1, 512, 3, 2][len(given):]
    mine = ours(args[0], batch, tokens, runs, threads)
    theirs = statistics.median(peer(batch, tokens, runs, threads))
    print(f"Mamba-2 130M, {batch} x {tokens} tokens, {threads} threads:")
    print(f"PyTorch {theirs:.2f} s a step, krait {mine:.2f} s: {theirs / mine:.1f} times as fast")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: ssd_peer.py KRAIT [BATCH TOKENS RUNS THREADS]")
    main(sys.argv[1:])
