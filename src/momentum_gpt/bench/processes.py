"""Trainers in processes of their own, which wait for their turns."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO

from momentum_gpt.bench.shapes import Shape
from momentum_gpt.core.errors import MachineError, UserError


class Contender:
    """A trainer in a process of its own, which waits for its turn."""

    def __init__(self, name: str, shape: Shape, data: str, peer: str, log: IO[str]) -> None:
        self.name = name
        self.log = Path(log.name)
        module = [sys.executable, "-m", "momentum_gpt.bench.contender"]
        self.process = subprocess.Popen(
            [*module, name, json.dumps(asdict(shape)), data, peer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        self.first_step_s = math.nan
        self.peak_bytes = 0
        self.steps = 1
        self.turns: list[float] = []

    def warm_up(self) -> None:
        """Wait for its first step, which it takes by itself."""
        self.first_step_s, self.peak_bytes = self._answer()

    def settle(self, seconds: float) -> None:
        """Choose how many steps a turn of about so many seconds has."""
        self.take(1)
        self.steps = max(1, round(seconds / self.take(2)))

    def take_turn(self) -> None:
        """Let it take the steps of a turn, and keep the seconds of one."""
        self.turns.append(self.take(self.steps))

    def take(self, n_steps: int) -> float:
        """Let it take steps; return the seconds of one."""
        assert self.process.stdin
        self.process.stdin.write(f"{n_steps}\n")
        self.process.stdin.flush()
        seconds, self.peak_bytes = self._answer()
        return seconds / n_steps

    def end(self) -> None:
        """End its process."""
        self.process.kill()
        self.process.wait()

    def _answer(self) -> tuple[float, int]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            last = self.log.read_text(errors="replace").strip().splitlines()[-1:]
            raise MachineError(f"{self.name} has ended: {' '.join(last)}")
        answer = json.loads(line)
        return answer["seconds"], answer["peak_bytes"]


@contextmanager
def started_contender(name: str, shape: Shape, data: str, peer: str = "") -> Iterator[Contender]:
    """Start a trainer, and end it after the block."""
    with tempfile.NamedTemporaryFile("w", suffix=".log") as log:
        contender = Contender(name, shape, data, peer, log)
        try:
            yield contender
        finally:
            contender.end()


def check_data(data: str, option: str = "data") -> None:
    """Raise a UserError unless the folder that an option names holds token shards."""
    if not (Path(data) / "manifest.json").is_file():
        raise UserError(
            f"{option}={data!r} holds no token shards: give a folder that `prepare` has "
            "written, or use make bench"
        )


def machine() -> str:
    """Return what is measured on."""
    import torch

    from momentum_gpt.core.provenance import processor

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return f"{device}, torch {torch.__version__}"
