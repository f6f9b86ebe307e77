"""Time training beside other trainers: speed, memory, time to the first step.

    momentum-gpt bench training
    momentum-gpt bench training 'shapes=[laptop,125m]' peers=nanoGPT
    momentum-gpt bench training 'shapes=[350m]' output=bench.json
    momentum-gpt bench training processes=5 gate=bench.json

Vanilla and momentum attention run beside the same model in a plain torch loop,
the Trainer of `transformers` where it is installed and, in a checkout that
`peers` names, nanoGPT or litgpt. Each has a process of its own and takes its
steps in turn, so that what the machine does meanwhile meets all of them. What
is in the checkout is run.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from momentum_gpt.bench.processes import Contender, check_data, machine, started_contender
from momentum_gpt.bench.shapes import SHAPES, Shape
from momentum_gpt.cli import Command
from momentum_gpt.core.errors import MachineError, UserError, require
from momentum_gpt.core.files import read_json, write_json
from momentum_gpt.core.flops import flops_per_token, peak_flops
from momentum_gpt.core.terminal import table_text

BASELINE = "plain torch"
"""What the others' speeds are divided by."""

OURS = ("vanilla", "momentum")

TOLERANCE = 0.03
"""By how much a ratio may fall before the gate closes."""

PEERS = {"nanoGPT": "model.py", "litgpt": "litgpt"}
"""Trainers that may be in a checkout, and what tells them."""


@dataclass
class BenchTrainingConfig:
    data: str = "data/stdlib"
    """Folder of token shards, whose vocabulary is not larger than the shape's."""
    shapes: list[str] = field(default_factory=lambda: ["laptop"])
    """What is trained: laptop | 125m | 350m (on a GPU)."""
    processes: int = 3
    """How often all trainers are started: a process keeps a speed of its own by several percent,
    wherever its memory happens to lie."""
    rounds: int = 3
    """How often each trainer has its turn in each of its processes."""
    seconds: float = 3.0
    """About how long a turn is."""
    peers: str | None = None
    """A checkout of nanoGPT or litgpt, whose model is run. null: none."""
    output: str | None = None
    """A JSON file for the results. null: none."""
    gate: str | None = None
    """Results of an earlier call: end with an error if vanilla or momentum has become more than 3%
    slower beside plain torch. null: none."""

    def __post_init__(self) -> None:
        for name in self.shapes:
            require(name in SHAPES, "shapes", name, f"among {', '.join(SHAPES)}")
        for name in ("processes", "rounds"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
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
    mfu: float | None
    """Model FLOPs utilisation, a share. None: the device's peak is not known."""


def bench_training(config: BenchTrainingConfig) -> None:
    """Measure each shape and print a table."""
    check_data(config.data)
    if config.gate and not Path(config.gate).is_file():
        raise UserError(f"gate={config.gate!r} is no file: write one with output=FILE")
    names = trainers(config.peers)
    found = {}
    for shape in config.shapes:
        results = measure(config, names, shape)
        found[shape] = [asdict(result) for result in results]
        print(table(SHAPES[shape], results), end="\n\n")
    if config.output:
        write_json(Path(config.output), {"machine": machine(), "shapes": found})
    if config.gate:
        check_gate(read_json(Path(config.gate))["shapes"], found, config.gate)


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
    """Let all trainers take their turns, in one generation of processes after another."""
    timed = [Timed(name) for name in names]
    for _ in range(config.processes):
        with ExitStack() as stack:
            contenders = []
            for name in names:
                started = started_contender(name, SHAPES[shape], config.data, config.peers or "")
                contenders.append(stack.enter_context(started))
                if not SHAPES[shape].compile:
                    contenders[-1].warm_up()
            for one in contenders:
                if SHAPES[shape].compile:
                    one.warm_up()  # all compile at once, which would take minutes one by one
                one.settle(config.seconds)
            for _ in range(config.rounds):
                for one in contenders:
                    one.take_turn()
            for trainer, one in zip(timed, contenders, strict=True):
                trainer.add(one)
    return [result_of(one, timed[0], SHAPES[shape]) for one in timed]


@dataclass
class Timed:
    """A trainer, over all its processes."""

    name: str
    turns: list[float] = field(default_factory=list)
    """Seconds of a step in each turn."""
    first_steps: list[float] = field(default_factory=list)
    """Seconds to the first step, of each process."""
    peak_bytes: int = 0

    def add(self, process: Contender) -> None:
        """Add what a process has taken."""
        self.turns += process.turns
        self.first_steps.append(process.first_step_s)
        self.peak_bytes = max(self.peak_bytes, process.peak_bytes)


def result_of(one: Timed, baseline: Timed, shape: Shape) -> Result:
    """Return what the turns of a trainer say."""
    ratios = [base / own for base, own in zip(baseline.turns, one.turns, strict=True)]
    tokens_per_s = shape.tokens_per_step / statistics.median(one.turns)
    peak = peak_flops(machine())
    return Result(
        name=one.name,
        tokens_per_s=tokens_per_s,
        ratio=statistics.median(ratios),
        least=min(ratios),
        most=max(ratios),
        first_step_s=statistics.median(one.first_steps),
        peak_bytes=one.peak_bytes,
        mfu=tokens_per_s * flops_per_token(shape.model) / peak if peak else None,
    )


def table(shape: Shape, results: list[Result]) -> str:
    """Return a table for the terminal and the documentation."""
    rows = []
    for one in results:
        ratio = f"{one.ratio:.3f} [{one.least:.3f}, {one.most:.3f}]"
        peak = f"{one.peak_bytes / 1e6:,.0f}"
        mfu = f"{one.mfu:.1%}" if one.mfu else "-"
        first = f"{one.first_step_s:.1f}"
        rows.append([one.name, f"{one.tokens_per_s:,.0f}", ratio, mfu, peak, first])
    head = ["trainer", "tokens/s", f"x {BASELINE} [least, most]", "MFU", "peak", "first step"]
    return table_text(f"{shape}; {machine()}:", head, rows, ["", "", "", "", "MB", "s"])


def check_gate(stored: dict[str, Any], found: dict[str, Any], source: str) -> None:
    """Raise a MachineError if a trainer of ours has become slower beside the baseline.

    Args:
        stored, found: lists of results by shape; what is not in both is not compared.
        source: names the stored results.
    """
    slower = []
    for shape in stored.keys() & found.keys():
        before = {one["name"]: one["ratio"] for one in stored[shape]}
        for one in found[shape]:
            least = (1 - TOLERANCE) * before.get(one["name"], 0)
            if one["name"] in OURS and one["ratio"] < least:
                was = before[one["name"]]
                slower.append(f"{one['name']} at {shape}: {one['ratio']:.3f}, was {was:.3f}")
    if slower:
        raise MachineError(f"slower than gate={source!r} by over {TOLERANCE:.0%}: {slower}")


main = Command(bench_training, BenchTrainingConfig, "bench_training")


if __name__ == "__main__":
    main()
