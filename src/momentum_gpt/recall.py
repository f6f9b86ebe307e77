"""Find out which attention can learn to recall.

    momentum-gpt recall
    momentum-gpt recall 'decays=[0.3,0.5]' 'positions=[learned,rotary]' seeds=5
    momentum-gpt recall task=induction output=runs/induction

Every variant is trained on a synthetic task with several seeds, each run in
its own folder, and their accuracies are compared. Runs that are finished are
not trained again. The task is the one of conf/experiment/recall.yaml: its keys
and values have no meaning, so that only the context tells an answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from momentum_gpt.cli import Command
from momentum_gpt.core.config import POSITIONS, TASKS, require
from momentum_gpt.core.files import write_text
from momentum_gpt.launching.jobs import Ended, Job, train_all

if TYPE_CHECKING:
    from momentum_gpt.comparison.accuracy import Cell


@dataclass
class RecallConfig:
    output: str = "runs/recall"
    """Folder of the runs, their logs, and the page recall.html."""
    task: str = "recall"
    """The synthetic task, described in conf/experiment/TASK.yaml: recall | induction."""
    attentions: list[str] = field(default_factory=lambda: ["vanilla", "shift", "momentum"])
    """The attention variants to train: names of files in conf/attention/."""
    decays: list[float] = field(default_factory=lambda: [0.5])
    """Values of attention.ema_decay with which each variant that has a decay is trained."""
    positions: list[str] = field(default_factory=lambda: ["rotary"])
    """The position encodings with which each variant is trained: learned | sinusoidal | rotary."""
    seeds: int = 3
    """Number of runs of each variant, with the seeds 0, 1, ..."""
    jobs: int = 2
    """Runs that train at the same time, each with its share of the cores."""
    overrides: list[str] = field(default_factory=list)
    """Further options for every run, e.g. overrides="['training.max_steps=2000']"."""

    def __post_init__(self) -> None:
        # Imported here so that --help does not load torch.
        from momentum_gpt.models import ATTENTIONS

        require(self.task in TASKS, "task", self.task, f"one of {', '.join(TASKS)}")
        require(self.seeds >= 1, "seeds", self.seeds, "at least 1")
        require(self.jobs >= 1, "jobs", self.jobs, "at least 1")
        for name in self.attentions:
            require(name in ATTENTIONS, "attentions", name, f"among {', '.join(ATTENTIONS)}")
        for name in self.positions:
            require(name in POSITIONS, "positions", name, f"among {', '.join(POSITIONS)}")


def jobs_of(config: RecallConfig) -> dict[Cell, list[Job]]:
    """Return every variant with every decay and position encoding, with a run for each seed."""
    from momentum_gpt.comparison.accuracy import Cell
    from momentum_gpt.launching.variants import variants, waiting

    overrides = waiting(config.overrides)
    shared = (f"experiment={config.task}", "tracking.wandb=disabled", *overrides)
    jobs = {}
    for positions in config.positions:
        for variant, options in variants(config.attentions, config.decays):
            of_cell = (*options, f"model.positions={positions}")
            name = f"{variant.replace(' ', '_')}-{positions}-seed"
            jobs[Cell(variant, positions)] = [
                Job(f"{name}{seed}", (*of_cell, f"training.seed={seed}", *shared))
                for seed in range(config.seeds)
            ]
    return jobs


def recall(config: RecallConfig) -> None:
    """Train every variant, write the page, and print the table."""
    from momentum_gpt.comparison.accuracy import accuracy_page, accuracy_table
    from momentum_gpt.comparison.runs import load_run

    folder = Path(config.output)
    by_cell = jobs_of(config)
    jobs = [job for of_cell in by_cell.values() for job in of_cell]
    print(f"{config.task}: {len(jobs)} run(s), {config.jobs} at a time, in {folder}", flush=True)
    train_all(jobs, config.jobs, folder, lambda ended: in_a_line(ended, folder))

    runs = {}
    for cell, of_cell in by_cell.items():
        runs[cell] = [load_run(str(folder / job.name)) for job in of_cell]
    page = folder / "recall.html"
    write_text(page, accuracy_page(config.task, runs))
    print(f"\n{accuracy_table(runs).as_text()}\n\nfigure: {page}")


def in_a_line(ended: Ended, folder: Path) -> str:
    """Return what became of a run: how well it has learned the task, and in how many seconds."""
    from momentum_gpt.comparison.runs import load_run

    name = ended.job.name
    if ended.exit_code:
        return f"{name:<32} failed, {ended.seconds:.0f} s"
    accuracy = load_run(str(folder / name)).final["val/acc"]
    return f"{name:<32} {accuracy:6.1%} right, {ended.seconds:.0f} s"


main = Command(recall, RecallConfig, "recall")


if __name__ == "__main__":
    main()
