"""The copies of a W&B run on this disk."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from momentum_gpt.core.files import write_text

QUIET = {"WANDB_ERROR_REPORTING": "false"}
"""For the W&B client, whose reports about itself wait for a server that does not answer."""


def run_id(run_dir: Path) -> str:
    """Return the W&B id of the run.

    It is drawn once and kept in the run's folder, so that a resumed run stays one run.
    """
    known = known_id(run_dir)
    if known is None:
        known = secrets.token_hex(4)
        write_text(_id_file(run_dir), known)
    return known


def known_id(run_dir: Path) -> str | None:
    """Return the W&B id of the run; None if it has none yet."""
    path = _id_file(run_dir)
    return path.read_text() if path.is_file() else None


def newest_copy(run_dir: Path) -> Path | None:
    """Return the newest folder of the run's W&B run; None if there is none."""
    known = known_id(run_dir)
    if known is None:
        return None
    folders = (run_dir / "wandb").glob(f"*run-*-{known}")
    return max(folders, key=lambda folder: folder.name.split("-")[-2], default=None)


def is_whole(folder: Path, n_rows: int) -> bool:
    """Return whether a copy holds all rows of the history, and the end of the run."""
    client = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json"]
    done = subprocess.run(
        [*client, str(folder.resolve())],
        cwd=folder,
        env=os.environ | QUIET,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        summary = json.loads(done.stdout)
    except ValueError:
        return False
    last = summary.get("step")
    n_logged = 0 if last is None else last + 1
    return summary.get("state") != "running" and n_logged == n_rows


def remove_others(folder: Path) -> None:
    """Remove earlier copies of the same W&B run: this one holds all that they held."""
    _, run_id = folder.name.rsplit("-", 1)
    for other in folder.parent.glob(f"*run-*-{run_id}"):
        if other.name != folder.name:
            shutil.rmtree(other, ignore_errors=True)


def _id_file(run_dir: Path) -> Path:
    return run_dir / "wandb" / "run_id"
