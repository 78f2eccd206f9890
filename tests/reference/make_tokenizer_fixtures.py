#!/usr/bin/env python3
"""make_tokenizer_fixtures.py - expected ids for the tokenizer tests, by the tokenizers library.

Reads tests/data/tokenizer/tokenizer.json (learned by Krait from corpus.txt beside it) and writes
variant.json (the same vocabulary with other steps and added tokens around it) and samples.jsonl:
{"text", "plain": ids by tokenizer.json, "variant": ids by variant.json} a line.
"""
import json
import os
import random

from mixed_unicode import text
from tokenizers import Tokenizer

FOLDER = os.path.join(os.path.dirname(__file__), "../data/tokenizer")
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
           r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def added(number, content, **flags):
    token = {"id": number, "content": content, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": False}
    return {**token, **flags}


def variant(plain):
    v = json.loads(json.dumps(plain))
    n = len(v["model"]["vocab"])
    v["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}]}
    v["added_tokens"] += [
        added(n, "<left>", lstrip=True), added(n + 1, "<right>", rstrip=True),
        added(n + 2, "whole", single_word=True), added(n + 3, "e\u0301!", normalized=True),
        added(n + 4, "   "), added(n + 5, "<left><right>"),
        added(n + 6, "\n\n", normalized=True, special=True)]
    v["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Punctuation", "behavior": "Contiguous"},
        {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False},
        {"type": "Digits", "individual_digits": True}]}
    merges = v["model"]["merges"]
    v["model"]["merges"] = [m.split(" ") for m in merges]
    return v


def main():
    with open(f"{FOLDER}/tokenizer.json", encoding="utf-8") as f:
        plain = json.load(f)
    with open(f"{FOLDER}/variant.json", "w", encoding="utf-8") as f:
        json.dump(variant(plain), f, ensure_ascii=False, indent=0)
    first = Tokenizer.from_file(f"{FOLDER}/tokenizer.json")
    second = Tokenizer.from_file(f"{FOLDER}/variant.json")
    r = random.Random(11)
    mixed = text(12000, 7).replace("\0", "")
    words = ["<left>", "<right>", " ", "  ", "whole", "x", "e\u0301!", "\u00e9!", "\n\n", "   ",
             "<|endoftext|>", "\u3000", "return", "the scan", "1234"]
    samples = ["", "return kr_fail(e, KRAIT_ERR_MEMORY);", "a" * 100, " " * 300, "ab" * 600]
    while mixed:
        n = r.choice([1, 5, 30, 200])
        samples.append(mixed[:n])
        mixed = mixed[n:]
    samples += ["".join(r.choice(words) for _ in range(r.randrange(1, 12))) for _ in range(60)]
    with open(f"{FOLDER}/samples.jsonl", "w", encoding="utf-8") as f:
        for sample in samples:
            line = {"text": sample, "plain": first.encode(sample).ids,
                    "variant": second.encode(sample).ids}
            f.write(json.dumps(line, separators=(",", ":")) + "\n")
    print(len(samples), "samples")


if __name__ == "__main__":
    main()
