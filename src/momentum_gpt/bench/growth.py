"""Measure how the cost of a training step grows, beside the growth of its FLOPs.

    momentum-gpt bench growth
    momentum-gpt bench growth 'axes=[context,vocabulary]' attention=momentum

One size of a small model grows at a time: the context, the width, the number of
layers, the vocabulary, the passes of a step, the ranks, the steps of a run. The
time grows like FLOPs^p: an exponent p of at most about 1 is as it should be,
and less is what a larger product gains. Ranks have a CPU core, and a batch of
the same size, each.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from momentum_gpt.bench.processes import check_data, machine, started_contender
from momentum_gpt.bench.shapes import SHAPES, Shape
from momentum_gpt.cli import Command
from momentum_gpt.core.errors import MachineError, require
from momentum_gpt.core.files import write_json
from momentum_gpt.core.flops import flops_per_token
from momentum_gpt.core.terminal import table_text

BASE = replace(SHAPES["laptop"], passes=1)

TINY = replace(BASE, n_layers=2, n_heads=2, d_model=64, seq_len=64, rows=4)
"""So small that what a run does beside its products is a large part of its time."""

AXES: dict[str, dict[int, Shape]] = {
    "context": {
        T: replace(BASE, seq_len=T, rows=max(1, 2048 // T)) for T in (256, 1024, 4096, 16384)
    },
    "width": {C: replace(BASE, d_model=C, n_heads=C // 32) for C in (64, 128, 256, 512)},
    "layers": {L: replace(BASE, n_layers=L) for L in (2, 4, 8, 16)},
    "vocabulary": {V: replace(BASE, vocab_size=V) for V in (2048, 16384, 65536, 262144)},
    "passes": {n: replace(BASE, passes=n) for n in (1, 2, 4, 8)},
    "ranks": {n: replace(BASE, passes=n) for n in (1, 2)},
    "steps": {n: replace(TINY, passes=n) for n in (250, 1000, 4000)},
}
"""What grows: its sizes, and the model and batch of each.

