"""One watched rank, as a process of its own: `python -m tests.training.watched WHAT SECONDS`."""

from __future__ import annotations

import sys
import time

import torch

from momentum_gpt.core import activity, distributed, stopping
from momentum_gpt.training.supervision import Watchdog

SILENCE = 4.0
HANG_AFTER = 5.0


def work_on(seconds: float) -> None:
    """Take steps together with the other ranks."""
    end = time.monotonic() + seconds
    step = 0
    while not distributed.true_on_any_rank(time.monotonic() > end):
        step += 1
        activity.pulse(f"step {step}")
        time.sleep(0.05)


def stand_still(seconds: float) -> None:
    activity.pulse(f"standing still on rank {distributed.rank()}")
    time.sleep(seconds)


def leave_early(seconds: float) -> None:
    """Go on alone on the main rank."""
    end = time.monotonic() + seconds
    while distributed.is_main() and time.monotonic() < end:
        activity.pulse("the last words")
        time.sleep(0.05)


def report(line: str, exit_code: int) -> None:
    print(f"reported with exit code {exit_code}: {line}", flush=True)


def main(what: str, seconds: float) -> None:
    stopping.GRACE = 3.0
    stopping.listen()
    distributed.start(torch.device("cpu"))
    with Watchdog(HANG_AFTER, report, SILENCE):
        print("ready", flush=True)
        {"work": work_on, "stand": stand_still, "leave": leave_early}[what](seconds)
    time.sleep(seconds if what == "leave" and not distributed.is_main() else 0)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
