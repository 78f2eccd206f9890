#!/usr/bin/env python3
# gpu.py - what bench/gpu.sh needs of Python: the official CUDA kernels and models timed, and the
# table of all rows.
#
#   gpu.py peer PART...          parts: scan ssd conv generate train (all when none is named)
#   gpu.py table KRAIT.jsonl PEER.jsonl   lines of krait bench --json and of `peer`, to Markdown
#
# `peer` needs torch, mamba_ssm and causal_conv1d; it prints a JSON line for each row: {"what",
# "values", "unit"}. Times are of CUDA events (kernels, training) or the host's clock around work
# that ends with a synchronisation (generation).
import json
import statistics
import sys
import time

RUNS = 11
VOCABULARY = 50280
SHAPES = {"130m": (768, 24), "370m": (1024, 48), "1.4b": (2048, 48), "2.8b": (2560, 64),
          "mamba2-130m": (768, 24), "mamba2-1.3b": (2048, 48)}
SCANS = [(8, 2048, 1536), (1, 131072, 1536), (1, 1048576, 1536), (64, 197, 384)]
SSD = (8, 2048, 24, 64, 128)  # batch, tokens, heads, channels of a head, states
SSD_NAME = "bf16 B{} T{} H{} P{} N{}".format(*SSD)


def tell(what, unit, values):
    print(json.dumps({"what": what, "unit": unit, "values": values}), flush=True)


def events(work, runs=RUNS, warm=3, busy=1000000):
    """Milliseconds of each run on the GPU. It is kept busy, for so many cycles, while the run is
    queued, so that no time of the host is in them."""
    import torch
    times = []
    for i in range(warm + runs):
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(busy)
        start.record()
        work()
        end.record()
        end.synchronize()
        if i >= warm:
            times.append(start.elapsed_time(end))
    return times


# ---- kernels -------------------------------------------------------------------------------------

def scan_inputs(batch, tokens, channels, states=16):
    import torch

    def uniform(shape, low, high, dtype=torch.bfloat16):
        return torch.empty(shape, device="cuda", dtype=dtype).uniform_(low, high)
    tall = (batch, channels, tokens)
    return dict(u=uniform(tall, -1, 1), dt=uniform(tall, -2, 2),
                A=uniform((channels, states), -states, -1, torch.float32),
                B=uniform((batch, 1, states, tokens), -1, 1),
                C=uniform((batch, 1, states, tokens), -1, 1),
                D=uniform((channels,), 0, 1, torch.float32), z=uniform(tall, -1, 1),
                bias=uniform((channels,), -5, -2, torch.float32))


def check_scan(inputs, out):
    """The peer's output on a few channels of the first sequence against the recurrence in double:
    what is timed is what was meant."""
    import torch
    rows = slice(0, 8)
    u, dt, z = (inputs[k][0, rows, :256].double() for k in ("u", "dt", "z"))
    A, D, bias = (inputs[k][rows].double() for k in ("A", "D", "bias"))
    B, C = (inputs[k][0, 0, :, :256].double() for k in ("B", "C"))
    dt = torch.nn.functional.softplus(dt + bias[:, None])
    h = torch.zeros_like(A)
    worst = 0
    for t in range(min(256, u.shape[1])):
        h = torch.exp(dt[:, t, None] * A) * h + (dt[:, t] * u[:, t])[:, None] * B[:, t]
        y = (h @ C[:, t] + D * u[:, t]) * torch.nn.functional.silu(z[:, t])
        worst = max(worst, float((y - out[0, rows, t].double()).abs().max()))
    if not worst < 3e-2:
        sys.exit(f"the peer's scan is off by {worst}")


def peer_scan():
    import selective_scan_cuda as kernels
    import torch
    for batch, tokens, channels in SCANS:
        i = scan_inputs(batch, tokens, channels)
        ins = [i[k] for k in ("u", "dt", "A", "B", "C", "D", "z", "bias")]
        out, x, out_z = kernels.fwd(*ins, True)
        check_scan(i, out_z)
        shape = f"bf16 B{batch} T{tokens} E{channels}"
        tell(f"scan {shape}", "ms", events(lambda: kernels.fwd(*ins, True)))
        dout = torch.randn_like(out)
        tell(f"scan_grad {shape}", "ms",
             events(lambda: kernels.bwd(*ins, dout, x, out, None, True, False)))
        del i, ins, out, x, out_z, dout
        torch.cuda.empty_cache()


