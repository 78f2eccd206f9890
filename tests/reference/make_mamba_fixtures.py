#!/usr/bin/env python3
# make_mamba_fixtures.py - writes tests/data/mamba_*: tiny random models as the transformers library
# saves them, each with the logits, loss and gradients that library computes (expected.safetensors).
#
# The files are committed, and mamba_reference_test.c compares against them; run this only to make
# them anew. Needs: pip install torch transformers safetensors. It uses the library's plain path
# (no fused kernels), in fp32.
import torch
from transformers import (FalconMambaConfig, FalconMambaForCausalLM, MambaConfig,
                          MambaForCausalLM)

import fixtures


def own_values(name, noise):
    if name.endswith("A_log"):
        return torch.log(torch.arange(1, noise.shape[1] + 1).float()) + 0.3 * noise
    if name.endswith("dt_proj.bias"):
        return noise - 2.0
    return None


def hugging_face(name, model, seed, **how):
    """A folder as save_pretrained leaves it."""
    folder = fixtures.fresh(name)
    fixtures.randomise(model.named_parameters(), seed, own_values)
    model.save_pretrained(folder, **how)
    (folder / "generation_config.json").unlink(missing_ok=True)
    fixtures.save_expected(model, fixtures.token_ids(model.config.vocab_size, seed), folder)


def state_spaces(name, seed):
    """A folder as the official implementation publishes it, with a vocabulary that config.json
    gives without its padding."""
    folder = fixtures.fresh(name)
    width, layers, used, padded = 12, 2, 29, 32
    model = MambaForCausalLM(MambaConfig(
        vocab_size=padded, hidden_size=width, num_hidden_layers=layers, state_size=6,
        conv_kernel=4, time_step_rank=2, use_bias=False))
    fixtures.randomise(model.named_parameters(), seed, own_values)
    config = {"d_model": width, "n_layer": layers, "vocab_size": used,
              "ssm_cfg": {"d_state": 6, "dt_rank": 2}, "rms_norm": True,
              "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8}
    fixtures.save_state_spaces(model, folder, config)
    fixtures.save_expected(model, fixtures.token_ids(used, seed), folder)


def main():
    hugging_face("mamba_odd", MambaForCausalLM(MambaConfig(
        vocab_size=61, hidden_size=20, num_hidden_layers=3, state_size=5, conv_kernel=3,
        time_step_rank=3, use_bias=False)), 1)
    hugging_face("mamba_bias", MambaForCausalLM(MambaConfig(
        vocab_size=37, hidden_size=18, num_hidden_layers=2, state_size=16, conv_kernel=4,
        use_bias=True, use_conv_bias=False, layer_norm_epsilon=1e-3, expand=3,
        tie_word_embeddings=False)), 2)
    hugging_face("mamba_falcon", FalconMambaForCausalLM(FalconMambaConfig(
        vocab_size=41, hidden_size=16, num_hidden_layers=2, state_size=7, conv_kernel=4,
        time_step_rank=5, expand=16, intermediate_size=24, mixer_rms_eps=1e-2, use_bias=False,
        tie_word_embeddings=False)), 3, max_shard_size="12KB")
    state_spaces("mamba_statespaces", 4)


if __name__ == "__main__":
    main()
