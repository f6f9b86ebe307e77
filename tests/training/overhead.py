"""What checkpoints, the watchdog and logging cost: `python -m tests.training.overhead`.

The same run, at the laptop's default shape, with all of them and with none, in turns. The time of
a step is the mean from the end of the tenth step to the end of the last.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean

WARM_UP = 10
ON = ["training.save_every=20", "training.log_every=10"]
OFF = ["training.save_every=0", "training.log_every=1000000"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="data/stdlib", help="token shards")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()

    ratios = []
    for pair in range(arguments.pairs):
        order = ["on", "off"] if pair % 2 else ["off", "on"]
        seconds = {what: run(what, arguments.data, arguments.steps) for what in order}
        ratios.append(seconds["on"] / seconds["off"])
        print(
            f"with all of it {1000 * seconds['on']:.1f} ms a step, "
            f"without {1000 * seconds['off']:.1f} ms, ratio {ratios[-1]:.4f}",
            flush=True,
        )
    print(f"mean ratio {fmean(ratios):.4f}, from {min(ratios):.4f} to {max(ratios):.4f}")


def run(what: str, data: str, steps: int) -> float:
    """Return the seconds of a step, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "seconds"
        options = ["name=x", f"runs={folder}", f"data={data}", f"training.max_steps={steps}"]
        options += [
            "training.eval_every=0",
            "evaluation.tokens=256",
            *(ON if what == "on" else OFF),
        ]
        options += ["evaluation.induction_sequences=1", "tracking.wandb=disabled"]
        code = f"from tests.training.overhead import child; child({what!r}, {str(report)!r})"
        command = [sys.executable, "-c", code, *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return float(report.read_text())


def child(what: str, report: str) -> None:
    """Train in this process, and write the seconds of a step."""
    from momentum_gpt import train, worker
    from momentum_gpt.training import loop

    ends: list[float] = []

    class TimedProgress(loop.Progress):
        def step(self) -> None:
            ends.append(time.perf_counter())
            super().step()

    loop.Progress = TimedProgress  # type: ignore[misc]
    if what == "off":
        worker.Watchdog = lambda *_: contextlib.nullcontext()  # type: ignore[assignment, misc]
        worker.open_tracker = lambda *_: None  # type: ignore[assignment]
    with contextlib.suppress(SystemExit):
        train.main()
    seconds = (ends[-1] - ends[WARM_UP - 1]) / (len(ends) - WARM_UP)
    Path(report).write_text(str(seconds))


if __name__ == "__main__":
    main()
