"""The manifest of a checkpoint: what identifies the run at that step, and every file's sha256.

It holds its own sha256, too, so that an edited manifest is noticed like a damaged file.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import read_json, write_json

OWN_HASH = "manifest_sha256"
"""The key of the manifest's own hash: of all other entries, as JSON with sorted keys."""


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
    zero_optimization: dict[str, Any] = field(default_factory=dict)
    """DeepSpeed's options of that name, such as the ZeRO stage: how its state is divided."""
    precision: str = "fp32"
    """`training.precision`."""
    val_loss: float | None = None
    """Validation loss at this step, nats per token; None if it was not measured."""
    evaluation_is_due: bool = False
    """Whether the run was stopped before this step's evaluation was done."""
    skipped_steps: list[int] = field(default_factory=list)
    """Steps whose update is left out, because their loss was bad."""
    recent_losses: list[float] = field(default_factory=list)
    """Losses of the last steps, nats per token, beside which the next one is seen."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the libraries that wrote the checkpoint."""
    code: list[str] = field(default_factory=list)
    """Hashes of the code that has trained the run so far: more than one if it was changed."""
    commit: str = ""
    """Git commit of the code, with "+" if files were changed; "" if it is no checkout."""
    machine: str = ""
    """Processor or GPU of the first rank."""
    kernels: dict[str, str] = field(default_factory=dict)
    """What computes the parts of a step, and on which device."""
    files: dict[str, str] = field(default_factory=dict)
    """Path inside the checkpoint -> sha256."""

    def write(self, folder: Path) -> None:
        """Write `folder/manifest.json`, whole or not at all."""
        content = asdict(self)
        write_json(folder / "manifest.json", content | {OWN_HASH: _hash(content)})


def read_checkpoint_manifest(folder: Path) -> CheckpointManifest:
    """Return the manifest of a checkpoint folder.

    Raises:
        UserError: the file is missing, is not what was written, or breaks a rule of its entries.
    """
    path = folder / "manifest.json"
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise TypeError(f"a JSON object is needed, got {type(content).__name__}")
        if content.pop(OWN_HASH, None) != _hash(content):
            raise ValueError(f"{OWN_HASH} is not the hash of its content")
        known = {entry.name for entry in fields(CheckpointManifest)} & set(content)
        manifest = CheckpointManifest(**{name: content[name] for name in known})
        _check(manifest)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not the manifest of a checkpoint: {reason}") from None
    return manifest


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check(manifest: CheckpointManifest) -> None:
    """Raise a ValueError or TypeError unless every entry is what its name promises."""
    for entry in fields(CheckpointManifest):
        value = getattr(manifest, entry.name)
        kind = str(entry.type).partition("[")[0]
        if kind == "float | None" and value is None:
            continue
        if not isinstance(value, KINDS[kind]) or (kind == "int" and isinstance(value, bool)):
            raise TypeError(f"{entry.name} is {value!r}, and should be {entry.type}")

    for name in ("step", "tokens", "world_size"):
        if getattr(manifest, name) < 0:
            raise ValueError(f"{name} is {getattr(manifest, name)}, below 0")
    if not math.isfinite(manifest.canary_loss):
        raise ValueError(f"canary_loss is {manifest.canary_loss}: the model is not a good one")
    for name in manifest.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"files names {name!r}, which is outside of the checkpoint")


KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "str": (str,),
    "bool": (bool,),
    "float": (float, int),
    "float | None": (float, int),
    "list": (list,),
    "dict": (dict,),
}
"""Type of an entry -> the types that JSON gives for it."""
