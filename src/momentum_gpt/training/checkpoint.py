"""Checkpoints: written beside their name, hashed, then renamed, so that what has it is complete.

In `checkpoints/` there are `step_00001000/` with `model/`, `engine/` and `manifest.json`, and
`latest` with the name of the newest one.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from momentum_gpt.core import distributed
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import sha256_of_file, sync, write_text
from momentum_gpt.core.manifest import CheckpointManifest, read_checkpoint_manifest
from momentum_gpt.models import save_model
from momentum_gpt.training.elastic import is_same_layout, load_elsewhere
from momentum_gpt.training.engine import full_weights, load_engine, save_engine

NAME = re.compile(r"step_(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    folder: Path
    manifest: CheckpointManifest


def save(
    engine: Any,
    folder: Path,
    manifest: CheckpointManifest,
    tokenizer_file: Path | None,
    keep: int,
) -> Path:
    """Write a checkpoint, point `latest` to it, delete the oldest. Every rank must call this.

    Args:
        folder: the run's `checkpoints/`.
        manifest: everything but the files' hashes, which are added here.
        tokenizer_file: copied into the checkpoint; None for a synthetic task.
        keep: how many checkpoints stay.
    """
    name = f"step_{manifest.step:08d}"
    staging = folder / f".{name}.partial"

    if distributed.is_main():
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    distributed.barrier()

    save_engine(engine, staging / "engine")
    weights = full_weights(engine)
    distributed.barrier()

    if distributed.is_main():
        # DeepSpeed adds scripts that convert its files: model/ makes them superfluous.
        for script in staging.glob("zero_to_*.py"):
            script.unlink()
        save_model(staging / "model", engine.module, weights, tokenizer_file)
        _publish(staging, folder / name, manifest)
        _delete_oldest(folder, keep)
    distributed.barrier()
    return folder / name


def _publish(staging: Path, final: Path, manifest: CheckpointManifest) -> None:
    """Hash the files, sync them to disk, and only then give the checkpoint its name."""
    files = sorted(path for path in staging.rglob("*") if path.is_file())
    hashes = {str(path.relative_to(staging)): sha256_of_file(path) for path in files}
    replace(manifest, files=hashes).write(staging)
    for path in files:
        sync(path)

    shutil.rmtree(final, ignore_errors=True)
    staging.rename(final)
    sync(final.parent)
    write_text(final.parent / "latest", final.name + "\n")


def _delete_oldest(folder: Path, keep: int) -> None:
    for name in _names(folder)[keep:]:
        shutil.rmtree(folder / name)


def newest_complete(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint whose files are intact, and why newer ones were passed over.

    Every rank must call this: the main rank looks and decides for all.
    """
    name: str | None = None
    skipped: list[str] = []
    if distributed.is_main():
        name, skipped = _newest_complete(folder)

    name = distributed.same_on_all_ranks(name)
    if name is None:
        return None, skipped
    return Checkpoint(folder / name, read_checkpoint_manifest(folder / name)), skipped


def _newest_complete(folder: Path) -> tuple[str | None, list[str]]:
    skipped: list[str] = []
    for name in _names(folder):
        try:
            damaged = _damaged_file(folder / name)
        except (UserError, OSError) as error:
            skipped.append(f"{name} is incomplete ({error})")
            continue
        if damaged is None:
            return name, skipped
        skipped.append(f"{name} is damaged ({damaged} is not what was written)")
    return None, skipped


def _damaged_file(checkpoint: Path) -> str | None:
    """Return the first file whose hash is not that of the manifest; None if all are intact."""
    for file, sha256 in read_checkpoint_manifest(checkpoint).files.items():
        if sha256_of_file(checkpoint / file) != sha256:
            return file
    return None


def latest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint, according to its name; 0 if there is none."""
    latest = folder / "latest"
    if not latest.is_file():
        return 0
    return int(latest.read_text().strip().removeprefix("step_"))


def restore(engine: Any, checkpoint: Checkpoint) -> None:
    """Put the checkpoint's state into the engine. Every rank must call this.

    The engine may have another number of ranks, another ZeRO stage or another precision.

    Raises:
        UserError: an option of DeepSpeed stands in the way.
    """
    folder = checkpoint.folder / "engine"
    if is_same_layout(checkpoint.manifest, engine):
        load_engine(engine, folder)
    else:
        load_elsewhere(engine, folder, checkpoint.manifest)


def _names(folder: Path) -> list[str]:
    """Return the checkpoints' names, newest first."""
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if NAME.fullmatch(path.name)]
    return sorted(names, key=_step_of, reverse=True)


def _step_of(name: str) -> int:
    return int(name.removeprefix("step_"))
