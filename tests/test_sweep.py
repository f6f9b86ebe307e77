"""The sweep chooses learning rates, trains seed by seed, and stops where it is decided."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from momentum_gpt import sweep
from momentum_gpt.comparison import sequential
from momentum_gpt.comparison.sequential import GO_ON, Decision
from momentum_gpt.launching.jobs import Job
from momentum_gpt.sweep import SweepConfig, Variant
from tests.conftest import Result

Invoke = Callable[..., Result]

TINY = [
    "experiment=recall",
    "model.n_layers=1",
    "model.d_model=16",
    "training.max_steps=4",
    "training.eval_every=2",
    "training.tokens_per_step=128",
    "evaluation.tokens=128",
    "optim.warmup_steps=1",
    "tracking.wandb=disabled",
]


class Simulated:
    """Losses by variant and seed instead of runs, and which runs were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, means: dict[str, float]) -> None:
        self.trained: list[str] = []
        self.options: list[tuple[str, ...]] = []
        self.means = means
        monkeypatch.setattr(sweep, "train", self.train)
        monkeypatch.setattr(sweep, "loss_of", self.loss_of)
        monkeypatch.setattr(sweep, "mean_loss", self.mean_loss)
        monkeypatch.setattr(sweep, "report", lambda *_: "")

    def train(self, config: SweepConfig, jobs: list[Job]) -> None:
        self.trained += [job.name for job in jobs]
        self.options += [job.options for job in jobs]

    def loss_of(self, config: SweepConfig, variant: Variant, seed: int) -> float:
        noise = np.random.default_rng([seed, len(variant.name)]).normal(0, 0.01)
        return self.means[variant.name] + float(noise)

    def mean_loss(self, config: SweepConfig, jobs: list[Job]) -> float:
        """Smallest at the learning rate 0.002."""
        return abs(float(jobs[0].name.split("-lr")[1].split("-")[0]) - 0.002)


def test_what_is_decided_is_trained_no_further(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulated = Simulated(
        monkeypatch, {"vanilla": 5.0, "momentum 0.5": 4.8, "momentum 0.9": 5.0, "shift": 5.2}
    )
    sweep.sweep(SweepConfig(variants=["vanilla", "momentum", "shift"], decays=[0.5, 0.9], seeds=9))
    seeds = {
        name: sum(run.startswith(f"{name}-seed") for run in simulated.trained)
        for name in ("vanilla", "momentum_0.5", "momentum_0.9", "shift")
    }
    assert seeds["vanilla"] == seeds["momentum_0.9"] == 9
    assert 3 <= seeds["momentum_0.5"] < 9
    assert 3 <= seeds["shift"] < 9
    out = capsys.readouterr().out
    decisions = out[out.index("Decisions, runs/sweep:") :].splitlines()
    found = {line.split("  ")[0]: line.split() for line in decisions}
    assert found["momentum 0.5"][-2:] == ["better", str(seeds["momentum_0.5"])]
    assert found["shift"][-2:] == ["worse", str(seeds["shift"])]
    assert found["momentum 0.9"][-3:] == ["go", "on", "9"]


def test_a_variant_that_is_no_better_than_the_margin_ends_the_sweep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulated = Simulated(monkeypatch, {"vanilla": 5.0, "momentum 0.5": 5.0})
    sweep.sweep(SweepConfig(seeds=20, margin=0.1))
    assert 3 <= len(simulated.trained) / 2 < 12


def test_each_variant_gets_its_best_rate_on_seeds_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulated = Simulated(monkeypatch, {"vanilla": 5.0, "momentum 0.5": 5.0})
    sweep.sweep(SweepConfig(rates=[0.001, 0.002, 0.004], tuning_seeds=2, seeds=2))
    tuning = [
        f"vanilla-lr{rate}-seed{seed}" for rate in (0.001, 0.002, 0.004) for seed in (1000, 1001)
    ]
    assert simulated.trained[:6] == tuning
    assert simulated.trained[12:] == [
        "vanilla-lr0.002-seed0",
        "momentum_0.5-lr0.002-seed0",
        "vanilla-lr0.002-seed1",
        "momentum_0.5-lr0.002-seed1",
    ]
    assert "edge" not in capsys.readouterr().out


def test_each_position_encoding_has_a_baseline_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulated = Simulated(monkeypatch, {"vanilla": 5.0, "momentum 0.5": 4.0})
    sweep.sweep(SweepConfig(positions=["learned", "rotary"], rates=[0.001], seeds=2))
    assert len(simulated.trained) == 2 * 2 * 2
    options = [set(options) for options in simulated.options]
    assert [("model.positions=rotary" in of_run) for of_run in options] == [False] * 4 + [True] * 4
    assert all("model.positions=learned" in of_run for of_run in options[:4])
    out = capsys.readouterr().out
    for folder in ("runs/sweep/learned", "runs/sweep/rotary"):
        assert out.count(f"Decisions, {folder}:") == 2  # after its part, and at the end


def test_a_plan_counts_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def run(words: list[str], check: bool) -> SimpleNamespace:
        started.append(words)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(sweep.subprocess, "run", run)
    config = SweepConfig(
        variants=["vanilla", "shift", "momentum"],
        decays=[0.3, 0.5],
        positions=["learned", "rotary"],
        rates=[0.001, 0.002, 0.004],
        seeds=5,
        plan="h100x8",
    )
    assert sweep.sweep(config) == 0
    # 4 variants; 3 rates on one seed, and 5 seeds; 2 position encodings.
    assert "trainings=64" in started[0]
    assert "cluster=h100x8" in started[0]


def test_a_job_that_is_submitted_is_waited_for() -> None:
    config = SweepConfig(overrides=["launch=slurm", "launch.slurm.partition=p"])
    job = sweep.job_of(config, sweep.variants_of(config)[0], None, 0)
    assert job.options[-1] == "launch.wait=true"
    assert "launch.wait=true" not in sweep.job_of(SweepConfig(), Variant("x", ()), None, 0).options


def test_a_job_has_its_options() -> None:
    config = SweepConfig(data="data/x", min_rate=0.5, overrides=["a=1"])
    variant = sweep.variants_of(config)[1]
    job = sweep.job_of(config, variant, 0.004, 3)
    assert job == Job(
        "momentum_0.5-lr0.004-seed3",
        (
            "attention=momentum",
            "attention.ema_decay=0.5",
            "training.seed=3",
            "optim.lr=0.004",
            "optim.min_lr=0.002",
            "data=data/x",
            "tracking.group=sweep",
            "a=1",
        ),
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("variants=[vanilla]", "two or more different ones"),
        ("variants=[vanilla,vanila]", "'vanila'"),
        ("decays=[1.0]", "one or more in [0, 1)"),
        ("rates=[0]", "above 0, each"),
        ("seeds=1", "from 2 to 1000"),
        ("margin=-0.1", "above 0, or null"),
    ],
)
def test_what_makes_no_sweep_is_refused(invoke: Invoke, option: str, message: str) -> None:
    done = invoke(sweep.main, option)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1


