"""Weights from a local folder of `transformers`, as our GPT: GPT-2, fairseq's dense GPT, and what export.py wrote.

Read as plain files: neither `transformers` nor any code of the folder is needed or run. Fairseq's dense models (125M, 355M,
1.3B, 2.7B, ...) are `transformers`' XGLM class: sinusoidal positions, an embedding scaled by sqrt(d_model), the exact GELU.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from momentum_gpt.core.config import ModelConfig
from momentum_gpt.core.errors import UserError

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
"""`transformers`' names -> ours."""

FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where the weights may be, the safe format first."""

Weights = dict[str, Tensor]


class Pretrained(NamedTuple):
    """What our GPT is made of."""

    config: ModelConfig
    attention: dict[str, Any]
    document_end: int | None
    weights: Weights
    """Under our names."""


def is_pretrained(folder: Path) -> bool:
    """Whether the folder is one of `transformers`: its config.json names a model_type, which ours does not."""
    try:
        return "model_type" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False


def read_pretrained_config(folder: Path) -> ModelConfig:
    """The shape of the folder's model.

    Raises:
        UserError: another architecture, or an option of it that our GPT does not have.
    """
    config = json.loads((folder / "config.json").read_text())
    kind = config["model_type"]
    if kind not in READERS:
        raise UserError(
            f"{folder} holds a model of type {kind!r}: only {', '.join(READERS)} can be loaded"
        )
    return READERS[kind][0](config, folder)


def read_pretrained(folder: Path) -> Pretrained:
    """The folder's model.

    Raises:
        UserError: see `read_pretrained_config`; or the weights are missing, or not those of that shape.
    """
    config = read_pretrained_config(folder)
    about = json.loads((folder / "config.json").read_text())
    kind = about["model_type"]
    attention = about["attention"] if kind == OWN else {"name": "vanilla"}
    theirs = {
        name.removeprefix("transformer.").removeprefix("model."): tensor
        for name, tensor in _tensors(folder)
    }
    try:
        weights = READERS[kind][1](theirs, config)
    except KeyError as missing:
        raise UserError(
            f"{folder} has no tensor {missing}: its weights are not those of a {kind} model"
        ) from None
    return Pretrained(config, attention, about.get("document_end"), weights)


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the folder, of one file or of several that an index names."""
    found = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"{folder} has no weights: it needs one of {', '.join(FILES)}")
    files = [found]
    if found.suffix == ".json":
        files = [
            folder / name
            for name in sorted(set(json.loads(found.read_text())["weight_map"].values()))
        ]
    for file in files:
        read = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
        yield from read.items()


def _gpt2_config(config: dict[str, Any], folder: Path) -> ModelConfig:
    d_model = config["n_embd"]
    _refuse_unlike(
        folder,
        config,
        {
            "n_inner": (None, 4 * d_model),
            "layer_norm_epsilon": (1e-5,),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "tie_word_embeddings": (True,),
            "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu"),
        },
    )
    return ModelConfig(
        n_layers=config["n_layer"],
        n_heads=config["n_head"],
        d_model=d_model,
        seq_len=config["n_positions"],
        vocab_size=config["vocab_size"],
        positions="learned",
        init_std=config.get("initializer_range", 0.02),
        activation=ACTIVATIONS[config.get("activation_function", "gelu_new")],
    )


def _gpt2_weights(theirs: Weights, config: ModelConfig) -> Weights:
    """GPT-2's Conv1D keeps its matrices as (in, out), torch's Linear as (out, in); q, k and v are joined in both."""
    ours = {
        "token_embedding.weight": theirs["wte.weight"],
        "position_embedding.weight": theirs["wpe.weight"],
    }
    modules = {
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attention.qkv": "attn.c_attn",
        "attention.out": "attn.c_proj",
    }
    modules |= {"mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
    for layer in range(config.n_layers):
        for mine, its in modules.items():
            weight = theirs[f"h.{layer}.{its}.weight"]
            ours[f"blocks.{layer}.{mine}.weight"] = weight.T if ".c_" in its else weight
            ours[f"blocks.{layer}.{mine}.bias"] = theirs[f"h.{layer}.{its}.bias"]
    return ours | {f"norm.{kind}": theirs[f"ln_f.{kind}"] for kind in ("weight", "bias")}


def _xglm_config(config: dict[str, Any], folder: Path) -> ModelConfig:
    d_model = config["d_model"]
    _refuse_unlike(
        folder,
        config,
        {
            "ffn_dim": (4 * d_model,),
            "tie_word_embeddings": (True,),
            "activation_function": ("gelu", "gelu_new", "gelu_pytorch_tanh"),
        },
    )
    return ModelConfig(
        n_layers=config["num_layers"],
        n_heads=config["attention_heads"],
        d_model=d_model,
        seq_len=config["max_position_embeddings"],
        vocab_size=config["vocab_size"],
        positions="sinusoidal",
        activation=ACTIVATIONS[config.get("activation_function", "gelu")],
        scale_embedding=config.get("scale_embedding", True),
    )


def _xglm_weights(theirs: Weights, config: ModelConfig) -> Weights:
    ours = {"token_embedding.weight": theirs["embed_tokens.weight"]}
    modules = {
        "norm1": "self_attn_layer_norm",
        "norm2": "final_layer_norm",
        "attention.out": "self_attn.out_proj",
    }
    modules |= {"mlp.up": "fc1", "mlp.down": "fc2"}
    for layer in range(config.n_layers):
        for kind in ("weight", "bias"):
            its = f"layers.{layer}."
            qkv = [theirs[f"{its}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            ours[f"blocks.{layer}.attention.qkv.{kind}"] = torch.cat(qkv)  # (3 C, C), (3 C,)
            ours |= {
                f"blocks.{layer}.{mine}.{kind}": theirs[f"{its}{name}.{kind}"]
                for mine, name in modules.items()
            }
    return ours | {f"norm.{kind}": theirs[f"layer_norm.{kind}"] for kind in ("weight", "bias")}


def _own_config(config: dict[str, Any], folder: Path) -> ModelConfig:
    shape = {
        field.name: config[field.name] for field in fields(ModelConfig) if field.name != "init_std"
    }
    return ModelConfig(**shape, init_std=config["initializer_range"])


def _own_weights(theirs: Weights, config: ModelConfig) -> Weights:
    return theirs


def _refuse_unlike(
    folder: Path, config: dict[str, Any], allowed: dict[str, tuple[Any, ...]]
) -> None:
    """An option that is not in the file has `transformers`' default, which is among the allowed ones."""
    for option, values in allowed.items():
        if option in config and config[option] not in values:
            raise UserError(
                f"{folder / 'config.json'} has {option}={config[option]!r}, which our GPT cannot be: it must be "
                f"{' or '.join(map(repr, values))}"
            )


OWN = "momentum_gpt"
"""model_type of an export that is no GPT-2."""

READERS = {
    "gpt2": (_gpt2_config, _gpt2_weights),
    "xglm": (_xglm_config, _xglm_weights),
    OWN: (_own_config, _own_weights),
}
"""model_type -> what reads its config, and what reads its weights."""
