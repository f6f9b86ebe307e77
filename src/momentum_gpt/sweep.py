"""Compare attention variants over seeds, until it is decided which is better.

    momentum-gpt sweep data=data/mine decays=[0.3,0.5,0.7]
    momentum-gpt sweep data=data/mine rates=[0.001,0.002] seeds=10 margin=0.002

The first variant is the one that the others are compared with. Each variant
first gets its own best learning rate, on seeds that are used for nothing else.
Then all are trained with seed 0, 1, ... After each seed, a test that may be
looked at so often decides for each variant: better, worse, no better than the
margin, or go on. What is decided is trained no further. A table and a report
end the sweep. The same command continues one that was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from momentum_gpt.cli import Command
from momentum_gpt.core.config import require
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.terminal import progress_bar, table_text
from momentum_gpt.launching.jobs import Job, require_success, run_jobs

if TYPE_CHECKING:
    from momentum_gpt.comparison.runs import Run
    from momentum_gpt.comparison.sequential import Decision

TUNING_SEED = 1000
"""The first of the seeds on which learning rates are chosen."""

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
    overrides: list[str] = field(default_factory=list)
    """Further options of `train` for every run, e.g. overrides="['experiment=smoke']"."""

    def __post_init__(self) -> None:
        # Imported here so that --help does not load torch.
        from momentum_gpt.models import ATTENTIONS

        for name in self.variants:
            require(name in ATTENTIONS, "variants", name, f"among {', '.join(ATTENTIONS)}")
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
        positive = self.margin is None or self.margin > 0
        require(positive, "margin", self.margin, "above 0, or null")


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
    from momentum_gpt.models import ATTENTIONS

    found = []
    for name in config.variants:
        decays = config.decays if ATTENTIONS[name].has_decay else [None]
        for decay in decays:
            options = [f"attention={name}"]
            if decay is not None:
                options.append(f"attention.ema_decay={decay}")
            found.append(Variant(name if decay is None else f"{name} {decay}", tuple(options)))
    return found


def sweep(config: SweepConfig) -> None:
    """Choose learning rates, train seed by seed, and compare."""
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
    print(f"\n{summary(variants)}\n")
    print(report(config, variants))


def choose_rates(config: SweepConfig, variants: Sequence[Variant]) -> None:
    """Set each variant's learning rate to that of the smallest mean loss."""
    if len(config.rates) < 2:
        for variant in variants:
            variant.rate = config.rates[0] if config.rates else None
        return

    seeds = range(TUNING_SEED, TUNING_SEED + config.tuning_seeds)
    jobs = {
        (variant.name, rate): [job_of(config, variant, rate, seed) for seed in seeds]
        for variant in variants
        for rate in config.rates
    }
    train_all(config, [job for of_one in jobs.values() for job in of_one])
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
    train_all(config, [job_of(config, one, one.rate, seed) for one in going_on])
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


def summary(variants: Sequence[Variant]) -> str:
    """Return a table of the decisions."""
    rows = []
    for variant in variants:
        rate = "" if variant.rate is None else f"{variant.rate:g}"
        decision = variant.decision
        said = ("baseline", "") if decision is None else (decision.verdict, str(decision.pairs))
        rows.append([variant.name, rate, *said])
    return table_text("Decisions:", ["variant", "optim.lr", "decision", "after seeds"], rows)


def report(config: SweepConfig, variants: Sequence[Variant]) -> str:
    """Write the report over all runs that were compared; return its text for the terminal."""
    from momentum_gpt.comparison.compare import compare_runs

    folders = []
    for variant in variants:
        folders += [str(folder_of(config, variant, seed)) for seed in range(variant.seeds)]
    tuned = TUNED if config.rates else ()
    return compare_runs(folders, Path(config.output) / "report.html", tuned=tuned, looked_at=True)


def job_of(config: SweepConfig, variant: Variant, rate: float | None, seed: int) -> Job:
    """Return the job of one run."""
    name = variant.name.replace(" ", "_")
    options = [*variant.options, f"training.seed={seed}"]
    if rate is not None:
        name += f"-lr{rate:g}"
        options += [f"optim.lr={rate}", f"optim.min_lr={rate * config.min_rate}"]
    if config.data is not None:
        options.append(f"data={config.data}")
    return Job(f"{name}-seed{seed}", (*options, "tracking.group=sweep", *config.overrides))


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


def train_all(config: SweepConfig, jobs: Sequence[Job]) -> None:
    """Train all runs, and report each as it ends.

    Raises:
        JobsFailedError: some failed; the others are complete.
        StoppedError: a run, or this process, was asked to stop.
    """
    done = []
    with progress_bar("Runs", total=len(jobs)) as advance:
        for ended in run_jobs(jobs, config.jobs, Path(config.output)):
            done.append(ended)
            what = "failed" if ended.exit_code else "done"
            print(f"  {ended.job.name} {what}, {ended.seconds:.0f} s", flush=True)
            advance(1)
    require_success(done)


main = Command(sweep, SweepConfig, "sweep")


if __name__ == "__main__":
    main()