@pytest.mark.slow
def test_a_sweep_ends_in_a_report_and_a_second_one_trains_nothing(
    invoke: Invoke, tmp_path: Path
) -> None:
    quoted = ",".join(f"'{option}'" for option in TINY)
    options = [f"output={tmp_path}", "rates=[0.001,0.01]", "seeds=2", f"overrides=[{quoted}]"]
    done = invoke(sweep.main, *options)
    assert done.code == 0, done.err
    folders = [path.parent for path in tmp_path.glob("*/config.yaml")]
    assert len(folders) == 2 * 2 + 2 * 2
    assert "Each variant at its own optim.lr" in done.out or "lr0.01" in done.out
    assert "anytime p" in done.out
    assert "t-test p" not in done.out
    assert (tmp_path / "report.html").is_file()

    before = {path: path.read_bytes() for path in tmp_path.glob("*/metrics.jsonl")}
    again = invoke(sweep.main, *options)
    assert again.code == 0, again.err
    assert before == {path: path.read_bytes() for path in tmp_path.glob("*/metrics.jsonl")}
    assert again.out[again.out.index("Decisions, ") :] == done.out[done.out.index("Decisions, ") :]


def test_the_error_rate_is_divided_among_the_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    Simulated(monkeypatch, {"vanilla": 5.0, "momentum 0.5": 5.0, "momentum 0.9": 5.0})
    levels = []

    def decide(gaps: np.ndarray, margin: float | None, level: float) -> Decision:
        levels.append(level)
        return Decision(GO_ON, len(gaps))

    monkeypatch.setattr(sequential, "decide", decide)
    sweep.sweep(SweepConfig(decays=[0.5, 0.9], seeds=2))
    assert levels == [0.05 / 2] * 4


def test_each_variant_gets_the_seeds_it_was_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = Simulated(monkeypatch, {"vanilla": 5.0, "momentum 0.5": 4.0})
    reported = []
    monkeypatch.setattr(sweep, "report", lambda _, variants: reported.extend(variants))
    sweep.sweep(SweepConfig(seeds=9, min_seeds=7))
    assert len(simulated.trained) == 2 * 7
    assert [variant.seeds for variant in reported] == [7, 7]
    assert 3 <= reported[1].decision.pairs < 7