def check_ssd(x, dt, A, B, C, D, bias, out):
    """As check_scan, of the first head."""
    import torch
    x, dt, out = x[0, :256, 0].double(), dt[0, :256, 0].double() + bias[0].double(), out[0, :256, 0]
    B, C, dt = B[0, :256, 0].double(), C[0, :256, 0].double(), torch.nn.functional.softplus(dt)
    h, y = torch.zeros(x.shape[1], B.shape[1], device=x.device, dtype=torch.float64), []
    for t in range(x.shape[0]):
        h = torch.exp(dt[t] * A[0].double()) * h + torch.outer(dt[t] * x[t], B[t])
        y.append(h @ C[t] + D[0] * x[t])
    y = torch.stack(y)
    worst = float((y - out.double()).abs().max() / y.abs().max())
    if not worst < 1e-2:
        sys.exit(f"the peer's SSD is off by {worst}")


def peer_ssd():
    from mamba_ssm.ops.triton import ssd_combined as kernels
    import torch
    batch, tokens, heads, width, states = SSD

    def uniform(shape, low, high, dtype=torch.bfloat16):
        return torch.empty(shape, device="cuda", dtype=dtype).uniform_(low, high)
    x = uniform((batch, tokens, heads, width), -1, 1)
    dt = uniform((batch, tokens, heads), -2, 2)
    A = uniform((heads,), -16, -1, torch.float32)
    B, C = (uniform((batch, tokens, 1, states), -1, 1) for _ in range(2))
    D, bias = uniform((heads,), 0, 1, torch.float32), uniform((heads,), -5, -2, torch.float32)
    more = dict(D=D, dt_bias=bias, dt_softplus=True)

    def forward():
        return kernels._mamba_chunk_scan_combined_fwd(x, dt, A, B, C, 256, **more)[0]
    out = forward()
    check_ssd(x, dt, A, B, C, D, bias, out)
    dout = torch.randn_like(out)

    def backward():
        kernels._mamba_chunk_scan_combined_bwd(dout, x, dt, A, B, C, out, 256, **more)
    tell(f"scan {SSD_NAME}", "ms", events(forward, busy=20000000))
    tell(f"scan_grad {SSD_NAME}", "ms", events(backward, busy=20000000))


def peer_conv():
    import causal_conv1d_cuda as kernels
    import torch
    batch, tokens, channels = 8, 2048, 1536
    x = torch.randn(batch, channels, tokens, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(channels, 4, device="cuda")
    bias = torch.randn(channels, device="cuda")
    y, dx, dy = torch.empty_like(x), torch.empty_like(x), torch.randn_like(x)
    dweight, dbias = torch.zeros_like(weight), torch.zeros_like(bias)

    def forward():
        kernels.causal_conv1d_fwd(x, weight, bias, None, None, y, None, True)

    def backward():
        kernels.causal_conv1d_bwd(x, weight, bias, dy, None, None, None, dx, dweight, dbias, None,
                                  True)
    forward()
    want = torch.nn.functional.conv1d(torch.nn.functional.pad(x.float(), (3, 0)),
                                      weight[:, None], bias, groups=channels)
    if not (torch.nn.functional.silu(want) - y.float()).abs().max() < 0.1:
        sys.exit("the peer's convolution is off")
    del want
    shape = f"bf16 B{batch} T{tokens} E{channels}"
    tell(f"causal_conv {shape}", "ms", events(forward))
    tell(f"causal_conv_grad {shape}", "ms", events(backward))


# ---- models --------------------------------------------------------------------------------------

def model_of(name, dtype):
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
    width, layers = SHAPES[name]
    layer = {"layer": "Mamba2"} if name.startswith("mamba2") else {}
    config = MambaConfig(d_model=width, n_layer=layers, vocab_size=VOCABULARY, ssm_cfg=layer)
    return MambaLMHeadModel(config, device="cuda", dtype=dtype)


def forget():
    import gc
    import torch
    gc.collect()
    torch.cuda.empty_cache()


def peer_train():
    import torch
    batch, tokens = 8, 2048
    for name in ("130m", "370m", "mamba2-130m"):
        torch.cuda.reset_peak_memory_stats()
        model = model_of(name, torch.float32)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        ids = torch.randint(0, VOCABULARY, (batch, tokens), device="cuda")

        def step():
            with torch.autocast("cuda", dtype=torch.bfloat16):
                logits = model(ids).logits[:, :-1]
                loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY),
                                                         ids[:, 1:].reshape(-1))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        what = f"train {name} B{batch} T{tokens}"
        tell(what, "tok/s", [1e3 * batch * tokens / ms for ms in events(step)])
        tell(what + ", memory", "GiB", [torch.cuda.max_memory_allocated() / 2 ** 30])
        del model, optimiser, step
        forget()


