"""A model on disk: config.json + model.safetensors (+ tokenizer.model), all that an evaluator needs."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from momentum_gpt.config import ModelConfig
from momentum_gpt.errors import UserError
from momentum_gpt.models.gpt import GPT, is_of_variant


def save_model(folder: Path, model: GPT, weights: dict[str, torch.Tensor], tokenizer: Path | None) -> None:
    """Write the model folder. `weights` are the model's parameters by name: under ZeRO the model may not hold them."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model": asdict(model.config), "attention": model.attention, "document_end": model.document_end}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    if tokenizer is not None:
        shutil.copyfile(tokenizer, folder / "tokenizer.model")


def load_model(path: str | Path, device: str | torch.device = "cpu") -> GPT:
    """The trained model of a run folder (its newest checkpoint), of a checkpoint folder, or of a model folder.

    Raises:
        UserError: nothing there is a model, or its files do not fit together.
    """
    folder = model_folder(Path(path))
    try:
        config = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        model = GPT(ModelConfig(**config["model"]), config["attention"], config.get("document_end"))
        dtypes = {tensor.dtype for tensor in weights.values()}
        model = model.to(dtypes.pop() if len(dtypes) == 1 else torch.float32)
        model.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise UserError(f"{folder} does not hold a model of this project: {' '.join(str(error).split())}") from None
    return model.to(device).eval()


def model_folder(path: Path) -> Path:
    """Where the model files are: `path/model`, or that of the newest checkpoint, or `path` itself."""
    latest = path / "checkpoints" / "latest"
    candidates = [path, path / "model"]
    if latest.is_file():
        candidates.append(path / "checkpoints" / latest.read_text().strip() / "model")
    for folder in candidates:
        if (folder / "model.safetensors").is_file():
            return folder
    raise UserError(f"{path} holds no model: give a run folder with a checkpoint, a checkpoint folder or a model folder")


def weights_sha256(model: torch.nn.Module) -> str:
    """One hash of the parameters that all variants have: names, shapes and bits, in float32."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if is_of_variant(name):
            continue
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
