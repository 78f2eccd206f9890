#!/usr/bin/env python3
"""mixed_unicode.py - text of every kind a tokenizer may meet, and its ids by tokenizers.

Usage: mixed_unicode.py text OUT [BYTES] [SEED]        writes the text
       mixed_unicode.py ids TOKENIZER TEXT OUT         TOKENIZER: tokenizer.json, or a folder with
                                                       vocab.json and merges.txt; writes int32 ids
The tokenizers library normalises by Unicode 9. Marks that later versions gave a combining class
are left out of the text: it orders them otherwise than newer libraries do (their number is told).
"""
import random
import sys
import unicodedata

WORDS = "the of and to in is that it was for on are as with his they at be this from have".split()
CODE = [
    "for (int i = 0; i < n; i++) {\n        x[i] += y->z;\n}\n",
    "def f(a, *, b=None):\n\treturn {'k': [a, b]}\r\n",
    "<|endoftext|>", "<|padding|>",
    "it's we'll I'm you've he'd don't they're 'S 'LL", "#include <stdio.h>\n\n\n",
    "https://example.org/a/b?c=d&e=%20#f", "1234567890 3.14159 1e-10 0xDEADBEEF",
    "\x00\x01\x7f", "e\u0301a\u0323\u0302",
]
MARKS = list(range(0x300, 0x370)) + [
    0x5B0, 0x5B7, 0x64B, 0x651, 0x93C, 0x94D, 0x1DCA, 0x20D0, 0x302A, 0x3099, 0xFE20]
EMOJI = [
    "\U0001F469\u200D\U0001F469\u200D\U0001F467", "\U0001F1EB\U0001F1F7", "\U0001F44D\U0001F3FD",
    "\u2764\uFE0F", "\U0001F9D9", "1\uFE0F\u20E3"]
SPACES = (" \t\n\r\v\f\x1c\x1d\x1e\x1f\u0085\u00a0\u1680\u180e\u2000\u2003\u2009\u200a\u200b"
          "\u2028\u2029\u202f\u205f\u2060\u3000\ufeff")
BASES = "aeiouAEIOUncsz\u0440\u043d\u0418\u304b\uac00\u1100"
PUNCTUATION = "!@#$%^&*()_+-=[]{}|;':\",./<>?`~"
ACCENTED = "a\u00e0\u00e1\u00e2\u0103\u0105\u1ea1"


def assigned():
    """The code points that Python and the tokenizers library normalise alike."""
    from tokenizers import normalizers
    nfc = normalizers.NFC().normalize_str
    probes = ["a%s\u0301", "a\u0301%s", "a\u0323%s", "a%s\u0323", "a%s\u05b0", "a\u0300\u0345%s"]
    points, left_out = [], []
    for c in range(0x110000):
        if 0xD800 <= c < 0xE000 or unicodedata.category(chr(c)) == "Cn":
            continue
        alike = all(nfc(p % chr(c)) == unicodedata.normalize("NFC", p % chr(c)) for p in probes)
        (points if alike else left_out).append(c)
    print(f"{len(points)} code points, {len(left_out)} left out:", *(f"{c:X}" for c in left_out))
    return points


def blocks(points):
    out = {}
    for c in points:
        out.setdefault(c >> 7, []).append(c)
    return list(out.values())


def text(size, seed):
    r = random.Random(seed)
    points = assigned()
    scripts = blocks(points)

    def chars(source, least, most):
        return "".join(chr(r.choice(source)) for _ in range(r.randrange(least, most)))

    def strings(source, least, most, between=""):
        return between.join(r.choice(source) for _ in range(r.randrange(least, most)))

    def words_of_a_script():
        script = r.choice(scripts)
        return " ".join(chars(script, 1, 9) for _ in range(r.randrange(1, 12)))

    hangul, han = range(0xAC00, 0xD7A4), range(0x4E00, 0xA000)
    kinds = [
        lambda: strings(WORDS, 1, 60, " ") + r.choice(".!?,;:\n"),
        lambda: chars(r.choice(scripts), 1, 80),
        words_of_a_script,
        lambda: chars(points, 1, 60),
        lambda: r.choice(BASES) + chars(MARKS, 1, 8),
        lambda: strings(EMOJI, 1, 8),
        lambda: r.choice(SPACES) * r.randrange(1, 90),
        lambda: strings(SPACES, 1, 30),
        lambda: r.choice(" \n") * r.choice([1, 2, 3, 23, 24, 25, 48, 49, 500]),
        lambda: strings(CODE, 1, 6),
        lambda: "".join(chr(r.randrange(97, 123)) for _ in range(r.choice([30, 47, 48, 49, 3000]))),
        lambda: strings(ACCENTED, 40, 120),
        lambda: chars(hangul, 1, 40),
        lambda: unicodedata.normalize("NFD", chars(hangul, 1, 20)),
        lambda: chars(han, 1, 60),
        lambda: chars(range(0x1100, 0x1200), 1, 20),
        lambda: str(r.randrange(10 ** r.randrange(1, 30))),
        lambda: r.choice(PUNCTUATION) * r.randrange(1, 40),
    ]
    out, used = [], 0
    while used < size:
        piece = r.choice(kinds)() + r.choice(["", "", " ", "\n"])
        out.append(piece)
        used += len(piece.encode())
    return "".join(out)


def load(path):
    import os
    from tokenizers import Tokenizer, models, pre_tokenizers, decoders, AddedToken
    if not os.path.isdir(path):
        return Tokenizer.from_file(path)
    t = Tokenizer(models.BPE.from_file(f"{path}/vocab.json", f"{path}/merges.txt"))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
    return t


def main():
    if len(sys.argv) > 2 and sys.argv[1] == "text":
        size = int(sys.argv[3]) if len(sys.argv) > 3 else 6 << 20
        seed = int(sys.argv[4]) if len(sys.argv) > 4 else 1
        open(sys.argv[2], "w", encoding="utf-8", newline="").write(text(size, seed))
    elif len(sys.argv) == 5 and sys.argv[1] == "ids":
        import array
        import time
        t = load(sys.argv[2])
        data = open(sys.argv[3], encoding="utf-8", newline="").read()
        start = time.perf_counter()
        ids = t.encode(data, add_special_tokens=False).ids
        seconds = time.perf_counter() - start
        array.array("i", ids).tofile(open(sys.argv[4], "wb"))
        print(f"{len(ids)} ids, {seconds:.2f} s, {len(data.encode()) / seconds / 1e6:.2f} MB/s")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