def generation(model, batch, prompt, new=64, runs=10):
    """Tokens a second of runs of `new` greedy steps, the prompts read once before: the loop of
    mamba_ssm.utils.generation.decode with its CUDA graph."""
    import torch
    from mamba_ssm.utils.generation import sample
    ids = torch.randint(0, VOCABULARY, (batch, prompt), device="cuda")
    model.generate(input_ids=ids, max_length=prompt + 2, top_k=1, cg=True)  # captures the graph
    cache = model._decoding_cache
    at, rates = prompt + 2, []
    token = ids[:, -1:]
    with torch.inference_mode():
        for i in range(2 + runs):
            torch.cuda.synchronize()
            start = time.monotonic()
            for _ in range(new):
                place = torch.full((batch, 1), at, dtype=torch.long, device="cuda")
                logits = cache.run(token, place, at).squeeze(dim=1)
                token = sample(logits, top_k=1).unsqueeze(1)
                at += 1
            torch.cuda.synchronize()
            rates.append(batch * new / (time.monotonic() - start))
    return rates[2:]


def prefill(model, batch, tokens):
    import torch
    ids = torch.randint(0, VOCABULARY, (batch, tokens), device="cuda")
    with torch.inference_mode():
        return events(lambda: model(ids, num_last_tokens=1), runs=10, warm=2)


def peer_generate():
    import torch
    for name in ("130m", "1.4b", "2.8b", "mamba2-1.3b"):
        model = model_of(name, torch.bfloat16)
        tell(f"decode {name} b1", "tok/s", generation(model, 1, 16))
        if name == "mamba2-1.3b":
            tell(f"decode {name} b128", "tok/s", generation(model, 128, 128))
        if name == "1.4b":
            tell(f"decode {name} b128", "tok/s", generation(model, 128, 2048))
            model._decoding_cache = None
            forget()
            tell(f"prefill {name} 64 x 2048", "ms", prefill(model, 64, 2048))
        del model
        forget()


# ---- the table -----------------------------------------------------------------------------------

# What the issue asks for: row, what it is called in words, unit, target, floor.
ROWS = [
    ("scan bf16 B8 T2048 E1536", "scan forward, B 8, T 2048, E 1536, N 16", "ms", 0.20,
     "0.11 (exponentials), 0.07 (bytes)"),
    ("scan_grad bf16 B8 T2048 E1536", "scan backward, same", "ms", 0.65, "0.13 (bytes)"),
    ("scan bf16 B1 T131072 E1536", "scan forward, B 1, T 131,072", "ms", 1.6, "0.87"),
    ("scan_grad bf16 B1 T131072 E1536", "scan backward, same", "ms", 5.0, ""),
    ("scan bf16 B1 T1048576 E1536", "scan forward, B 1, T 1,048,576", "ms", 12, "7.0"),
    ("scan_grad bf16 B1 T1048576 E1536", "scan backward, same", "ms", 38, ""),
    ("scan bf16 B64 T197 E384", "scan forward, B 64, T 197, E 384", "ms", 0.06, ""),
    ("scan_grad bf16 B64 T197 E384", "scan backward, same", "ms", 0.2, ""),
    ("causal_conv bf16 B8 T2048 E1536", "convolution forward, B 8, T 2048", "ms", 0.05, "0.034"),
    ("causal_conv_grad bf16 B8 T2048 E1536", "convolution backward, same", "ms", 0.10, "0.05"),
    ("train 130m B8 T2048", "training step, 130M, B 8, T 2048", "tok/s", 400e3,
     "16 ms of products a step"),
    ("train 130m B8 T2048, memory", "its memory", "GiB", 8, ""),
    ("train 370m B8 T2048", "training step, 370M, same", "tok/s", 170e3, "46 ms of products"),
    ("train 370m B8 T2048, memory", "its memory", "GiB", 16, ""),
    (f"scan {SSD_NAME}", "SSD forward, B 8, T 2048, 24 heads of 64, N 128", "ms", None,
     "0.037 (bytes), 0.02 (products)"),
    (f"scan_grad {SSD_NAME}", "SSD backward, same", "ms", None,
     "0.057 (bytes), 0.05 (products)"),
    ("train mamba2-130m B8 T2048", "training step, Mamba-2 130M, B 8, T 2048", "tok/s", 306e3,
     "18 ms of products a step"),
    ("train mamba2-130m B8 T2048, memory", "its memory", "GiB", None, ""),
    ("decode 130m b1", "decode 130M, batch 1", "tok/s", 4000, ""),
    ("decode 1.4b b1", "decode 1.4B, batch 1", "tok/s", 850, "1,070"),
    ("decode 2.8b b1", "decode 2.8B, batch 1", "tok/s", 450, "540"),
    ("decode 1.4b b128", "decode 1.4B, batch 128, after 2,048 tokens each", "tok/s", 50e3, ""),
    ("prefill 1.4b 64 x 2048", "prefill 1.4B, 64 x 2,048 tokens", "ms", 650, "460"),
    ("decode mamba2-1.3b b1", "decode, Mamba-2 1.3B, batch 1", "tok/s", 850, "1,020"),
    ("decode mamba2-1.3b b128", "decode, Mamba-2 1.3B, batch 128", "tok/s", 39600, "12,760"),
    ("decode mamba2-1.3b b128, bf16 states", "same, states in bf16, as the peer's are", "tok/s",
     39600, "23,500"),
]


