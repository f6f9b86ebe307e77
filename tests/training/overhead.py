"""What checkpoints, the watchdog and logging cost: `python -m tests.training.overhead`.

One run at the laptop's default shape has all of them in some blocks of steps and none in others, in
the order on, off, off, on, again and again: what the machine does in a minute meets both alike. A
checkpoint is in the middle of its block, so that the thread that writes it ends in the same block.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy.stats import ttest_1samp

from momentum_gpt.core.config import TrainConfig, TrainingConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="data/stdlib", help="token shards")
    parser.add_argument("--block", type=int, default=20, help="steps of a block, an even number")
    parser.add_argument("--rounds", type=int, default=10, help="of four blocks")
    parser.add_argument("--option", action="append", default=[], help="of the training")
    arguments = parser.parse_args()

    seconds = measure(arguments)
    ratios = []
    for first in range(0, len(seconds), 4):
        on_1, off_1, off_2, on_2 = seconds[first : first + 4]
        ratios.append(math.log((on_1 + on_2) / (off_1 + off_2)))
    interval = ttest_1samp(ratios, 0).confidence_interval()
    step = 1000 * fmean(seconds) / arguments.block
    print(f"{len(ratios)} rounds of four blocks of {arguments.block} steps of {step:.0f} ms")
    print(f"time with all of it / without: {math.exp(fmean(ratios)):.4f}")
    print(f"95% interval [{math.exp(interval.low):.4f}, {math.exp(interval.high):.4f}]")


def measure(arguments: argparse.Namespace) -> list[float]:
    """Train in this process; return the seconds of each block."""
    from momentum_gpt import train, worker
    from momentum_gpt.training import loop

    block = arguments.block
    first = block + block // 2  # the first steps are slower; checkpoints are at multiples of block
    switch = Switch(first, block)
    train_run = worker.train

    def with_switch(config: TrainConfig, *others: Any) -> int:
        switch.training = config.training
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
    switch.watchdog.close()
    return [later - earlier for earlier, later in pairwise(switch.times)]


class Switch:
    """Switches everything on and off between two blocks, and takes the time.

    Args:
        first: steps before the first block.
        block: steps of a block.
    """

    def __init__(self, first: int, block: int) -> None:
        self.first = first
        self.block = block
        self.done = 0
        self.times: list[float] = []
        self.training: TrainingConfig
        self.watchdog = contextlib.ExitStack()

    def step(self) -> None:
        """Count a step; at the end of a block, switch."""
        from momentum_gpt.training.supervision import Watchdog

        self.done += 1
        blocks, steps = divmod(self.done - self.first, self.block)
        if blocks < 0 or steps:
            return
        self.times.append(time.perf_counter())
        is_on = blocks % 4 in (0, 3)
        self.watchdog.close()
        if is_on:
            self.watchdog.enter_context(Watchdog(600, lambda *_: None))
        self.training.save_every = self.block if is_on else 0
        self.training.log_every = 10 if is_on else 0


if __name__ == "__main__":
    main()
