"""`recall` as a user runs it: real runs of the trainer, a few steps each."""

from __future__ import annotations

from pathlib import Path

import pytest

from momentum_gpt.comparison.accuracy import Cell
from momentum_gpt.core.files import read_json_lines
from momentum_gpt.recall import RecallConfig, jobs_of
from tests.conftest import command

SHORT = [
    "training.max_steps=6",
    "training.eval_every=2",
    "training.tokens_per_step=256",
    "evaluation.tokens=1024",
]


def test_every_variant_is_trained_with_every_decay_position_encoding_and_seed() -> None:
    config = RecallConfig(
        attentions=["vanilla", "momentum"],
        decays=[0.3, 0.5],
        positions=["rotary", "learned"],
        seeds=2,
        overrides=["training.max_steps=9"],
    )
    by_cell = jobs_of(config)
    assert list(by_cell) == [
        Cell(variant, positions)
        for positions in ("rotary", "learned")
        for variant in ("vanilla", "momentum 0.3", "momentum 0.5")
    ]
    jobs = [job for of_cell in by_cell.values() for job in of_cell]
    assert len({job.name for job in jobs}) == len(jobs) == 3 * 2 * 2

    last = by_cell[Cell("momentum 0.5", "learned")]
    assert [job.name for job in last] == [f"momentum_0.5-learned-seed{seed}" for seed in (0, 1)]
    assert last[1].options == (
        *("attention=momentum", "attention.ema_decay=0.5", "model.positions=learned"),
        *("training.seed=1", "experiment=recall", "tracking.wandb=disabled"),
        "training.max_steps=9",
    )
    assert "attention.ema_decay" not in " ".join(by_cell[Cell("vanilla", "rotary")][0].options)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["recall", pytest.param("induction", marks=pytest.mark.slow)])
def test_variants_are_trained_side_by_side_and_not_twice(task: str, tmp_path: Path) -> None:
    output = tmp_path / task
    arguments = [
        f"task={task}",
        f"output={output}",
        "attentions=[vanilla,momentum]",
        "seeds=1",
        f"overrides={SHORT}",
    ]
    done = command("momentum_gpt.recall", *arguments)
    assert done.code == 0, done.err

    names = ["vanilla-rotary-seed0", "momentum_0.5-rotary-seed0"]
    folders = [path.name for path in output.iterdir() if path.is_dir()]
    assert sorted(folders) == sorted(names)

    records = [read_json_lines(output / name / "metrics.jsonl") for name in names]
    assert [row["step"] for row in records[0] if "val/acc" in row] == [2, 4, 6]
    assert "[2/2] " in done.out
    assert [line.split()[:3] for line in done.out.splitlines()[-4:-2]] == [
        ["rotary", "vanilla", accuracy_at(records[0], 2)],
        ["rotary", "momentum", "0.5"],
    ]
    assert (output / "recall.html").is_file()

    again = command("momentum_gpt.recall", *arguments)
    assert again.out.splitlines()[-5:] == done.out.splitlines()[-5:]
    assert [read_json_lines(output / name / "metrics.jsonl") for name in names] == records


def accuracy_at(records: list[dict], step: int) -> str:
    """Return the accuracy of a step as the table prints it for a single run."""
    (row,) = [record for record in records if record["step"] == step and "val/acc" in record]
    return f"{row['val/acc']:.3f}"


def test_runs_that_fail_are_named_with_their_last_lines(tmp_path: Path) -> None:
    arguments = [
        f"output={tmp_path}",
        "attentions=[vanilla]",
        "seeds=2",
        "overrides=['model.n_heads=3']",
    ]
    done = command("momentum_gpt.recall", *arguments)
    assert done.code == 1
    assert "[2/2] vanilla-rotary-seed" in done.out
    head, *named = done.err.splitlines()
    assert head == "error: 2 job(s) of the sweep failed:"
    for seed, line in zip((0, 1), sorted(named), strict=True):
        assert f"vanilla-rotary-seed{seed} (exit code 2)" in line
        assert "model.n_heads=2" in line
