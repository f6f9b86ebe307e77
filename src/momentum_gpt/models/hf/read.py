"""Read weights from a local folder of `transformers`: GPT-2, XGLM, and exports of this project.

The folder is read as plain files: `transformers` is not needed, and no code of the folder is run.
Fairseq's dense models (125M, 355M, 1.3B, 2.7B, ...) have the XGLM class of `transformers`:
sinusoidal positions, an embedding scaled by sqrt(d_model), and the exact GELU.

Shapes: C width of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from momentum_gpt.core.config import ModelConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import read_json
from momentum_gpt.core.untrusted import plain_name
from momentum_gpt.models.hf.names import (
    GPT2,
    OWN,
    gpt2_modules,
    has_bias,
    is_transposed,
    xglm_modules,
)

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
"""The name in `transformers` -> ours."""

FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where the weights may be, the safe format first."""

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Pretrained:
    """What a GPT of ours needs to become the model of the folder."""

    config: ModelConfig
    attention: dict[str, Any]
    document_end: int | None
    weights: Weights
    """By our names."""


@dataclass(frozen=True)
class Reader:
    """How models of one model_type are read."""

    config: Callable[[dict[str, Any], Path], ModelConfig]
    """Called with the content of config.json and the folder, for messages."""
    weights: Callable[[Weights, ModelConfig], Weights]
    """Called with the tensors by their name in the file, without the prefix of the class."""


def is_pretrained(folder: Path) -> bool:
    """Return whether the folder is one of `transformers`: its config.json names a model_type."""
    try:
        content = read_json(folder / "config.json")
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "model_type" in content


def read_pretrained_config(folder: Path) -> ModelConfig:
    """Return the shape of the model in a folder of `transformers`.

    Raises:
        UserError: the architecture is another, or has an option that our GPT does not have.
    """
    content = read_json(folder / "config.json")
    return _reader_of(content["model_type"], folder).config(content, folder)


def read_pretrained(folder: Path) -> Pretrained:
    """Return the model in a folder of `transformers`.

    Raises:
        UserError: see `read_pretrained_config`; or the weights are missing or do not fit.
    """
    content = read_json(folder / "config.json")
    model_type = content["model_type"]
    reader = _reader_of(model_type, folder)
    config = reader.config(content, folder)
    attention = content["attention"] if model_type == OWN else {"name": "vanilla"}

    source = {}
    for name, tensor in _tensors(folder):
        source[name.removeprefix("transformer.").removeprefix("model.")] = tensor
    try:
        weights = reader.weights(source, config)
    except KeyError as missing:
        raise UserError(
            f"{folder} has no tensor {missing}: its weights are not those of a {model_type} model"
        ) from None
    return Pretrained(config, attention, content.get("document_end"), weights)


def _reader_of(model_type: str, folder: Path) -> Reader:
    if model_type not in READERS:
        loadable = ", ".join(READERS)
        raise UserError(
            f"{folder} holds a model of type {model_type!r}: only {loadable} can be loaded"
        )
    return READERS[model_type]


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of the folder by name, from one file or from several named by an index."""
    found = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"{folder} has no weights: it needs one of {', '.join(FILES)}")

    files = [found]
    if found.suffix == ".json":
        names = {plain_name(name) for name in read_json(found)["weight_map"].values()}
        files = [folder / name for name in sorted(names)]

    for file in files:
        if file.suffix == ".safetensors":
            tensors = load_file(file)
        else:
            # weights_only: a pickle could otherwise run code.
            tensors = torch.load(file, map_location="cpu", weights_only=True)
        if not all(isinstance(tensor, Tensor) for tensor in dict(tensors).values()):
            raise TypeError(f"{file} holds something else than tensors by name")
        yield from tensors.items()


def _gpt2_config(content: dict[str, Any], folder: Path) -> ModelConfig:
    d_model = content["n_embd"]
    supported = {
        "n_inner": (None, 4 * d_model),
        "layer_norm_epsilon": (1e-5,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "tie_word_embeddings": (True,),
        "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu"),
    }
    _require_supported(folder, content, supported)
    return ModelConfig(
        n_layers=content["n_layer"],
        n_heads=content["n_head"],
        d_model=d_model,
        seq_len=content["n_positions"],
        vocab_size=content["vocab_size"],
        positions="learned",
        init_std=content.get("initializer_range", 0.02),
        activation=ACTIVATIONS[content.get("activation_function", "gelu_new")],
    )


def _gpt2_weights(source: Weights, config: ModelConfig) -> Weights:
    weights = {}
    for module, gpt2_name in gpt2_modules(config.n_layers):
        weight = source[f"{gpt2_name}.weight"]
        weights[f"{module}.weight"] = weight.T if is_transposed(gpt2_name) else weight
        if has_bias(module):
            weights[f"{module}.bias"] = source[f"{gpt2_name}.bias"]
    return weights


def _xglm_config(content: dict[str, Any], folder: Path) -> ModelConfig:
    d_model = content["d_model"]
    supported = {
        "ffn_dim": (4 * d_model,),
        "tie_word_embeddings": (True,),
        "activation_function": ("gelu", "gelu_new", "gelu_pytorch_tanh"),
    }
    _require_supported(folder, content, supported)
    return ModelConfig(
        n_layers=content["num_layers"],
        n_heads=content["attention_heads"],
        d_model=d_model,
        seq_len=content["max_position_embeddings"],
        vocab_size=content["vocab_size"],
        positions="sinusoidal",
        activation=ACTIVATIONS[content.get("activation_function", "gelu")],
        scale_embedding=content.get("scale_embedding", True),
    )


def _xglm_weights(source: Weights, config: ModelConfig) -> Weights:
    weights = {}
    for module, xglm_name in xglm_modules(config.n_layers):
        weights[f"{module}.weight"] = source[f"{xglm_name}.weight"]
        if has_bias(module):
            weights[f"{module}.bias"] = source[f"{xglm_name}.bias"]

    for layer in range(config.n_layers):
        attention = f"layers.{layer}.self_attn"
        for kind in ("weight", "bias"):
            parts = [source[f"{attention}.{part}_proj.{kind}"] for part in "qkv"]
            weights[f"blocks.{layer}.attention.qkv.{kind}"] = torch.cat(parts)  # (3 C, C), (3 C,)
    return weights


def _own_config(content: dict[str, Any], folder: Path) -> ModelConfig:
    # `transformers` has a name of its own for init_std; all other options keep ours.
    options = [field.name for field in fields(ModelConfig) if field.name != "init_std"]
    shape = {option: content[option] for option in options}
    return ModelConfig(**shape, init_std=content["initializer_range"])


def _own_weights(source: Weights, config: ModelConfig) -> Weights:
    return source


def _require_supported(
    folder: Path, content: dict[str, Any], supported: dict[str, tuple[Any, ...]]
) -> None:
    """Raise a UserError if an option has a value that our GPT does not have.

    An option that is not in the file has the default of `transformers`, which is supported.
    """
    for option, values in supported.items():
        if option in content and content[option] not in values:
            allowed = " or ".join(map(repr, values))
            raise UserError(
                f"{folder / 'config.json'} has {option}={content[option]!r}, "
                f"which our GPT does not support: it must be {allowed}"
            )


READERS = {
    GPT2: Reader(_gpt2_config, _gpt2_weights),
    "xglm": Reader(_xglm_config, _xglm_weights),
    OWN: Reader(_own_config, _own_weights),
}
"""The readers by model_type."""
