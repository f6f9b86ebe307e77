"""`recall` as a user runs it: real runs of the trainer, a few steps each."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    )
    jobs = jobs_of(config)
    assert len({job.name for job in jobs}) == len(jobs) == 3 * 2 * 2

    assert jobs[0].name == "vanilla-rotary-seed0"
    assert jobs[0].options == ("attention=vanilla", "model.positions=rotary")
    assert jobs[-1].name == "momentum_0.5-learned-seed1"
    assert jobs[-1].options[-1] == "attention.ema_decay=0.5"


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


def test_a_run_that_fails_is_named_with_its_last_line(tmp_path: Path) -> None:
    arguments = [
        f"output={tmp_path}",
        "attentions=[vanilla]",
        "seeds=1",
        "overrides=['model.n_heads=3']",
    ]
    done = command("momentum_gpt.recall", *arguments)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "the run vanilla-rotary-seed0 ended with exit code 2" in done.err
    assert "model.n_heads=2" in done.err
