"""What is done to a run: signals to its processes, damage to its files, a disk that is full."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from momentum_gpt.core.manifest import read_checkpoint_manifest
from momentum_gpt.training.checkpoint import fault_of


@dataclass(frozen=True)
class Processes:
    """The processes of a run: the driver, and the ranks that live."""

    driver: int
    ranks: dict[int, int]
    """Rank -> process id."""


def processes_of(config: Path, driver: int) -> Processes:
    """Return the run's processes, found by the command lines in /proc."""
    ranks = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if b"momentum_gpt.worker" not in words or str(config).encode() not in words:
            continue
        for entry in environment:
            if entry.startswith(b"RANK="):
                ranks[int(entry[5:])] = int(folder.name)
    return Processes(driver, ranks)


def kill(processes: Processes, who: str) -> bool:
    """Send SIGKILL to `driver`, `rank 0`, `rank 1` or the whole `tree`; return whether it lived."""
    targets = {"driver": [processes.driver], "tree": [processes.driver, *processes.ranks.values()]}
    for rank, process in processes.ranks.items():
        targets[f"rank {rank}"] = [process]
    return send(signal.SIGKILL, targets.get(who, []))


def send(number: signal.Signals, targets: list[int]) -> bool:
    """Send a signal to processes; return whether there was one that got it."""
    reached = False
    for process in targets:
        try:
            os.kill(process, number)
            reached = True
        except ProcessLookupError:
            pass
    return reached


def flip_a_byte(checkpoints: Path, chance: random.Random) -> str:
    """Change one bit of a file of the newest checkpoint."""
    newest = _newest(checkpoints)
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    path = chance.choice(files)
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    return "a flipped bit"


def cut_short(checkpoints: Path, chance: random.Random) -> str:
    """Cut a file of the newest checkpoint."""
    files = sorted(path for path in _newest(checkpoints).rglob("*") if path.is_file())
    path = chance.choice(files)
    os.truncate(path, chance.randrange(path.stat().st_size))
    return "a file cut short"


def delete_a_file(checkpoints: Path, chance: random.Random) -> str:
    """Delete a file of the newest checkpoint."""
    chance.choice(sorted(p for p in _newest(checkpoints).rglob("*") if p.is_file())).unlink()
    return "a file deleted"


def spoil_the_manifest(checkpoints: Path, chance: random.Random) -> str:
    """Write something else in the place of the newest manifest."""
    contents = [b"", b"[]", b"null", b"\xff\xfe\x00", b'{"step": 1}']
    (_newest(checkpoints) / "manifest.json").write_bytes(chance.choice(contents))
    return "a manifest that is none"


def edit_the_step(checkpoints: Path, _: random.Random) -> str:
    """Give the newest manifest another step."""
    path = _newest(checkpoints) / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"step": content["step"] + 1}))
    return "an edited step"


def point_elsewhere(checkpoints: Path, chance: random.Random) -> str:
    """Make `latest` stale or senseless."""
    contents = ["step_00000001\n", "step_99999999\n", "../..\n", "", "\0"]
    (checkpoints / "latest").write_text(chance.choice(contents))
    return "a wrong `latest`"


def leave_a_partial(checkpoints: Path, _: random.Random) -> str:
    """Leave the newest checkpoint half-written beside the others, as a kill within a save does."""
    newest = _newest(checkpoints)
    half = checkpoints / f".step_{_step(newest) + 1:08d}.partial"
    shutil.copytree(newest, half, dirs_exist_ok=True)
    (half / "manifest.json").unlink(missing_ok=True)
    return "a half-written folder"


def write_nans(checkpoints: Path, _: random.Random) -> str:
    """Make the newest checkpoint one of a broken model, with a manifest that fits."""
    newest = _newest(checkpoints)
    path = newest / "model" / "model.safetensors"
    weights = {name: torch.full_like(t, float("nan")) for name, t in load_file(path).items()}
    save_file(weights, path)
    manifest = read_checkpoint_manifest(newest)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    files = manifest.files | {"model/model.safetensors": sha256}
    replace(manifest, files=files, canary_loss=float("nan")).write(newest)
    return "a checkpoint of NaNs"


DAMAGES: list[Callable[[Path, random.Random], str]] = [
    flip_a_byte,
    cut_short,
    delete_a_file,
    spoil_the_manifest,
    edit_the_step,
    point_elsewhere,
    leave_a_partial,
    write_nans,
]


def damage(checkpoints: Path, chance: random.Random) -> str | None:
    """Damage the newest checkpoint, if an older one is good; return how."""
    good = [path for path in _checkpoints(checkpoints) if _is_good(path)]
    if len(good) < 2 or good[-1] != _newest(checkpoints):
        return None
    return chance.choice(DAMAGES)(checkpoints, chance)


class FullDisk:
    """A file that leaves no room in a folder, as long as the block lasts."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "filler"

    def __enter__(self) -> None:
        with self.path.open("wb") as file:
            try:
                while True:
                    file.write(bytes(2**16))
                    file.flush()
            except OSError:
                pass

    def __exit__(self, *_: object) -> None:
        self.path.unlink()


def wait_for_a_save(checkpoints: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a checkpoint is being written, or the process ends."""
    while process.poll() is None and not any(checkpoints.glob(".step_*.partial")):
        time.sleep(0.001)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*"))


def _newest(folder: Path) -> Path:
    return _checkpoints(folder)[-1]


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _is_good(path: Path) -> bool:
    return fault_of(path) is None
