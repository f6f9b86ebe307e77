"""The manifest of a checkpoint: what identifies the run at that step, and every file's sha256."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import read_json, write_json


@dataclass(frozen=True)
class CheckpointManifest:
    """The content of `checkpoints/step_.../manifest.json`."""

    step: int
    """Optimizer steps done."""
    tokens: int
    """Tokens trained on."""
    order_sha256: str
    """Hash of the order in which the run has read its training windows so far."""
    canary_loss: float
    """Loss on one fixed batch, nats per token: a restored model must give it back."""
    world_size: int
    """Ranks that wrote the engine's state."""
    initial_weights_sha256: str
    """Hash of the weights that all variants share, before the first step."""
    data_sha256: str
    """Hash of the training tokens."""
    tokenizer_sha256: str
    zero_optimization: dict[str, Any] | None = None
    """DeepSpeed's options of that name, such as the ZeRO stage; None in earlier versions."""
    precision: str | None = None
    """`training.precision`; None in earlier versions."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the libraries that wrote the checkpoint."""
    files: dict[str, str] = field(default_factory=dict)
    """Path inside the checkpoint -> sha256."""

    def write(self, folder: Path) -> None:
        """Write `folder/manifest.json`, whole or not at all."""
        write_json(folder / "manifest.json", asdict(self))


def read_checkpoint_manifest(folder: Path) -> CheckpointManifest:
    """Return the manifest of a checkpoint folder, ignoring entries of other versions.

    Raises:
        UserError: the file is missing, is not JSON, or lacks an entry.
    """
    path = folder / "manifest.json"
    try:
        content = read_json(path)
        known = {entry.name for entry in fields(CheckpointManifest)} & set(content)
        return CheckpointManifest(**{name: content[name] for name in known})
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not the manifest of a checkpoint: {reason}") from None
