"""Compare attention variants over seeds, until it is decided which is better.

    momentum-gpt sweep data=data/mine 'decays=[0.3,0.5,0.7]'
    momentum-gpt sweep data=data/mine 'rates=[0.001,0.002]' seeds=9 margin=0.002
    momentum-gpt sweep data=data/mine study=dai2023_350m plan=h100x8

The first variant is the one that the others are compared with. Each variant
first gets its own best learning rate, on seeds that are used for nothing else.
Then all are trained with seed 0, 1, ... After each seed, a test that may be
looked at so often decides for each variant: better, worse, no better than the
margin, or go on. What is decided is trained no further. A table and a report
end the sweep. The same command continues one that was interrupted. A study, a
file of conf/study/, is a sweep with all its options.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from momentum_gpt.cli import Command
from momentum_gpt.core.config import PAPERS, POSITIONS
from momentum_gpt.core.errors import UserError, require, require_choice
from momentum_gpt.core.terminal import table_text
from momentum_gpt.launching.jobs import Ended, Job, train_all

if TYPE_CHECKING:
    from momentum_gpt.comparison.runs import Run
    from momentum_gpt.comparison.sequential import Decision

TUNING_SEED = 1000
"""The first of the seeds on which learning rates are chosen."""

PLAN = (sys.executable, "-m", "momentum_gpt.plan")
"""The command that says what a run takes."""

DECISIONS = ["variant", "optim.lr", "decision", "after seeds"]
"""The columns of the table that ends a sweep."""

TUNED = ("optim.lr", "optim.min_lr")
"""Options that each variant has its own best value of."""


@dataclass
class SweepConfig:
    data: str | None = None
    """Folder of token shards; null for a synthetic task, named in `overrides`."""
    output: str = "runs/sweep"
    """Folder of the runs, their logs, and report.html."""
    variants: list[str] = field(default_factory=lambda: ["vanilla", "momentum"])
    """Attention variants, names of files in conf/attention/; the first is the baseline."""
    decays: list[float] = field(default_factory=lambda: [0.5])
    """Values of attention.ema_decay with which each variant that has a decay is trained."""
    positions: list[str] = field(default_factory=list)
    """Position encodings, learned | sinusoidal | rotary, with each of which the sweep is done.

    Each has its own baseline, and its own folder in `output`. []: that of the configuration.
    """
    rates: list[float] = field(default_factory=list)
    """Learning rates of which each variant takes its best. []: that of the configuration."""
    min_rate: float = 0.1
    """The last learning rate of a run, as a share of its highest, where `rates` are given."""
    tuning_seeds: int = 1
    """Runs of each variant with each of the `rates`."""
    seeds: int = 6
    """Most runs of each variant, with the seeds 0, 1, ..."""
    min_seeds: int = 1
    """Runs that each variant gets, even if it is decided before."""
    margin: float | None = None
    """Improvement, in nats, below which a variant is of no interest. null: none is."""
    jobs: int = 2
    """Runs that train at the same time, each with its share of the cores."""
    published: str | None = None
    """Published results that are printed beside the sweep's: dai2023. null: none."""
    plan: str | None = None
    """A cluster in conf/cluster/: print what the sweep would take there, and train nothing."""
    overrides: list[str] = field(default_factory=list)
    """Further options of `train` for every run, e.g. overrides="['launch=slurm']"."""
    experiment: str | None = None
    """A file in conf/experiment/ with options of `train` for every run; null: none."""

    def __post_init__(self) -> None:
        # Imported here so that --help does not load torch.
        from momentum_gpt.models import ATTENTIONS

        for name in self.variants:
            require(name in ATTENTIONS, "variants", name, f"among {', '.join(ATTENTIONS)}")
        for name in self.positions:
            require(name in POSITIONS, "positions", name, f"among {', '.join(POSITIONS)}")
        distinct = len(set(self.variants)) == len(self.variants) > 1
        require(distinct, "variants", self.variants, "two or more different ones")
        in_bounds = all(0 <= decay < 1 for decay in self.decays)
        require(bool(self.decays) and in_bounds, "decays", self.decays, "one or more in [0, 1)")
        require(all(rate > 0 for rate in self.rates), "rates", self.rates, "above 0, each")
        require(0 <= self.min_rate <= 1, "min_rate", self.min_rate, "in [0, 1]")
        for name in ("tuning_seeds", "jobs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        within = 2 <= self.seeds <= TUNING_SEED
        require(within, "seeds", self.seeds, f"from 2 to {TUNING_SEED}")
        within = 1 <= self.min_seeds <= self.seeds
        require(within, "min_seeds", self.min_seeds, f"from 1 to seeds={self.seeds}")
        require_choice((None, *PAPERS), "published", self.published)
        positive = self.margin is None or self.margin > 0
        require(positive, "margin", self.margin, "above 0, or null")

    @property
    def tuning(self) -> range:
        """The seeds on which learning rates are chosen; none if there is nothing to choose."""
        n_seeds = self.tuning_seeds if len(self.rates) > 1 else 0
        return range(TUNING_SEED, TUNING_SEED + n_seeds)


@dataclass
class Variant:
    """A variant of the sweep, and how far it has come."""

    name: str
    options: tuple[str, ...]
    rate: float | None = None
    """Its learning rate; None: that of the configuration."""
    decision: Decision | None = None
    seeds: int = 0
    """Seeds it has been trained with."""

    @property
    def is_decided(self) -> bool:
        from momentum_gpt.comparison.sequential import GO_ON

        return self.decision is not None and self.decision.verdict != GO_ON


def variants_of(config: SweepConfig) -> list[Variant]:
    """Return the variants, once for each decay if they have one, the baseline first."""
    from momentum_gpt.launching.variants import variants

    found = variants(config.variants, config.decays)
    return [Variant(name, tuple(options)) for name, options in found]


def sweep(config: SweepConfig) -> int | None:
    """Do the sweep with each of the position encodings, or say what it would take."""
    if config.plan:
        return plan(config)
    decided = {part.output: sweep_part(part) for part in parts_of(config)}
    if config.positions:
        for folder, variants in decided.items():
            print(f"\n{summary(variants, folder)}")
    return None


def parts_of(config: SweepConfig) -> list[SweepConfig]:
    """Return a sweep for each position encoding, or the one that was asked for."""
    if not config.positions:
        return [config]
    return [
        replace(
            config,
            output=f"{config.output}/{name}",
            overrides=[*config.overrides, f"model.positions={name}"],
        )
        for name in config.positions
    ]


def plan(config: SweepConfig) -> int:
    """Print what the runs of the sweep would take on a cluster, at most; return the exit code."""
    variants = variants_of(config)
    tuning = len(config.tuning) * len(config.rates)
    each = len(variants) * (tuning + config.seeds) * max(1, len(config.positions))
    rate = config.rates[0] if config.rates else None
    options = job_of(config, variants[0], rate, seed=0).options
    words = [*PLAN, f"cluster={config.plan}", f"trainings={each}", *options]
    return subprocess.run(words, check=False).returncode


def sweep_part(config: SweepConfig) -> list[Variant]:
    """Choose learning rates, train seed by seed, and compare; return what was decided."""
    variants = variants_of(config)
    print(
        f"{len(variants)} variants, at most {config.seeds} seeds, {config.jobs} run(s) at a time, "
        f"in {config.output}",
        flush=True,
    )
    choose_rates(config, variants)
    for seed in range(config.seeds):
        train_seed(config, variants, seed)
        decide_all(config, variants, seed + 1)
        if seed + 1 >= config.min_seeds and all(one.is_decided for one in variants[1:]):
            break
    print(f"\n{summary(variants, config.output)}\n")
    print(report(config, variants))
    return variants


def choose_rates(config: SweepConfig, variants: Sequence[Variant]) -> None:
    """Set each variant's learning rate to that of the smallest mean loss."""
    if not config.tuning:
        for variant in variants:
            variant.rate = config.rates[0] if config.rates else None
        return

    jobs = {}
    for variant, rate in product(variants, config.rates):
        of_seeds = [job_of(config, variant, rate, seed) for seed in config.tuning]
        jobs[variant.name, rate] = of_seeds
    train(config, [job for of_one in jobs.values() for job in of_one])
    for variant in variants:
        losses = {rate: mean_loss(config, jobs[variant.name, rate]) for rate in config.rates}
        variant.rate = min(losses, key=losses.__getitem__)
        tried = ", ".join(f"{rate:g}: {loss:.4f}" for rate, loss in losses.items())
        edge = variant.rate in (min(config.rates), max(config.rates))
        more = "; at the edge of the rates, where a better one may lie beyond" if edge else ""
        print(f"{variant.name} at optim.lr={variant.rate:g} ({tried}){more}", flush=True)


def train_seed(config: SweepConfig, variants: Sequence[Variant], seed: int) -> None:
    """Train the baseline, and every variant that is not decided, with a seed."""
    needed = seed < config.min_seeds
    going_on = [variants[0], *(one for one in variants[1:] if needed or not one.is_decided)]
    train(config, [job_of(config, one, one.rate, seed) for one in going_on])
    for one in going_on:
        one.seeds = seed + 1


def decide_all(config: SweepConfig, variants: Sequence[Variant], seeds: int) -> None:
    """Decide about each variant, given that many seeds, and say so.

    The error rate is divided among the variants (Bonferroni).
    """
    import numpy as np

    from momentum_gpt.comparison.sequential import decide
    from momentum_gpt.evaluation.statistics import LEVEL

    baseline, *others = variants
    first = np.array([loss_of(config, baseline, seed) for seed in range(seeds)])
    for variant in others:
        if variant.is_decided:
            continue
        losses = np.array([loss_of(config, variant, seed) for seed in range(seeds)])
        gaps = losses - first
        variant.decision = decide(gaps, config.margin, level=LEVEL / len(others))
        print(
            f"{seeds} seed(s): {variant.name} against {baseline.name} {gaps.mean():+.4f} nats: "
            f"{variant.decision.verdict}",
            flush=True,
        )


def summary(variants: Sequence[Variant], where: str) -> str:
    """Return a table of the decisions."""
    rows = []
    for variant in variants:
        rate = "" if variant.rate is None else f"{variant.rate:g}"
        decision = variant.decision
        said = ("baseline", "") if decision is None else (decision.verdict, str(decision.pairs))
        rows.append([variant.name, rate, *said])
    return table_text(f"Decisions, {where}:", DECISIONS, rows)


def report(config: SweepConfig, variants: Sequence[Variant]) -> str:
    """Write the report over all runs that were compared; return its text for the terminal."""
    from momentum_gpt.comparison.compare import compare_runs

    folders = []
    for variant in variants:
        folders += [str(folder_of(config, variant, seed)) for seed in range(variant.seeds)]
    return compare_runs(
        folders,
        Path(config.output) / "report.html",
        tuned=TUNED if config.rates else (),
        looked_at=True,
        published=config.published,
    )


def job_of(config: SweepConfig, variant: Variant, rate: float | None, seed: int) -> Job:
    """Return the job of one run."""
    from momentum_gpt.launching.variants import waiting

    name = variant.name.replace(" ", "_")
    options = [*variant.options, f"training.seed={seed}"]
    if rate is not None:
        name += f"-lr{rate:g}"
        options += [f"optim.lr={rate}", f"optim.min_lr={rate * config.min_rate}"]
    if config.data is not None:
        options.append(f"data={config.data}")
    if config.experiment is not None:
        options.append(f"experiment={config.experiment}")
    group = config.experiment or "sweep"
    options += [f"tracking.group={group}", *waiting(config.overrides)]
    return Job(f"{name}-seed{seed}", tuple(options))


def folder_of(config: SweepConfig, variant: Variant, seed: int) -> Path:
    """Return the folder of a variant's run at its own learning rate."""
    return Path(config.output) / job_of(config, variant, variant.rate, seed).name


def loss_of(config: SweepConfig, variant: Variant, seed: int) -> float:
    """Return the final validation loss of a run, in nats per token."""
    return final_loss(finished(folder_of(config, variant, seed)))


def mean_loss(config: SweepConfig, jobs: Sequence[Job]) -> float:
    """Return the mean final validation loss of runs, in nats per token."""
    losses = [final_loss(finished(Path(config.output) / job.name)) for job in jobs]
    return sum(losses) / len(losses)


def final_loss(run: Run) -> float:
    """Return the validation loss that the training itself measured last."""
    return float(run.series("val/loss")[1][-1])


def finished(folder: Path) -> Run:
    """Return a run that has reached its last step.

    Raises:
        UserError: it has not, because its job was only submitted.
    """
    from momentum_gpt.comparison.runs import load_run

    if (folder / "metrics.jsonl").is_file():
        run = load_run(str(folder))
        if run.is_finished:
            return run
    raise UserError(
        f"{folder} has not reached its last step; its job may still run: the same command goes on "
        "when it is done"
    )


def train(config: SweepConfig, jobs: Sequence[Job]) -> None:
    """Train all runs, and report each as it ends.

    Raises:
        JobsFailedError: some failed; the others are complete.
        StoppedError: a run, or this process, was asked to stop.
    """

    def describe(ended: Ended) -> str:
        what = "failed" if ended.exit_code else "done"
        return f"{ended.job.name} {what}, {ended.seconds:.0f} s"

    train_all(jobs, config.jobs, Path(config.output), describe)


main = Command(sweep, SweepConfig, "sweep")


if __name__ == "__main__":
    main()
