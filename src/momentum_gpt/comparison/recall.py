"""The engine of the command `recall`: trainings of the same task, several at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from momentum_gpt.comparison.accuracy import Cell
from momentum_gpt.comparison.runs import Run, load_run
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.terminal import progress_bar


@dataclass(frozen=True)
class Job:
    """One training."""

    cell: Cell
    seed: int
    options: tuple[str, ...]
    """Options of `train` that make the cell what it is."""

    @property
    def name(self) -> str:
        """The name of the run."""
        return f"{self.cell.variant.replace(' ', '_')}-{self.cell.positions}-seed{self.seed}"


@dataclass(frozen=True)
class Study:
    """Trainings that belong together."""

    folder: Path
    """The folder of the runs and their logs."""
    jobs: Sequence[Job]
    at_a_time: int
    """Trainings that run at the same time."""
    options: Sequence[str]
    """Options of `train` for every run."""


def train_all(study: Study) -> dict[Cell, list[Run]]:
    """Train what is not finished yet, report each run as it ends, and return the runs by cell.

    Raises:
        UserError: a run failed.
    """
    study.folder.mkdir(parents=True, exist_ok=True)
    with (
        progress_bar("Runs", total=len(study.jobs)) as advance,
        ThreadPoolExecutor(study.at_a_time) as executor,
    ):
        waiting = {executor.submit(train, study, job): job for job in study.jobs}
        try:
            # In the order in which they end, so that a line never waits for a slower run.
            for number, finished in enumerate(as_completed(waiting), start=1):
                seconds = finished.result()
                print(_progress_line(study, waiting[finished], number, seconds), flush=True)
                advance(1)
        except BaseException:
            # Ctrl-C reaches the trainings as well: they save a checkpoint and stop by themselves.
            executor.shutdown(wait=False, cancel_futures=True)
            raise

    runs: dict[Cell, list[Run]] = {}
    for job in study.jobs:
        runs.setdefault(job.cell, []).append(load_run(str(study.folder / job.name)))
    return runs


def train(study: Study, job: Job) -> float:
    """Train a run to its end, or resume it, in a process of its own; return the seconds it took.

    Raises:
        UserError: the run did not finish.
    """
    arguments = [
        f"name={job.name}",
        f"runs={study.folder}",
        f"training.seed={job.seed}",
        *job.options,
        *study.options,
    ]

    # A process of its own: several trainings in one would share torch's threads and its generator.
    log = study.folder / f"{job.name}.log"
    began = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [sys.executable, "-m", "momentum_gpt.train", *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": _threads(study.at_a_time)},
            check=False,
        )

    # The last line of a run that fails names the cause.
    if done.returncode:
        lines = log.read_text(encoding="utf-8").strip().splitlines()
        raise UserError(
            f"the run {job.name} ended with exit code {done.returncode}; "
            f"the last line of {log}: {lines[-1] if lines else '(empty)'}"
        )
    return time.perf_counter() - began


def _threads(at_a_time: int) -> str:
    """Return the threads of each training: as the user has chosen, or a share of the cores."""
    chosen = os.environ.get("OMP_NUM_THREADS")
    cores = os.cpu_count() or 1
    return chosen or str(max(1, cores // at_a_time))


def _progress_line(study: Study, job: Job, number: int, seconds: float) -> str:
    accuracy = load_run(str(study.folder / job.name)).final["val/acc"]
    done = f"[{number}/{len(study.jobs)}]"
    return f"{done} {job.name:<32} {accuracy:6.1%} right, {seconds:.0f} s"
