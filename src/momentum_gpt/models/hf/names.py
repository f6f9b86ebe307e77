"""The names of `transformers` for what our GPT has, used for reading and for writing."""

from __future__ import annotations

from collections.abc import Iterator

OWN = "momentum_gpt"
"""The model_type of an export that is not a GPT-2."""

GPT2 = "gpt2"
"""The model_type of GPT-2."""

GPT2_MODULES = {
    "token_embedding": "wte",
    "position_embedding": "wpe",
    "norm": "ln_f",
}
"""Our name -> GPT-2's, for the modules outside the blocks."""

GPT2_BLOCK_MODULES = {
    "norm1": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "norm2": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
"""Our name -> GPT-2's, for the modules of a block."""

XGLM_MODULES = {
    "token_embedding": "embed_tokens",
    "norm": "layer_norm",
}

XGLM_BLOCK_MODULES = {
    "norm1": "self_attn_layer_norm",
    "attention.out": "self_attn.out_proj",
    "norm2": "final_layer_norm",
    "mlp.up": "fc1",
    "mlp.down": "fc2",
}
"""XGLM's q, k and v are three modules, where ours is one; hf/read.py joins them."""


def gpt2_modules(n_layers: int) -> Iterator[tuple[str, str]]:
    """Yield our name and GPT-2's name of every module with parameters."""
    yield from GPT2_MODULES.items()
    for layer in range(n_layers):
        for our_name, gpt2_name in GPT2_BLOCK_MODULES.items():
            yield f"blocks.{layer}.{our_name}", f"h.{layer}.{gpt2_name}"


def xglm_modules(n_layers: int) -> Iterator[tuple[str, str]]:
    """Yield our name and XGLM's name of every module with parameters, except q, k and v."""
    yield from XGLM_MODULES.items()
    for layer in range(n_layers):
        for our_name, xglm_name in XGLM_BLOCK_MODULES.items():
            yield f"blocks.{layer}.{our_name}", f"layers.{layer}.{xglm_name}"


def is_transposed(gpt2_name: str) -> bool:
    """Return whether GPT-2 keeps the module's matrix as (in, out), where torch has (out, in)."""
    return ".c_" in gpt2_name


def has_bias(module: str) -> bool:
    """Return whether one of our modules has a bias beside its weight."""
    return not module.endswith("embedding")
