# fixtures.py - what the scripts make_*_fixtures.py share: tiny random models on fixed token ids,
# the logits, loss and gradients that tests compare with (expected.safetensors), and the folder
# that the original implementation (state-spaces) publishes a model as.
import json
import math
import pathlib
import shutil

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
BATCH, LENGTH = 2, 13


def fresh(name):
    folder = DATA / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def token_ids(vocabulary, seed):
    gen = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (BATCH, LENGTH), generator=gen)


def randomise(named, seed, own):
    """Draws every parameter so that each has a gradient worth comparing: the libraries' own initial
    values hide mistakes (A equal in all channels, D and norms one, biases zero). own(name, noise)
    gives those that are drawn in a way of the model's, else None."""
    gen = torch.Generator().manual_seed(seed)
    for name, p in named:
        noise = torch.randn(p.shape, generator=gen)
        value = own(name, noise)
        if value is None and (name.endswith(".D") or "norm" in name):
            value = 1 + 0.3 * noise
        elif value is None and p.dim() == 1:
            value = 0.3 * noise
        elif value is None and "embedding" in name:
            value = 0.5 * noise
        elif value is None:
            value = noise / math.sqrt(p[0].numel())
        with torch.no_grad():
            p.copy_(value)


def save_expected(model, ids, folder):
    """Logits [B,T,V], the mean next-token loss, and its gradient for every parameter."""
    model.eval()
    logits = model(ids, use_cache=False).logits
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    out = {"ids": ids.to(torch.int32), "logits": logits.detach().float(),
           "loss": loss.detach().float().reshape(1)}
    for name, p in model.named_parameters():
        out["grad." + name] = p.grad.detach().float()
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "expected.safetensors")


def save_state_spaces(model, folder, config):
    """A folder as the original implementation publishes it: its own names, and a tied head that is
    stored all the same."""
    tensors = {k.replace("embeddings", "embedding"): v.detach().float().clone()
               for k, v in model.named_parameters()}
    tensors.setdefault("lm_head.weight", tensors["backbone.embedding.weight"])
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(config))


def state_spaces_config(d, layers, used, ssm, mlp=0):
    return {"d_model": d, "d_intermediate": mlp, "n_layer": layers, "vocab_size": used,
            "ssm_cfg": ssm, "attn_layer_idx": [], "attn_cfg": {}, "rms_norm": True,
            "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 16,
            "tie_embeddings": True}


class Original(torch.nn.Module):
    """The original model around a block of formulas: a subclass has declare(prefix, width), which
    adds the parameters of a layer's mixer, and mixer(a, prefix). Parameters by published names.
    mlp: the width of the gated MLP behind each mixer, which is rounded up; 0: none."""

    def __init__(self, vocabulary, width, layers, mlp=0):
        super().__init__()
        self.layers, self.mlp, self.names = layers, mlp, {}
        self.add("backbone.embeddings.weight", vocabulary, width)
        for i in range(layers):
            self.add(f"backbone.layers.{i}.norm.weight", width)
            self.declare(f"backbone.layers.{i}.mixer.", width)
            if mlp:
                inner = (mlp + 127) // 128 * 128
                self.add(f"backbone.layers.{i}.norm2.weight", width)
                self.add(f"backbone.layers.{i}.mlp.fc1.weight", 2 * inner, width)
                self.add(f"backbone.layers.{i}.mlp.fc2.weight", width, inner)
        self.add("backbone.norm_f.weight", width)

    def add(self, name, *shape):
        self.names[name] = torch.nn.Parameter(torch.zeros(shape))
        self.register_parameter(name.replace(".", "/"), self.names[name])

    def named_parameters(self):
        return list(self.names.items())

    def rms(self, x, groups=1, eps=1e-5):
        g = x.unflatten(-1, (groups, -1))
        return (g * torch.rsqrt(g.pow(2).mean(-1, keepdim=True) + eps)).flatten(-2)

    def forward(self, ids, use_cache=False):
        n = self.names
        res = n["backbone.embeddings.weight"][ids]
        for i in range(self.layers):
            layer = f"backbone.layers.{i}."
            res = res + self.mixer(self.rms(res) * n[layer + "norm.weight"], layer + "mixer.")
            if self.mlp:
                a = self.rms(res) * n[layer + "norm2.weight"]
                y, gate = (a @ n[layer + "mlp.fc1.weight"].T).chunk(2, -1)
                res = res + (y * F.silu(gate)) @ n[layer + "mlp.fc2.weight"].T
        out = self.rms(res) * n["backbone.norm_f.weight"]
        self.logits = out @ n["backbone.embeddings.weight"].T
        return self
