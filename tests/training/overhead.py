"""What safety and telemetry cost: `python -m tests.training.overhead --what telemetry`.

    safety      checkpoints, the watchdog, and a line of metrics every 10 steps
    telemetry   a line of metrics every 10 steps, one by layer every 100, and time by phase
    layers      metrics by layer at every step: how much longer such a step takes

One run at the laptop's default shape has it in some blocks of steps and not in others, in the order
on, off, off, on, again and again: what the machine does in a minute meets both alike. A checkpoint
is in the middle of its block, so that the thread that writes it ends in the same block.

On a machine that is busy with other work, OMP_NUM_THREADS=1 and `--clock cpu` say more.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from scipy.stats import ttest_1samp

from momentum_gpt import train, worker
from momentum_gpt.core.config import TrainConfig, TrainingConfig
from momentum_gpt.training import loop, throughput
from momentum_gpt.training.supervision import Watchdog

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
EVERY = TrainingConfig.layers_every
mark = throughput.mark


@contextmanager
def safety(training: TrainingConfig) -> Iterator[None]:
    training.save_every = SWITCHED["safety"].block
    training.log_every = 10
    with Watchdog(600, lambda *_: None):
        yield
    training.save_every = training.log_every = 0


@contextmanager
def telemetry(training: TrainingConfig) -> Iterator[None]:
    training.log_every, training.layers_every = 10, EVERY
    throughput.mark = mark
    yield
    training.log_every = training.layers_every = 0
    throughput.mark = no_mark


@contextmanager
def layers(training: TrainingConfig) -> Iterator[None]:
    training.layers_every = 1
    yield
    training.layers_every = 0


def no_mark() -> float:
    """Stand in for `mark` while no phase is timed."""
    return 0.0


class Switched(NamedTuple):
    """What is on while it is entered, and the steps of a block, an even number."""

    on: Callable[[TrainingConfig], AbstractContextManager[None]]
    block: int


SWITCHED = {
    "safety": Switched(safety, block=20),
    "telemetry": Switched(telemetry, block=EVERY),
    "layers": Switched(layers, block=2),
}


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--what", choices=SWITCHED, default="safety")
    parser.add_argument("--data", default="data/stdlib", help="token shards")
    parser.add_argument("--rounds", type=int, default=10, help="of four blocks")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="what takes the time")
    parser.add_argument("--option", action="append", default=[], help="of train")
    arguments = parser.parse_args()

    seconds = measure(arguments)
    ratios = []
    for first in range(0, len(seconds), 4):
        on_1, off_1, off_2, on_2 = seconds[first : first + 4]
        ratios.append(math.log((on_1 + on_2) / (off_1 + off_2)))
    interval = ttest_1samp(ratios, 0).confidence_interval()
    found = [math.exp(ratio) for ratio in (fmean(ratios), interval.low, interval.high)]

    block, clock = SWITCHED[arguments.what].block, arguments.clock
    step = 1000 * fmean(seconds) / block
    print(f"{len(ratios)} rounds of four blocks of {block} steps of {step:.0f} ms, {clock} time")
    say(f"time with {arguments.what} / without", found)
    if arguments.what == "layers":
        say(f"so at every {EVERY}th step", [1 + (ratio - 1) / EVERY for ratio in found])


def say(what: str, found: list[float]) -> None:
    ratio, low, high = found
    print(f"{what}: {ratio:.4f}, 95% interval [{low:.4f}, {high:.4f}]")


def measure(arguments: argparse.Namespace) -> list[float]:
    """Train in this process; return the seconds of each block."""
    switched = SWITCHED[arguments.what]
    block = switched.block
    warm_up = block * math.ceil(10 / block)
    first = warm_up + block // 2  # so that multiples of block are in the middle
    switch = Switch(first, switched, CLOCKS[arguments.clock])
    train_run = worker.train

    def with_switch(config: TrainConfig, *others: Any) -> int:
        switch.hold(config.training)
        return train_run(config, *others)

    class SwitchingProgress(loop.Progress):
        def step(self) -> None:
            super().step()
            switch.step()

    worker.train = with_switch  # type: ignore[assignment]
    worker.Watchdog = lambda *_: contextlib.nullcontext()  # type: ignore[assignment, misc]
    loop.Progress = SwitchingProgress  # type: ignore[misc]

    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["train", "name=x", f"runs={folder}", f"data={Path(arguments.data).resolve()}"]
        sys.argv.append(f"training.max_steps={first + 4 * arguments.rounds * block}")
        sys.argv += ["training.eval_every=0", "training.save_every=0", "evaluation.tokens=256"]
        sys.argv += ["evaluation.induction_sequences=1", "tracking.wandb=disabled"]
        sys.argv += arguments.option
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
            train.main()
    switch.off()
    return [later - earlier for earlier, later in pairwise(switch.times)]


class Switch:
    """Switches something on and off between two blocks, and takes the time.

    Args:
        first: steps before the first block.
        switched: what is switched.
        clock: takes the time.
    """

    def __init__(self, first: int, switched: Switched, clock: Callable[[], float]) -> None:
        self.first = first
        self.switched = switched
        self.clock = clock
        self.done = 0
        self.times: list[float] = []
        self.training: TrainingConfig
        self.held = ExitStack()

    def hold(self, training: TrainingConfig) -> None:
        """Take the options of the run, and switch off all that they can."""
        self.training = training
        training.save_every = training.log_every = training.layers_every = 0

    def step(self) -> None:
        """Count a step; at the end of a block, switch."""
        self.done += 1
        blocks, steps = divmod(self.done - self.first, self.switched.block)
        if blocks < 0 or steps:
            return
        self.times.append(self.clock())
        self.off()
        if blocks % 4 in (0, 3):
            self.held.enter_context(self.switched.on(self.training))

    def off(self) -> None:
        """Switch it off, if it is on."""
        self.held.close()


if __name__ == "__main__":
    main()
