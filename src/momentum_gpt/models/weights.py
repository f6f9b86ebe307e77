"""A model on disk: config.json + model.safetensors (+ tokenizer.model), all that an evaluator needs.

Folders of `transformers` are read too, see pretrained.py.
"""

from __future__ import annotations

import hashlib
import json
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
from momentum_gpt.models.gpt import GPT, is_of_variant
from momentum_gpt.models.hf.read import is_pretrained, read_pretrained, read_pretrained_config


def save_model(
    folder: Path, model: GPT, weights: dict[str, torch.Tensor], tokenizer: Path | None
) -> None:
    """Write the model folder. `weights` are the model's parameters by name: under ZeRO the model may not hold them."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model": asdict(model.config),
        "attention": model.attention,
        "document_end": model.document_end,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()},
        folder / "model.safetensors",
    )
    if tokenizer is not None:
        shutil.copyfile(tokenizer, folder / tokenizer.name)


def load_model(path: str | Path, device: str | torch.device = "cpu") -> GPT:
    """The trained model of a run folder (its newest checkpoint), of a checkpoint folder, of a model folder, or of a folder
    of `transformers` with a GPT-2, an XGLM, or what `export` made of a model.

    Raises:
        UserError: nothing there is a model, or its files do not fit together.
    """
    folder = model_folder(Path(path))
    with _told(folder):
        if is_pretrained(folder):
            found = read_pretrained(folder)
            model, weights = GPT(found.config, found.attention, found.document_end), found.weights
        else:
            about, weights = (
                json.loads((folder / "config.json").read_text()),
                load_file(folder / "model.safetensors"),
            )
            model = GPT(
                ModelConfig(**about["model"]), about["attention"], about.get("document_end")
            )
        dtypes = {tensor.dtype for tensor in weights.values()}
        model = model.to(dtypes.pop() if len(dtypes) == 1 else torch.float32)
        model.load_state_dict(weights)
    return model.to(device).eval()


def load_model_config(path: str | Path) -> ModelConfig:
    """The shape of the model that `load_model` would load."""
    folder = model_folder(Path(path))
    with _told(folder):
        if is_pretrained(folder):
            return read_pretrained_config(folder)
        return ModelConfig(**json.loads((folder / "config.json").read_text())["model"])


@torch.no_grad()
def start_from(model: GPT, path: str | Path) -> None:
    """Give the model the weights of another, whose attention may be another variant, and whose shape passed `check_start`.

    A variant's own parameters that the other does not have stay as they are; so do further rows of the embedding.
    """
    theirs = dict(load_model(path).named_parameters())
    for name, parameter in model.named_parameters():
        if name.startswith(("token_embedding", "position_embedding")):
            rows = min(len(parameter), len(theirs[name]))
            parameter[:rows] = theirs[name][:rows]
        elif name in theirs or not is_of_variant(name):
            parameter.copy_(theirs[name])


def check_start(model: ModelConfig, path: str) -> None:
    """Refuse a model whose shape is not that of the weights it shall start from.

    Raises:
        UserError: names the options that differ, and the values that fit.
    """
    theirs = load_model_config(path)
    assert model.vocab_size is not None
    assert theirs.vocab_size is not None
    fits = {
        "vocab_size": model.vocab_size >= theirs.vocab_size,
        "seq_len": model.positions != "learned" or model.seq_len <= theirs.seq_len,
        "init_std": True,
    }
    wanted = asdict(theirs).items()
    unlike = [
        f"model.{key}={value}"
        for key, value in wanted
        if not fits.get(key, getattr(model, key) == value)
    ]
    if unlike:
        raise UserError(f"init={path!r} has another shape than the model: add {' '.join(unlike)}")


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Whatever is wrong with the files of a model is the user's to know, in one line."""
    try:
        yield
    except (
        OSError,
        SafetensorError,
        KeyError,
        TypeError,
        RuntimeError,
        UnpicklingError,
        ValueError,
    ) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{folder} does not hold a model of this project: {' '.join(str(error).split())}"
        ) from None


def model_folder(path: Path) -> Path:
    """Where the model files are: `path/model`, or that of the newest checkpoint, or `path` itself."""
    latest = path / "checkpoints" / "latest"
    candidates = [path, path / "model"]
    if latest.is_file():
        candidates.append(path / "checkpoints" / latest.read_text().strip() / "model")
    for folder in candidates:
        if (folder / "model.safetensors").is_file() or is_pretrained(folder):
            return folder
    raise UserError(
        f"{path} holds no model: give a run folder with a checkpoint, a checkpoint folder or a model folder"
    )


def weights_sha256(model: torch.nn.Module) -> str:
    """One hash of the parameters that all variants have: names, shapes and bits, in float32."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if is_of_variant(name):
            continue
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
