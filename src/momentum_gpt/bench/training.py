"""Time training beside other trainers: speed, memory, time to the first step.

    momentum-gpt bench training
    momentum-gpt bench training shapes=[laptop,125m] peers=nanoGPT rounds=9
    momentum-gpt bench training shapes=[350m] output=bench.json

Vanilla and momentum attention run beside the same model in a plain torch loop,
the Trainer of `transformers` where it is installed and, in a checkout that
`peers` names, nanoGPT or litgpt. Each has a process of its own and takes its
steps in turn, so that what the machine does meanwhile meets all of them. What
is in the checkout is run.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from momentum_gpt.bench.shapes import SHAPES, Shape
from momentum_gpt.cli import Command
from momentum_gpt.core.errors import MachineError, UserError, require
from momentum_gpt.core.files import write_json
from momentum_gpt.core.terminal import table_text

BASELINE = "plain torch"
"""What the others' speeds are divided by."""

PEERS = {"nanoGPT": "model.py", "litgpt": "litgpt"}
"""Trainers that may be in a checkout, and what tells them."""


@dataclass
class BenchTrainingConfig:
    data: str = "data/stdlib"
    """Folder of token shards, whose vocabulary is not larger than the shape's."""
    shapes: list[str] = field(default_factory=lambda: ["laptop"])
    """What is trained: laptop | 125m | 350m (on a GPU)."""
    rounds: int = 7
    """How often each trainer has its turn."""
    seconds: float = 3.0
    """About how long a turn is."""
    peers: str | None = None
    """A checkout of nanoGPT or litgpt, whose model is run. null: none."""
    output: str | None = None
    """A JSON file for the results. null: none."""

    def __post_init__(self) -> None:
        for name in self.shapes:
            require(name in SHAPES, "shapes", name, f"among {', '.join(SHAPES)}")
        require(self.rounds >= 1, "rounds", self.rounds, "at least 1")
        require(self.seconds > 0, "seconds", self.seconds, "above 0")


@dataclass(frozen=True)
class Result:
    """One trainer at one shape."""

    name: str
    tokens_per_s: float
    """Median over the turns."""
    ratio: float
    """Median over the turns of the speed divided by the baseline's in the same round."""
    least: float
    """Least ratio of a round."""
    most: float
    """Largest ratio of a round."""
    first_step_s: float
    """Seconds from the start of the process to the end of its first step; where the shape is
    compiled, with all others compiling beside it."""
    peak_bytes: int


class Contender:
    """A trainer in a process of its own, which waits for its turn."""

    def __init__(self, name: str, shape: str, data: str, peer: str, log: IO[str]) -> None:
        self.name = name
        self.log = Path(log.name)
        module = [sys.executable, "-m", "momentum_gpt.bench.contender"]
        self.process = subprocess.Popen(
            [*module, name, shape, data, peer],
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


def bench_training(config: BenchTrainingConfig) -> None:
    """Measure each shape and print a table."""
    if not (Path(config.data) / "manifest.json").is_file():
        raise UserError(
            f"data={config.data!r} holds no token shards: give a folder that `prepare` has "
            "written, or use make bench"
        )
    names = trainers(config.peers)
    found = {}
    for shape in config.shapes:
        results = measure(config, names, shape)
        found[shape] = [asdict(result) for result in results]
        print(table(SHAPES[shape], results), end="\n\n")
    if config.output:
        write_json(Path(config.output), {"machine": machine(), "shapes": found})


def trainers(peers: str | None) -> list[str]:
    """Return the names of what is timed, the baseline first.

    Raises:
        UserError: the checkout is neither nanoGPT's nor litgpt's.
    """
    names = [BASELINE, "vanilla", "momentum"]
    if find_spec("transformers") and find_spec("accelerate"):
        names.append("Trainer")
    if peers is None:
        return names
    there = [name for name, entry in PEERS.items() if (Path(peers) / entry).exists()]
    if not there:
        raise UserError(f"peers={peers!r} is no checkout of {' or '.join(PEERS)}: give its folder")
    return [*names, there[-1]]


def measure(config: BenchTrainingConfig, names: list[str], shape: str) -> list[Result]:
    """Let all trainers take their turns."""
    with ExitStack() as stack:
        contenders = []
        for name in names:
            started = started_contender(name, shape, config.data, config.peers or "")
            contenders.append(stack.enter_context(started))
            if not SHAPES[shape].compile:
                contenders[-1].warm_up()
        for one in contenders:
            if SHAPES[shape].compile:
                one.warm_up()  # all compile at once, which would take minutes one by one
            one.take(1)
            one.steps = max(1, round(config.seconds / one.take(2)))
        for _ in range(config.rounds):
            for one in contenders:
                one.turns.append(one.take(one.steps))
        return [result_of(one, contenders[0], SHAPES[shape]) for one in contenders]


@contextmanager
def started_contender(name: str, shape: str, data: str, peer: str) -> Iterator[Contender]:
    """Start a trainer, and end it after the block."""
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".log") as log:
        contender = Contender(name, shape, data, peer, log)
        try:
            yield contender
        finally:
            contender.end()


def result_of(one: Contender, baseline: Contender, shape: Shape) -> Result:
    """Return what the turns of a trainer say."""
    ratios = [base / own for base, own in zip(baseline.turns, one.turns, strict=True)]
    return Result(
        name=one.name,
        tokens_per_s=shape.tokens_per_step / statistics.median(one.turns),
        ratio=statistics.median(ratios),
        least=min(ratios),
        most=max(ratios),
        first_step_s=one.first_step_s,
        peak_bytes=one.peak_bytes,
    )


def table(shape: Shape, results: list[Result]) -> str:
    """Return a table for the terminal and the documentation."""
    rows = []
    for one in results:
        ratio = f"{one.ratio:.3f} [{one.least:.3f}, {one.most:.3f}]"
        peak = f"{one.peak_bytes / 1e6:,.0f}"
        rows.append([one.name, f"{one.tokens_per_s:,.0f}", ratio, peak, f"{one.first_step_s:.1f}"])
    head = ["trainer", "tokens/s", f"x {BASELINE} [least, most]", "peak", "first step"]
    return table_text(f"{shape}; {machine()}:", head, rows, ["", "", "", "MB", "s"])


def machine() -> str:
    """Return what this is measured on."""
    import torch

    from momentum_gpt.core.provenance import processor

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return f"{device}, torch {torch.__version__}"


main = Command(bench_training, BenchTrainingConfig, "bench_training")


if __name__ == "__main__":
    main()
