#!/usr/bin/env python3
# make_format_corpus.py - the seed files of fuzz/corpus/{pth,pickle,safetensors,config}, which the
# tests read too. Usage: make_format_corpus.py REPOSITORY
#
# Files named ok_* must be read, bad_* refused. Every tensor of a good file counts 0, 1, 2, ... in
# the order of its elements, so that a test can check values without a list. The files are
# committed; run this only to make them anew. Needs: pip install torch.
import io
import json
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict

import torch

ROOT = os.path.join(sys.argv[1], "fuzz", "corpus")


def put(kind, name, data):
    folder = os.path.join(ROOT, kind)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data)


def saved(obj, **options):
    f = io.BytesIO()
    torch.save(obj, f, **options)
    return f.getvalue()


def rezip(data, change=None, method=zipfile.ZIP_STORED):
    """The same archive with members changed: change(name, bytes) -> bytes; None leaves one out."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", method) as new:
        for info in old.infolist():
            body = old.read(info)
            if change:
                body = change(info.filename, body)
            if body is not None:
                new.writestr(info.filename, body)
    return out.getvalue()


def with_pickle(data, body):
    return rezip(data, lambda name, old: body if name.endswith("data.pkl") else old)


def count(*shape, dtype=torch.float32):
    n = 1
    for s in shape:
        n *= s
    return torch.arange(n).to(dtype).reshape(shape)


def pth():
    plain = saved({"a": count(2, 3), "b": count(4)})
    put("pth", "ok_plain", plain)
    put("pth", "ok_types", saved(OrderedDict(
        f=count(2, dtype=torch.float32), d=count(2, dtype=torch.float64),
        h=count(3, dtype=torch.float16), b=count(3, dtype=torch.bfloat16),
        i=count(2, dtype=torch.int32), l=count(2, dtype=torch.int64),
        u=count(5, dtype=torch.uint8), scalar=count(), none=count(0, 3))))
    module = torch.nn.Linear(3, 2)
    with torch.no_grad():
        module.weight.copy_(count(2, 3))
        module.bias.copy_(count(2))
    put("pth", "ok_state_dict", saved(module.state_dict()))
    put("pth", "ok_parameters", saved(dict(module.named_parameters())))
    put("pth", "ok_nested", saved({"epoch": 3, "rate": 0.5, "name": "x", "none": None,
                                   "list": [1, (2, 3)], "state_dict": module.state_dict()}))
    put("pth", "ok_nested_model", saved({"model": {"state_dict": {"a": count(2)}}}))
    transposed = count(2, 3).t().contiguous().t()
    sliced = torch.stack([count(3), count(3)], 1)[:, 1]
    put("pth", "ok_strided", saved({"t": transposed, "s": sliced, "p": count(2, 3, 2, 2)
                                    .permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)}))
    whole = count(6)
    put("pth", "ok_tied", saved({"a": whole, "b": whole.reshape(2, 3), "c": whole[:2]}))
    put("pth", "ok_protocol4", saved({"a": count(2, 3)}, pickle_protocol=4))
    put("pth", "ok_protocol5", saved({"a": count(2, 3)}, pickle_protocol=5))
    put("pth", "ok_deflated", rezip(plain, method=zipfile.ZIP_DEFLATED))
    put("pth", "bad_legacy", saved({"a": count(2)}, _use_new_zipfile_serialization=False))
    put("pth", "bad_tar", b"storages".ljust(257, b"\0") + b"ustar".ljust(255, b"\0"))
    put("pth", "bad_zip", rezip(b"PK\5\6" + b"\0" * 18))
    put("pth", "bad_big_endian", rezip(
        plain, lambda n, b: b"big" if n.endswith("byteorder") else b))
    put("pth", "bad_missing_member", rezip(plain, lambda n, b: None if n.endswith("data/1") else b))
    put("pth", "bad_short_member", rezip(plain, lambda n, b: b[:-4] if n.endswith("data/1") else b))
    put("pth", "bad_bzip2", rezip(plain, method=zipfile.ZIP_BZIP2))
    put("pth", "bad_expanded", saved({"a": torch.zeros(1).expand(1 << 30, 1 << 30)}))
    put("pth", "bad_module", saved(module))
    put("pth", "bad_bool", saved({"a": torch.zeros(2, dtype=torch.bool)}))
    put("pth", "bad_rank", saved({"a": torch.zeros(1, 1, 1, 1, 1)}))
    put("pth", "bad_no_tensors", saved({"a": 1}))
    put("pth", "bad_list", saved([count(2)]))
    bomb = rezip(plain, lambda n, b: b"\0" * (1 << 22) if n.endswith("data/0") else b,
                 zipfile.ZIP_DEFLATED)
    body = zipfile.ZipFile(io.BytesIO(plain)).read("archive/data.pkl")
    put("pth", "bad_bomb", with_pickle_deflated(bomb, body.replace(
        b"K\x06t", b"J" + struct.pack("<i", 1 << 20) + b"t", 1)))
    put("pth", "bad_system", with_pickle(plain, b"\x80\x02cos\nsystem\nX\4\0\0\0true\x85R."))

    body = zipfile.ZipFile(io.BytesIO(plain)).read("archive/data.pkl")
    put("pickle", "ok_plain", body)
    for name in ("ok_state_dict", "ok_nested", "ok_protocol4", "ok_types", "ok_parameters"):
        with open(os.path.join(ROOT, "pth", name), "rb") as f:
            z = zipfile.ZipFile(f)
            put("pickle", name, z.read("archive/data.pkl"))


def with_pickle_deflated(data, body):
    return rezip(data, lambda n, b: body if n.endswith("data.pkl") else b, zipfile.ZIP_DEFLATED)


class Run:
    def __reduce__(self):
        return os.system, ("true",)


def bad_pickles():
    put("pickle", "bad_system", pickle.dumps({"a": Run()}, 2))
    put("pickle", "bad_system4", pickle.dumps({"a": Run()}, 4))
    put("pickle", "bad_eval", b"\x80\x02c__builtin__\neval\nX\1\0\0\x001\x85R.")
    put("pickle", "bad_inst", b"\x80\x02(X\1\0\0\x001ios\nsystem\n.")
    put("pickle", "bad_obj", b"\x80\x02(cos\nsystem\no.")
    put("pickle", "bad_newobj", b"\x80\x02ccollections\nOrderedDict\n)\x81.")
    put("pickle", "bad_ext", b"\x80\x02\x82\x01.")
    put("pickle", "bad_build", b"\x80\x02]}b.")
    put("pickle", "bad_empty", b"")
    put("pickle", "bad_opcode", b"\x80\x02\xff.")
    put("pickle", "bad_pop_mark", b"\x80\x02(Q.")
    put("pickle", "bad_reduce_int", b"\x80\x02K\1)R.")
    put("pickle", "bad_get", b"\x80\x02h\5.")
    put("pickle", "bad_itself", b"\x80\x02}q\0X\1\0\0\0ah\0s.")
    put("pickle", "bad_memo", b"\x80\x02}r\xff\xff\xff\xff.")
    put("pickle", "bad_text", b"\x80\x05\x8d" + b"\xff" * 8 + b"abc.")
    put("pickle", "bad_long", b"\x80\x02\x8a\x09" + b"\1" * 9 + b".")
    put("pickle", "bad_setitems", b"\x80\x02}(K\1u.")
    put("pickle", "bad_stack_global", b"\x80\x04K\1K\2\x93.")


def st(header, data=b""):
    if not isinstance(header, bytes):
        header = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(header)) + header + data


def safetensors():
    f = struct.pack("<6f", *range(6))
    good = {"__metadata__": {"format": "pt"},
            "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    put("safetensors", "ok_plain", st(good, f))
    put("safetensors", "ok_empty", st({}))
    two = {"w": {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]},
           "x": {"dtype": "BF16", "shape": [2], "data_offsets": [16, 20]},
           "y": {"dtype": "U8", "shape": [3], "data_offsets": [20, 23]},
           "z": {"dtype": "F16", "shape": [1, 1], "data_offsets": [23, 25]}}
    put("safetensors", "ok_types", st(two, struct.pack("<qqHH3BH", 0, 1, 0, 0x3f80, 0, 1, 2, 0)))
    put("safetensors", "bad_overlap", st({
        "a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
        "b": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]}}, b"123456"))
    put("safetensors", "bad_deep", st(b'{"a":' + b"[" * 200 + b"]" * 200 + b"}"))
    put("safetensors", "bad_product", st({
        "a": {"dtype": "F32", "shape": [1 << 32, 1 << 32], "data_offsets": [0, 0]}}))
    put("safetensors", "bad_length", b"\xff" * 8 + b"{}")


def config():
    hf = {"architectures": ["MambaForCausalLM"], "model_type": "mamba", "hidden_size": 32,
          "num_hidden_layers": 2, "vocab_size": 257, "state_size": 16, "use_bias": False,
          "time_step_rank": "auto", "eos_token_id": [0], "layer_norm_epsilon": 1e-5}
    put("config", "ok_mamba", json.dumps(hf).encode())
    falcon = dict(hf, architectures=["FalconMambaForCausalLM"], model_type="falcon_mamba",
                  intermediate_size=48, expand=16, mixer_rms_eps=1e-6)
    put("config", "ok_falcon", json.dumps(falcon).encode())
    put("config", "ok_state_spaces", json.dumps(
        {"d_model": 32, "n_layer": 2, "vocab_size": 50277, "ssm_cfg": {"d_state": 8, "expand": 2},
         "rms_norm": True, "pad_vocab_size_multiple": 8}).encode())
    put("config", "bad_llama", b'{"model_type": "llama"}')
    put("config", "bad_huge", json.dumps(dict(hf, hidden_size=1 << 62)).encode())
    put("config", "bad_deep", b'{"a":' * 100)


pth()
bad_pickles()
safetensors()
config()
