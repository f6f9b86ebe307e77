"""Checkpoints on disk: published whole, found again if they are good, deleted when they are old.

In `checkpoints/` there are `step_00001000/` with `model/`, `engine/` and `manifest.json`, and
`latest` with the name of the newest one. A checkpoint is good if its manifest and all of its files
are what was written; saving.py gives only those a name whose values are finite.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from momentum_gpt.core import distributed
from momentum_gpt.core.config import TrainingConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import sha256_of_file, sync, write_text
from momentum_gpt.core.manifest import CheckpointManifest, read_checkpoint_manifest

NAME = re.compile(r"step_(\d{8,})")

DAMAGED = "damaged_"
"""What the name of a checkpoint that was passed over begins with from then on."""


@dataclass(frozen=True)
class Checkpoint:
    """A good checkpoint on disk."""

    folder: Path
    manifest: CheckpointManifest


def staging_folder(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step is written before it gets its name."""
    return folder / f".{_name(step)}.partial"


def publish(staging: Path, manifest: CheckpointManifest) -> Path:
    """Give a checkpoint its name, and point `latest` to it.

    Args:
        staging: from `staging_folder`; its files are on disk.
        manifest: with the hashes of all files.
    """
    manifest.write(staging)
    sync(staging)
    final = staging.parent / _name(manifest.step)
    shutil.rmtree(final, ignore_errors=True)
    staging.rename(final)
    sync(final.parent)
    write_text(final.parent / "latest", final.name + "\n")
    return final


def prune(folder: Path, training: TrainingConfig) -> None:
    """Delete the checkpoints that need not be kept, the oldest first.

    The newest `keep_checkpoints` stay, those at multiples of `keep_every`, and with `keep_best` the
    one with the lowest validation loss.
    """
    names = _names(folder)
    kept = set(names[: training.keep_checkpoints])
    if training.keep_every:
        kept |= {name for name in names if _step_of(name) % training.keep_every == 0}
    if training.keep_best:
        kept |= _best(folder, names)
    for name in reversed(names):
        if name not in kept:
            shutil.rmtree(folder / name, ignore_errors=True)


def _best(folder: Path, names: list[str]) -> set[str]:
    """Return the name of the checkpoint with the lowest validation loss, if one has any."""
    losses = {}
    for name in names:
        try:
            loss = read_checkpoint_manifest(folder / name).val_loss
        except UserError:
            continue
        if loss is not None:
            losses[name] = loss
    return {min(losses, key=losses.__getitem__)} if losses else set()


def newest_good(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest good checkpoint, and why newer ones were passed over.

    Every rank must call this: the main rank looks and decides for all.

    Raises:
        UserError: there are checkpoints, but none is good.
    """
    name: str | None = None
    passed_over: dict[str, str] = {}
    if distributed.is_main():
        name, passed_over = look_for_good(folder)

    name, reasons = distributed.same_on_all_ranks((name, list(passed_over.values())))
    if name is None and reasons:
        raise UserError(
            f"{folder} has no good checkpoint: {'; '.join(reasons)}: put back what is missing, or "
            "choose another name to begin anew"
        )
    if name is None:
        return None, reasons
    return Checkpoint(folder / name, read_checkpoint_manifest(folder / name)), reasons


def look_for_good(folder: Path) -> tuple[str | None, dict[str, str]]:
    """Return the name of the newest good checkpoint, and name -> fault of the newer ones."""
    passed_over: dict[str, str] = {}
    for name in _names(folder):
        fault = fault_of(folder / name)
        if fault is None:
            return name, passed_over
        passed_over[name] = f"{name} is damaged ({fault})"
    for path in sorted(folder.glob(DAMAGED + "step_*")):
        passed_over[path.name] = f"{path.name} was passed over before"
    return None, passed_over


def fault_of(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint; None if all of it is what was written."""
    try:
        files = read_checkpoint_manifest(checkpoint).files
        for file, sha256 in files.items():
            if sha256_of_file(checkpoint / file) != sha256:
                return f"{file} is not what was written"
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return None


def tidy(folder: Path, good: str | None) -> None:
    """Remove what an earlier attempt left behind, once it is known where the run goes on.

    Half-written folders go. What is newer than the good checkpoint was passed over: it keeps its
    files under another name, where it cannot push the good one out. `latest` is made right.

    Args:
        good: the name of the newest good checkpoint; None to begin anew.
    """
    for partial in folder.glob(".step_*.partial"):
        if partial.is_symlink():
            partial.unlink()  # a save would write through it
        shutil.rmtree(partial, ignore_errors=True)
    if good is None:
        return
    for name in _names(folder):
        if _step_of(name) > _step_of(good):
            set_aside(folder / name)
    if pointed_to(folder) != good:
        shutil.rmtree(folder / "latest", ignore_errors=True)  # if something made it a folder
        write_text(folder / "latest", good + "\n")


def set_aside(checkpoint: Path) -> None:
    """Give a checkpoint that cannot be used another name."""
    aside = checkpoint.with_name(DAMAGED + checkpoint.name)
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)


def pointed_to(folder: Path) -> str | None:
    """Return the name that `latest` holds, if it is the name of a checkpoint."""
    try:
        name = (folder / "latest").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return name if NAME.fullmatch(name) else None


def has_any(folder: Path) -> bool:
    """Return whether there is a checkpoint, good or not."""
    return bool(_names(folder)) or any(folder.glob(DAMAGED + "step_*"))


def newest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint, good or not; 0 if there is none."""
    names = _names(folder)
    return _step_of(names[0]) if names else 0


def is_complete(folder: Path, max_steps: int) -> bool:
    """Return whether there is a good checkpoint of the last step, with nothing left to do."""
    for name in _names(folder):
        if _step_of(name) < max_steps:
            return False
        if fault_of(folder / name) is None:
            return not read_checkpoint_manifest(folder / name).evaluation_is_due
    return False


def with_files(manifest: CheckpointManifest, parts: list[dict[str, str]]) -> CheckpointManifest:
    """Return the manifest with the hashes of the files that all ranks have written."""
    files: dict[str, str] = {}
    for part in parts:
        files |= part
    return replace(manifest, files=dict(sorted(files.items())))


def _names(folder: Path) -> list[str]:
    """Return the checkpoints' names, newest first."""
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if NAME.fullmatch(path.name)]
    return sorted(names, key=_step_of, reverse=True)


def _name(step: int) -> str:
    return f"step_{step:08d}"


def _step_of(name: str) -> int:
    return int(name.removeprefix("step_"))