Of ranks, a pass of each makes a step; of steps, each pass is one of its own, and its whole run is
timed.
"""

MEASURED = {"ranks": "a rank's step", "steps": "run"}
"""What is timed, where it is not a step."""

TURNS = 3
"""Timed turns of each size; the median counts."""

STEPS = 60
"""Steps of a run of several ranks."""


@dataclass
class BenchGrowthConfig:
    data: str = "data/stdlib"
    """Folder of token shards, with a vocabulary of at most 2,048."""
    axes: list[str] = field(default_factory=lambda: list(AXES))
    """What grows: context | width | layers | vocabulary | passes | ranks | steps."""
    attention: str = "vanilla"
    """vanilla | momentum."""
    seconds: float = 2.0
    """About how long a timed turn is; there are three of each size."""
    output: str | None = None
    """A JSON file for the results. null: none."""

    def __post_init__(self) -> None:
        for name in self.axes:
            require(name in AXES, "axes", name, f"among {', '.join(AXES)}")
        known = self.attention in ("vanilla", "momentum")
        require(known, "attention", self.attention, "vanilla or momentum")
        require(self.seconds > 0, "seconds", self.seconds, "above 0")


@dataclass(frozen=True)
class Cost:
    """What a step, or a run, costs at one size."""

    size: int
    seconds: float
    flops: float
    """Attention to earlier tokens alone."""
    peak_bytes: int

    def exponent(self, smaller: Cost) -> float:
        """Return p, if the time grew like FLOPs^p from a smaller size."""
        return math.log(self.seconds / smaller.seconds) / math.log(self.flops / smaller.flops)


def bench_growth(config: BenchGrowthConfig) -> None:
    """Measure each axis and print a table."""
    check_data(config.data)
    found = {}
    for axis in config.axes:
        costs = []
        measure = {"ranks": cost_of_ranks, "steps": cost_of_run}.get(axis, cost)
        for size, shape in AXES[axis].items():
            costs.append(measure(size, shape, config))
        found[axis] = [asdict(one) for one in costs]
        print(table(axis, costs), end="\n\n", flush=True)
    if config.output:
        write_json(Path(config.output), {"machine": machine(), "axes": found})


def cost(size: int, shape: Shape, config: BenchGrowthConfig) -> Cost:
    """Measure a size in a process of its own."""
    with started_contender(config.attention, shape, config.data) as contender:
        contender.warm_up()
        contender.settle(config.seconds)
        for _ in range(TURNS):
            contender.take_turn()
    seconds = statistics.median(contender.turns)
    return Cost(size, seconds, flops_of_step(shape), contender.peak_bytes)


def cost_of_ranks(size: int, shape: Shape, config: BenchGrowthConfig) -> Cost:
    """Measure a step of a run of several ranks; the FLOPs are those of one."""
    logged = logged_by_run(shape, shape.tokens_per_step, STEPS, size, config)
    speeds = [line["train/tokens_per_s"] for line in logged[1:]]  # the first one warms up
    seconds = shape.tokens_per_step / statistics.median(speeds)
    return Cost(size, seconds, flops_of_step(shape) / size, peak_of(logged))


def cost_of_run(size: int, shape: Shape, config: BenchGrowthConfig) -> Cost:
    """Measure a whole run, from its first step to its last."""
    tokens_per_step = shape.tokens_per_step // size
    logged = logged_by_run(shape, tokens_per_step, size, 1, config)
    rates = [line["train/tokens_per_s"] for line in logged[1:]]  # the first one warms up
    seconds = seconds_at(rates, shape.tokens_per_step)
    return Cost(size, seconds, flops_of_step(shape), peak_of(logged))


def seconds_at(rates: list[float], tokens: int) -> float:
    """Return how long tokens take, of which equal parts are trained on at each rate."""
    return tokens / statistics.harmonic_mean(rates)


def peak_of(logged: list[dict[str, float]]) -> int:
    """Return the most memory that the main rank had, in bytes."""
    return round(logged[-1]["train/memory_gb"] * 1e9)


def logged_by_run(
    shape: Shape, tokens_per_step: int, steps: int, ranks: int, config: BenchGrowthConfig
) -> list[dict[str, float]]:
    """Train, and return what was logged every 10 steps."""
    with tempfile.TemporaryDirectory() as runs:
        options = [
            f"name=run runs={runs} data={config.data} attention={config.attention}",
            f"model.n_layers={shape.n_layers} model.n_heads={shape.n_heads}",
            f"model.d_model={shape.d_model} model.seq_len={shape.seq_len}",
            f"training.tokens_per_step={tokens_per_step} training.max_steps={steps}",
            f"training.max_tokens_per_forward={tokens_per_step // ranks}",
            "training.log_every=10 training.eval_every=0 training.save_every=0",
            f"evaluation.tokens={shape.seq_len} launch.nproc_per_node={ranks}",
            "tracking.wandb=disabled optim.warmup_steps=1",
        ]
        command = [sys.executable, "-m", "momentum_gpt.train", *" ".join(options).split()]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise MachineError(f"train has ended: {done.stderr.strip().splitlines()[-1]}")
        lines = (Path(runs) / "run" / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    return [line for line in logged if line.get("train/tokens_per_s")]


def flops_of_step(shape: Shape) -> float:
    """Return the FLOPs of a step."""
    return shape.tokens_per_step * flops_per_token(shape.model, causal=True)


def table(axis: str, costs: list[Cost]) -> str:
    """Return a table for the terminal and the documentation."""
    rows = []
    for smaller, one in zip([costs[0], *costs], costs, strict=False):
        grew = one.flops != smaller.flops
        exponent = f"{one.exponent(smaller):.2f}" if grew else "-"
        peak = f"{one.peak_bytes / 1e6:,.0f}"
        time = f"{one.seconds / smaller.seconds:.2f}"
        work = f"{one.flops / smaller.flops:.2f}"
        rows.append([f"{one.size:,}", f"{one.seconds * 1e3:,.1f}", time, work, exponent, peak])
    head = [axis, MEASURED.get(axis, "step"), "x time", "x FLOPs", "exponent", "peak"]
    title = f"{TINY if axis == 'steps' else BASE}; {machine()}:"
    return table_text(title, head, rows, ["", "ms", "", "", "", "MB"])


main = Command(bench_growth, BenchGrowthConfig, "bench_growth")


if __name__ == "__main__":
    main()