def read(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.startswith("{")]


def krait_values(rows):
    """what -> (median, lowest, highest) in the unit of ROWS."""
    found = {}
    for r in rows:
        name, model = r["name"], r["model"]
        span = [r["median"], r["minimum"], r["maximum"]]
        if r.get("ms"):  # a kernel: rates fall as times rise
            found[name] = [r["ms"], r["ms"] * span[0] / span[2], r["ms"] * span[0] / span[1]]
        elif name.startswith("train step "):
            found[f"train {model} {name[11:]}"] = span
        elif name == "train: peak memory":
            found[f"train {model} B8 T2048, memory"] = [x / 1024 for x in span]
        elif name.startswith("decode "):
            found[f"decode {model} {name[7:]}"] = span
        elif name.startswith("prefill ") and " x " in name:
            size, states = name[8:].split(" tokens")  # states: "", ", bf16 states"
            lanes, tokens = (int(x) for x in size.split(" x "))
            ms = [1e3 * lanes * tokens / x for x in span]
            found[f"prefill {model} {size}{states}"] = [ms[0], ms[2], ms[1]]
    return found


def number(x):
    if x >= 1000:
        return f"{x:,.0f}"
    return f"{x:.3g}"


def main_table(krait, peer):
    print("| what | unit | Krait | its range | peer | ratio | target | floor |")
    print("|---|---|---|---|---|---|---|---|")
    for key, words, unit, target, floor in ROWS:
        mine, theirs = krait.get(key), peer.get(key.removesuffix(", bf16 states"))
        less = unit in ("ms", "GiB")
        cells = [words, unit, "not measured", "", "", "", "", floor]
        if mine:
            cells[2] = number(mine[0])
            cells[3] = f"{number(mine[1])} .. {number(mine[2])}"
        if theirs:
            cells[4] = number(theirs)
        if mine and theirs:
            cells[5] = f"{theirs / mine[0] if less else mine[0] / theirs:.2f}"
        if target:
            met = mine and (mine[0] <= target if less else mine[0] >= target)
            sign = "<=" if less else ">="
            verdict = "" if not mine else " reached" if met else " missed"
            cells[6] = f"{sign} {number(target)}{verdict}"
        print("| " + " | ".join(cells) + " |")


def kernel_table(rows):
    print("| kernel | ms | rate | of the ceiling | bytes and operations: both rates |")
    print("|---|---|---|---|---|")
    for r in rows:
        if not r.get("ms"):
            continue
        share = f"{100 * r['median'] / r['ceiling']:.0f}%" if r.get("ceiling") else ""
        print(f"| {r['name']} | {r['ms']:.4f} | {number(r['median'])} {r['unit']} | {share} | "
              f"{r.get('note', '')} |")


def table(krait_path, peer_path):
    rows, peers = read(krait_path), read(peer_path)
    print("- peers: " + "".join(r["versions"] for r in peers if "versions" in r) + "\n")
    peer = {r["what"]: statistics.median(r["values"]) for r in peers if "what" in r}
    main_table(krait_values(rows), peer)
    print("\nThe card, measured: ", end="")
    seen = {r["name"]: r for r in rows if r["name"] == "copy" or r["name"].startswith("matrix pro")}
    print("; ".join(f"{n} {number(r['median'])} {r['unit']}" for n, r in seen.items()) + ".\n")
    kernel_table(rows)


def versions():
    import causal_conv1d
    import mamba_ssm
    import torch
    import triton
    return (f"mamba-ssm {mamba_ssm.__version__}, causal-conv1d {causal_conv1d.__version__}, "
            f"PyTorch {torch.__version__}, Triton {triton.__version__}")


def main(args):
    parts = {"scan": peer_scan, "ssd": peer_ssd, "conv": peer_conv, "generate": peer_generate,
             "train": peer_train}
    if args[:1] == ["peer"] and all(a in parts for a in args[1:]):
        print(json.dumps({"versions": versions()}), flush=True)
        for part in args[1:] or parts:
            try:
                parts[part]()
            except Exception as error:  # the rows of the other parts are wanted all the same
                print(f"peer {part}: {error!r}", file=sys.stderr)
            forget()
    elif args[:1] == ["table"] and len(args) == 3:
        table(args[1], args[2])
    else:
        sys.exit("usage: gpu.py peer|table ...; the file's first lines say how")


if __name__ == "__main__":
    main(sys.argv[1:])
