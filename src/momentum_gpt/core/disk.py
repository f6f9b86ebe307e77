"""Disk room: how much is free, how much a checkpoint takes, and what to say of a full disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from momentum_gpt.core.errors import MachineError, UserError

NO_ROOM = "free some space there, and give the same command again"
NOT_OURS = "make it writable, or choose another folder"

REMEDIES = {
    errno.ENOSPC: NO_ROOM,
    errno.EDQUOT: NO_ROOM,
    errno.EROFS: NOT_OURS,
    errno.EACCES: NOT_OURS,
    errno.EPERM: NOT_OURS,
    errno.EIO: "the disk may be failing: see the system's log, or choose a folder on another disk",
}
"""Why a file cannot be written, as an error number, and what to do."""

WRITING_ONLY = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Those that reading cannot meet with."""

ALMOST_NOTHING = 1 << 20
"""Bytes of free space with which a disk is taken as full, after writing a file has failed."""

WEIGHT_BYTES = {"fp32": 4, "bf16": 2}
"""Bytes of a weight in each training precision."""

MOMENT_BYTES = 8
"""Bytes of AdamW's two moments of a parameter."""

MASTER_BYTES = 4
"""Bytes of a parameter's fp32 weight in the engine's state, which has one from ZeRO-1 on."""

SMALL_FILES = 1 << 15
"""Bytes of a checkpoint's tokenizer, configs and manifest, roughly."""


def room(folder: Path) -> int:
    """Return the bytes that may still be written in a folder, which need not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


def checkpoint_bytes(n_parameters: int, precision: str, stage: int) -> int:
    """Return about how many bytes a checkpoint takes, on all ranks together.

    With AdamW, that is; with Muon it takes less.

    Args:
        n_parameters: of the model, over all ranks.
        precision: fp32 or bf16.
        stage: of ZeRO, 0 to 3.
    """
    in_engine = MOMENT_BYTES + (MASTER_BYTES if stage else 0)
    return n_parameters * (WEIGHT_BYTES[precision] + in_engine) + SMALL_FILES


def require_room(folder: Path, needed: int, what: str, remedy: str = NO_ROOM) -> None:
    """Check that a folder's disk has room.

    Args:
        folder: where to write; it need not exist yet.
        needed: bytes.
        what: what is to be written, as the message names it.
        remedy: what to do if there is no room.

    Raises:
        MachineError: there is less than that.
    """
    free = room(folder)
    if free < needed:
        raise MachineError(
            f"{folder} has {amount(free)} of free disk space, but {what} needs "
            f"{amount(needed)}: {remedy}"
        )


def require_room_for_run(run_dir: Path, checkpoint: int, keep: int) -> None:
    """Check, before a run, that there is room for its checkpoints and the next one beside them.

    Args:
        run_dir: the run's folder. Checkpoints that are there already need no room.
        checkpoint: bytes of one checkpoint; see `checkpoint_bytes`.
        keep: how many stay, `training.keep_checkpoints`.

    Raises:
        MachineError: there is too little.
    """
    there = len(list((run_dir / "checkpoints").glob("step_*")))
    to_come = max(1, keep + 1 - there)
    require_room(
        run_dir,
        to_come * checkpoint,
        f"keeping {keep} checkpoints of {amount(checkpoint)}, and writing the next,",
        "free some space, use a smaller training.keep_checkpoints, or another disk with runs=DIR",
    )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise a MachineError if the block fails because `path` cannot be written.

    Args:
        path: a file, or a folder that several are written into, by whichever library.
    """
    try:
        yield
    except (MachineError, UserError):
        raise
    except Exception as error:
        number = _number_of(error, path)
        if number is None:
            raise
        raise cannot_write(path, number) from error


def refuse_link(path: Path) -> None:
    """Check that a file which is written in place is not a link, which could lead anywhere.

    Raises:
        UserError: it is one.
    """
    if path.is_symlink():
        raise UserError(f"{path} is a link to another place, and is not written to: remove it")


def cannot_write(path: Path, number: int) -> MachineError:
    """Return what to tell the user of a path that cannot be written.

    Args:
        number: the system's number for the reason, one of `REMEDIES`.
    """
    reason = os.strerror(number).lower()
    return MachineError(f"{path} cannot be written ({reason}): {REMEDIES[number]}")


def _number_of(error: Exception, path: Path) -> int | None:
    """Return the number among `REMEDIES` that is the error's reason; None if it has another."""
    for number in REMEDIES:
        # safetensors and torch have errors of their own, which quote the system's words.
        if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
            return number

    # NumPy and torch may only say that a file is shorter than it should be.
    is_vague = isinstance(error, RuntimeError) or getattr(error, "errno", 0) is None
    if is_vague and room(path) < ALMOST_NOTHING:
        return errno.ENOSPC
    return None


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def amount(n_bytes: int) -> str:
    """Return a number of bytes as people read it, such as "1.2 GB"."""
    amount = float(n_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.3g} TB"
