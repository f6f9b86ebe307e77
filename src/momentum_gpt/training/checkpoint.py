"""Checkpoints: written aside, hashed, then renamed, so that what has its name is complete.

In `checkpoints/`: `step_00001000/` with `model/`, `engine/` and `manifest.json`, and `latest`, the newest one's name.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from momentum_gpt.core import distributed
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import read_json, sha256_of_file, sync, write_json, write_text
from momentum_gpt.models import save_model
from momentum_gpt.training.engine import full_weights, load_engine, save_engine

NAME = re.compile(r"step_(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        return self.manifest["step"]


def save(
    engine: Any, folder: Path, facts: dict[str, Any], tokenizer: Path | None, keep: int
) -> Path:
    """Save the engine's state as `folder/step_...`, point `latest` to it and drop the oldest. Every rank must call this.

    Args:
        folder: the run's `checkpoints/`.
        facts: what the manifest says beside the hashes: step, tokens, world_size, ...
        keep: how many checkpoints stay.
    """
    name = f"step_{facts['step']:08d}"
    staging = folder / f".{name}.partial"
    if distributed.is_main():
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    distributed.barrier()
    save_engine(engine, staging / "engine")
    weights = full_weights(engine)
    distributed.barrier()
    if distributed.is_main():
        for script in staging.glob(
            "zero_to_*.py"
        ):  # DeepSpeed's own converters: model/ makes them needless
            script.unlink()
        save_model(staging / "model", engine.module, weights, tokenizer)
        files = sorted(path for path in staging.rglob("*") if path.is_file())
        manifest = facts | {
            "files": {str(path.relative_to(staging)): sha256_of_file(path) for path in files}
        }
        write_json(staging / "manifest.json", manifest)
        for path in files:
            sync(path)
        shutil.rmtree(folder / name, ignore_errors=True)
        staging.rename(folder / name)
        sync(folder)
        write_text(folder / "latest", name + "\n")
        for old in _names(folder)[keep:]:
            shutil.rmtree(folder / old)
    distributed.barrier()
    return folder / name


def newest_complete(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose files are all there with the right hashes, and why newer ones were passed over.

    Every rank must call this: the main one looks and decides for all.
    """
    name, skipped = _newest_complete(folder) if distributed.is_main() else (None, [])
    name = distributed.same_on_all_ranks(name)
    return (Checkpoint(folder / name, _manifest(folder / name)) if name else None), skipped


def _newest_complete(folder: Path) -> tuple[str | None, list[str]]:
    skipped: list[str] = []
    for name in _names(folder):
        try:
            hashes = _manifest(folder / name)["files"]
            damaged = [
                file
                for file, sha256 in hashes.items()
                if sha256_of_file(folder / name / file) != sha256
            ]
            if not damaged:
                return name, skipped
            skipped.append(f"{name} is damaged ({damaged[0]} is not what was written)")
        except (OSError, KeyError, json.JSONDecodeError) as error:
            skipped.append(f"{name} is incomplete ({error})")
    return None, skipped


def _manifest(checkpoint: Path) -> dict[str, Any]:
    return read_json(checkpoint / "manifest.json")


def latest_step(folder: Path) -> int:
    """The step of the newest checkpoint, by its name; 0 without one."""
    latest = folder / "latest"
    return int(latest.read_text().strip().removeprefix("step_")) if latest.is_file() else 0


def restore(engine: Any, checkpoint: Checkpoint) -> None:
    """Put the checkpoint's state into the engine. Every rank must call this.

    Raises:
        UserError: the checkpoint was written by another number of ranks.
    """
    wrote, have = checkpoint.manifest["world_size"], distributed.world_size()
    if wrote != have:
        raise UserError(
            f"{checkpoint.folder} was written by {wrote} rank(s) and this run has {have}: the optimizer's state is cut into "
            f"as many parts; set launch.nproc_per_node={wrote}"
        )
    load_engine(engine, checkpoint.folder / "engine")


def _names(folder: Path) -> list[str]:
    """The checkpoints' names, newest first."""
    names = (
        [path.name for path in folder.iterdir() if NAME.fullmatch(path.name)]
        if folder.is_dir()
        else []
    )
    return sorted(names, key=lambda name: int(name.removeprefix("step_")), reverse=True)
