"""A model on disk: config.json, model.safetensors and the tokenizer, all that an evaluation needs.

Folders of `transformers` can be loaded, too; see hf/read.py.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from momentum_gpt.core.config import ModelConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import read_json, write_json
from momentum_gpt.core.untrusted import read_name
from momentum_gpt.models.gpt import GPT, is_of_variant
from momentum_gpt.models.hf.read import (
    Pretrained,
    is_pretrained,
    read_pretrained,
    read_pretrained_config,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Types of numbers that weights may have."""


def save_model(
    folder: Path, model: GPT, weights: dict[str, torch.Tensor], tokenizer: Path | None
) -> None:
    """Write a model folder.

    Args:
        folder: where to; made if it does not exist.
        model: its config and attention are written.
        weights: the model's parameters by name. Under ZeRO the model itself may not hold them.
        tokenizer: a file to copy beside the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model": asdict(model.config),
        "attention": model.attention,
        "document_end": model.document_end,
    }
    write_json(folder / "config.json", config)

    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(contiguous, folder / "model.safetensors")
    if tokenizer is not None:
        shutil.copyfile(tokenizer, folder / tokenizer.name)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the parameters of a model folder by name, on the CPU."""
    return load_file(folder / "model.safetensors")


def load_model(path: str | Path, device: str | torch.device = "cpu") -> GPT:
    """Load a trained model, in evaluation mode.

    Args:
        path: a run folder, whose newest checkpoint is loaded; a checkpoint folder; a model folder;
            or a folder of `transformers` that holds a GPT-2, an XGLM or an export of this project.
        device: where to put it.

    Raises:
        UserError: the folder holds no model, or its files do not fit together.
    """
    folder = model_folder(Path(path))
    with _errors_for_the_user(folder):
        if is_pretrained(folder):
            found = read_pretrained(folder)
        else:
            config = read_json(folder / "config.json")
            shape, attention = ModelConfig(**config["model"]), config["attention"]
            weights = read_weights(folder)
            found = Pretrained(shape, attention, config.get("document_end"), weights)
        check_found(found)
        model = GPT(found.config, found.attention, found.document_end)

        # A file in one precision gives a model in that precision; a mixed one, a model in fp32.
        dtypes = {tensor.dtype for tensor in found.weights.values()}
        model = model.to(dtypes.pop() if len(dtypes) == 1 else torch.float32)
        model.load_state_dict(found.weights)
    return model.to(device).eval()


def check_found(found: Pretrained) -> None:
    """Check, before a model is built, that what an untrusted config says fits the weights.

    A config that names a billion layers would fill the memory first.

    Raises:
        TypeError: a size is not an integer, or a weight not a number.
        ValueError: a large matrix has another shape, a layer is missing, or a weight is not finite.
    """
    config = found.config
    for size in ("n_layers", "n_heads", "d_model", "seq_len", "vocab_size"):
        value = getattr(config, size)
        if type(value) is not int:
            raise TypeError(f"its config.json has {size}={value!r}, which is not an integer")
    end = found.document_end
    if end is not None and not (type(end) is int and 0 <= end < (config.vocab_size or 0)):
        raise ValueError(f"its config.json has document_end={end!r}, which is no token")

    width = config.d_model
    shapes = {"token_embedding.weight": (config.vocab_size, width)}
    if config.positions == "learned":
        shapes["position_embedding.weight"] = (config.seq_len, width)
    for name, shape in shapes.items():
        _require_tensor(found.weights, name, shape)
    for layer in range(config.n_layers):
        name = f"blocks.{layer}.attention.qkv.weight"
        _require_tensor(found.weights, name, (3 * width, width))

    for name, tensor in found.weights.items():
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{name} is of type {tensor.dtype}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")


def _require_tensor(
    weights: dict[str, torch.Tensor], name: str, shape: tuple[int | None, ...]
) -> None:
    found = tuple(weights[name].shape) if name in weights else "missing"
    if found != shape:
        raise ValueError(f"its config.json makes {name} {shape}, and the weights' is {found}")


def load_model_config(path: str | Path) -> ModelConfig:
    """Return the shape of the model that `load_model` would load."""
    folder = model_folder(Path(path))
    with _errors_for_the_user(folder):
        if is_pretrained(folder):
            return read_pretrained_config(folder)
        return ModelConfig(**read_json(folder / "config.json")["model"])


@torch.no_grad()
def start_from(model: GPT, path: str | Path) -> None:
    """Copy the weights of another model into this one, whose attention may be another variant.

    Parameters of this model's variant that the other model lacks keep their values, and so do the
    embedding rows that exceed the other model's. The shapes must have passed `check_start`.
    """
    source = dict(load_model(path).named_parameters())
    for name, parameter in model.named_parameters():
        if name.startswith(("token_embedding", "position_embedding")):
            rows = min(len(parameter), len(source[name]))
            parameter[:rows] = source[name][:rows]
        elif name in source or not is_of_variant(name):
            parameter.copy_(source[name])


def check_start(model: ModelConfig, path: str) -> None:
    """Check that a model of this shape can start from the weights in `path`.

    Raises:
        UserError: it cannot; the message names the options that differ, and the values that fit.
    """
    source = load_model_config(path)
    assert model.vocab_size is not None
    assert source.vocab_size is not None

    fits = {
        "vocab_size": model.vocab_size >= source.vocab_size,
        "seq_len": model.positions != "learned" or model.seq_len <= source.seq_len,
        "init_std": True,  # the initial values are replaced
    }
    remedies = []
    for option, value in asdict(source).items():
        if not fits.get(option, getattr(model, option) == value):
            remedies.append(f"model.{option}={value}")
    if remedies:
        needed = " ".join(remedies)
        raise UserError(f"init={path!r} has another shape than the model: add {needed}")


@contextmanager
def _errors_for_the_user(folder: Path) -> Iterator[None]:
    """Turn whatever is wrong with the files of a model into a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except (
        OSError,
        SafetensorError,
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        MemoryError,
        RuntimeError,
        TypeError,
        UnpicklingError,
        ValueError,
    ) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder} does not hold a model of this project: {reason}") from None


def model_folder(path: Path) -> Path:
    """Return the folder that holds the model files of a run, a checkpoint or a model folder.

    Raises:
        UserError: there is none, or `checkpoints/latest` leads to another place.
    """
    candidates = [path, path / "model"]
    latest = path / "checkpoints" / "latest"
    if latest.is_file():
        candidates.append(path / "checkpoints" / read_name(latest) / "model")

    for folder in candidates:
        if (folder / "model.safetensors").is_file() or is_pretrained(folder):
            return folder
    raise UserError(
        f"{path} holds no model: give a run folder with a checkpoint, a checkpoint folder "
        "or a model folder"
    )


def weights_sha256(model: torch.nn.Module) -> str:
    """Return one hash of the parameters that all variants have: names, shapes, bits in float32."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if is_of_variant(name):
            continue
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
