"""Which attention can learn to recall: train every variant on a synthetic task, several seeds each, and set them side by side.

    python -m momentum_gpt.recall
    python -m momentum_gpt.recall decays=[0.3,0.5,0.7,0.9] positions=[learned,rotary] seeds=5
    python -m momentum_gpt.recall task=induction output=runs/induction

Each is a run of `momentum_gpt.train` in its own folder; what is finished is not trained again. The task is that of
conf/experiment/recall.yaml; the vocabulary's keys and values mean nothing, so only the context can tell an answer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from momentum_gpt.cli import Command
from momentum_gpt.comparison.recall import Cell, as_text, page
from momentum_gpt.comparison.runs import load_run
from momentum_gpt.core.config import POSITIONS, TASKS, require
from momentum_gpt.core.errors import UserError
from momentum_gpt.models import ATTENTIONS


@dataclass
class RecallConfig:
    output: str = "runs/recall"
    """The folder of the runs, their logs and recall.html."""
    task: str = "recall"
    """recall | induction: the file of conf/experiment/ that has it."""
    attentions: list[str] = field(default_factory=lambda: ["vanilla", "shift", "momentum"])
    decays: list[float] = field(default_factory=lambda: [0.5])
    """A variant that takes ema_decay is trained with each of these."""
    positions: list[str] = field(default_factory=lambda: ["rotary"])
    """learned | sinusoidal | rotary, any of them."""
    seeds: int = 3
    """Runs of each, with the seeds 0, 1, ..."""
    jobs: int = 2
    """Runs at a time; each gets its share of the cores."""
    overrides: list[str] = field(default_factory=list)
    """Further options of every run, e.g. overrides="['training.max_steps=2000']"."""

    def __post_init__(self) -> None:
        require(self.task in TASKS, "task", self.task, f"one of {', '.join(TASKS)}")
        require(self.seeds >= 1, "seeds", self.seeds, "at least 1")
        require(self.jobs >= 1, "jobs", self.jobs, "at least 1")
        for name in self.attentions:
            require(name in ATTENTIONS, "attentions", name, f"among {', '.join(ATTENTIONS)}")
        for name in self.positions:
            require(name in POSITIONS, "positions", name, f"among {', '.join(POSITIONS)}")


@dataclass(frozen=True)
class Job:
    cell: Cell
    seed: int
    options: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.cell.variant.replace(' ', '_')}-{self.cell.positions}-seed{self.seed}"


def jobs_of(config: RecallConfig) -> Iterator[Job]:
    for positions in config.positions:
        for name in config.attentions:
            decays = config.decays if ATTENTIONS[name].has_decay else [None]
            for decay in decays:
                cell = Cell(name if decay is None else f"{name} {decay}", positions)
                options = (
                    f"attention={name}",
                    *([] if decay is None else [f"attention.ema_decay={decay}"]),
                )
                yield from (Job(cell, seed, options) for seed in range(config.seeds))


def train(job: Job, config: RecallConfig) -> float:
    """Train the job's run to its end; returns the seconds it took.

    Raises:
        UserError: the run did not finish.
    """
    arguments = [
        f"experiment={config.task}",
        f"name={job.name}",
        f"runs={config.output}",
        *job.options,
    ]
    arguments += [
        f"model.positions={job.cell.positions}",
        f"training.seed={job.seed}",
        "tracking.wandb=disabled",
    ]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // config.jobs))
    log = Path(config.output) / f"{job.name}.log"
    began = time.perf_counter()
    with log.open("w") as file:
        done = subprocess.run(
            [sys.executable, "-m", "momentum_gpt.train", *arguments, *config.overrides],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": threads},
            check=False,
        )
    if done.returncode:
        last = (log.read_text().strip().splitlines() or ["nothing"])[-1]
        raise UserError(
            f"the run {job.name} ended with {done.returncode}; the last line of {log}: {last}"
        )
    return time.perf_counter() - began


def recall(config: RecallConfig) -> None:
    folder, jobs = Path(config.output), list(jobs_of(config))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{len(jobs)} runs of {config.task}, {config.jobs} at a time, in {folder}", flush=True)
    with ThreadPoolExecutor(config.jobs) as executor:
        waiting = {executor.submit(train, job, config): job for job in jobs}
        try:
            for number, finished in enumerate(as_completed(waiting), start=1):
                job = waiting[finished]
                seconds, accuracy = (
                    finished.result(),
                    load_run(str(folder / job.name)).final["val/acc"],
                )
                print(
                    f"[{number}/{len(jobs)}] {job.name:<32} {accuracy:6.1%} right, {seconds:.0f} s",
                    flush=True,
                )
        except BaseException:
            executor.shutdown(
                wait=False, cancel_futures=True
            )  # those that run are interrupted as we are, and save
            raise
    runs = {
        job.cell: [load_run(str(folder / other.name)) for other in jobs if other.cell == job.cell]
        for job in jobs
    }
    (folder / "recall.html").write_text(page(config.task, runs))
    print(f"\n{as_text(runs)}\n\nfigure: {folder / 'recall.html'}")


main = Command(recall, RecallConfig, "recall")


if __name__ == "__main__":
    main()
