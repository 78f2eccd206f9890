#!/usr/bin/env python3
# roundtrip.py - what krait saves, transformers loads: converts every model of tests/data and the
# folders given as arguments, loads the result with from_pretrained, and compares logits.
#
# Then the layout of the original code (pytorch_model.bin): each such fixture is read, written again
# by --layout state_spaces and loaded by torch; every tensor and what config.json says is the same.
#
# Usage: roundtrip.py KRAIT [FOLDER...]. Needs torch and transformers; ctest never runs it. Fails on
# a missing or unexpected tensor, or on logits that differ by more than 1e-5 of the largest.
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
TOLERANCE = 1e-5


def load(folder):
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if info.get(kind):
            sys.exit(f"{folder}: {kind}: {info[kind]}")
    return model.eval()


def wanted(folder):
    """ids [B,T] and logits [B,T,V] of the model before krait touched it."""
    expected = folder / "expected.safetensors"
    if expected.exists():
        t = load_file(expected)
        return t["ids"].long(), t["logits"]
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    ids = torch.randint(0, vocabulary, (2, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return ids, load(folder)(ids, use_cache=False).logits


def check(krait, folder):
    ids, want = wanted(folder)
    with tempfile.TemporaryDirectory() as out:
        saved = pathlib.Path(out) / "model"
        subprocess.run([krait, "convert", folder, saved], check=True, stdout=subprocess.DEVNULL)
        with torch.no_grad():
            got = load(saved)(ids, use_cache=False).logits
        error = ((got - want).abs().max() / want.abs().max()).item()
        again = pathlib.Path(out) / "again"
        subprocess.run([krait, "convert", saved, again], check=True, stdout=subprocess.DEVNULL)
        same = all((again / f.name).read_bytes() == f.read_bytes() for f in saved.iterdir())
    print(f"{folder.name}: logits differ by {error:.1e}; converted again: "
          f"{'the same bytes' if same else 'OTHER BYTES'}")
    return error <= TOLERANCE and same


def check_original(krait, folder):
    """What the original code reads: one dictionary of tensors, and the arguments of its classes."""
    with tempfile.TemporaryDirectory() as out:
        saved = pathlib.Path(out) / "model"
        subprocess.run([krait, "convert", folder, saved, "--layout", "state_spaces"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        both = folder, saved
        was, now = (torch.load(f / "pytorch_model.bin", weights_only=True)
                    for f in both)
        said, says = (json.loads((f / "config.json").read_text()) for f in both)
    same = sorted(was) == sorted(now) and all(torch.equal(was[k], now[k]) for k in was)
    tied = now["lm_head.weight"].data_ptr() == now["backbone.embedding.weight"].data_ptr()
    layer, of = said.pop("ssm_cfg"), says.pop("ssm_cfg")
    for key in ("pad_vocab_size_multiple", "attn_cfg"):  # other multiples make the same padding
        said.pop(key, None), says.pop(key, None)
    told = said.items() <= says.items() and layer.items() <= of.items()
    print(f"{folder.name}: original layout: {len(now)} tensors "
          f"{'the same' if same and tied == said.get('tie_embeddings', True) else 'DIFFER'}, "
          f"config.json {'says the same' if told else 'SAYS ANOTHER THING'}")
    return same and told


def main(args):
    if not args:
        sys.exit("usage: roundtrip.py KRAIT [FOLDER...]")
    folders = sorted(DATA.glob("mamba_*")) + [
        DATA / "mamba2_odd", DATA / "mamba2_bias"] + [pathlib.Path(f) for f in args[1:]]
    results = [check(args[0], f) for f in folders]
    results += [check_original(args[0], DATA / n) for n in (
        "mamba_statespaces", "mamba2_official", "mamba2_before", "mamba2_part", "mamba3_siso",
        "mamba3_siso_norm", "mamba3_mimo")]
    print(f"{sum(results)} of {len(results)} models survive the round trip")
    sys.exit(not all(results))


if __name__ == "__main__":
    main(sys.argv[1:])
