#!/usr/bin/env python3
# peers.py - what bench/peers.sh needs of Python: a random Mamba-130M as GGUF, PyTorch's training
# step timed, and the table of all rows.
#
#   peers.py gguf FILE f32|f16|bf16     needs numpy and llama.cpp's gguf-py (on PYTHONPATH)
#   peers.py train BATCH TOKENS RUNS [checkpoint]        needs torch and transformers
#   peers.py table ROWS.jsonl           rows {"what", "who", "values": [...], "unit"} -> Markdown
import json
import resource
import statistics
import sys
import time

WIDTH, LAYERS, INNER, STATE, KERNEL, RANK, VOCABULARY = 768, 24, 1536, 16, 4, 48, 50280


def write_gguf(path, kind):
    """The tensors of mamba-130m with random values: speed does not depend on them."""
    import gguf
    import numpy as np
    rng = np.random.default_rng(1)
    w = gguf.GGUFWriter(path, "mamba")
    w.add_context_length(2 ** 20)
    w.add_embedding_length(WIDTH)
    w.add_feed_forward_length(0)
    w.add_head_count(0)
    w.add_block_count(LAYERS)
    w.add_ssm_conv_kernel(KERNEL)
    w.add_ssm_inner_size(INNER)
    w.add_ssm_state_size(STATE)
    w.add_ssm_time_step_rank(RANK)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(VOCABULARY)
    w.add_tokenizer_model("none")

    def matrix(name, rows, columns):
        values = (rng.standard_normal((rows, columns), dtype=np.float32) / columns ** 0.5)
        if kind == "f16":
            w.add_tensor(name, values.astype(np.float16))
        elif kind == "bf16":
            w.add_tensor(name, gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16),
                         raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            w.add_tensor(name, values)

    def plain(name, *shape, scale=1.0):
        w.add_tensor(name, scale * np.ones(shape, dtype=np.float32))

    matrix("token_embd.weight", VOCABULARY, WIDTH)
    plain("output_norm.weight", WIDTH)
    for i in range(LAYERS):
        p = f"blk.{i}."
        plain(p + "attn_norm.weight", WIDTH)
        matrix(p + "ssm_in.weight", 2 * INNER, WIDTH)
        plain(p + "ssm_conv1d.weight", INNER, KERNEL, scale=0.25)
        plain(p + "ssm_conv1d.bias", INNER, scale=0.0)
        matrix(p + "ssm_x.weight", RANK + 2 * STATE, INNER)
        matrix(p + "ssm_dt.weight", INNER, RANK)
        plain(p + "ssm_dt.bias", INNER, scale=-4.0)
        w.add_tensor(p + "ssm_a", np.tile(-np.arange(1, STATE + 1, dtype=np.float32), (INNER, 1)))
        plain(p + "ssm_d", INNER)
        matrix(p + "ssm_out.weight", WIDTH, INNER)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def time_training(batch, tokens, runs, checkpoint):
    """Forward, backward and AdamW of transformers' Mamba in fp32, its plain path (there are no CPU
    kernels). One JSON line: tokens a second of each run, and the peak resident size."""
    import torch
    from transformers import MambaConfig, MambaForCausalLM
    torch.manual_seed(1)
    model = MambaForCausalLM(MambaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, state_size=STATE,
        conv_kernel=KERNEL, time_step_rank=RANK, use_bias=False))
    model.train()
    if checkpoint:
        model.gradient_checkpointing_enable()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(0, VOCABULARY, (batch, tokens))
    rates = []
    for i in range(runs + 1):
        start = time.monotonic()
        loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if i:  # the first one warms up
            rates.append(batch * tokens / (time.monotonic() - start))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20
    print(json.dumps({"values": rates, "peak_gib": peak, "threads": torch.get_num_threads()}))


def print_table(path):
    """One line a row: who, median, range, and the ratio of krait's median to the peer's."""
    rows = [json.loads(line) for line in open(path, encoding="utf-8") if line.strip()]
    krait = {r["what"]: r for r in rows if r["who"] == "krait"}
    print("| what | who | median | range | unit | krait / peer |")
    print("|---|---|---|---|---|---|")
    for r in sorted(rows, key=lambda r: (r["what"], r["who"] != "krait")):
        values = sorted(r["values"])
        ratio = ""
        if r["who"] != "krait" and r["what"] in krait:
            mine = statistics.median(krait[r["what"]]["values"])
            ratio = f"{mine / statistics.median(values):.2f}"
        print(f"| {r['what']} | {r['who']} | {statistics.median(values):.4g} | "
              f"{values[0]:.4g} .. {values[-1]:.4g} | {r['unit']} | {ratio} |")


def main(args):
    if args[:1] == ["gguf"] and len(args) == 3:
        write_gguf(args[1], args[2])
    elif args[:1] == ["train"] and len(args) >= 4:
        time_training(int(args[1]), int(args[2]), int(args[3]), "checkpoint" in args[4:])
    elif args[:1] == ["table"] and len(args) == 2:
        print_table(args[1])
    else:
        sys.exit(__doc__ or "usage: peers.py gguf|train|table ...; the file's first lines say how")


if __name__ == "__main__":
    main(sys.argv[1:])
