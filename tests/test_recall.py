"""`recall` as a user runs it: real runs of the trainer, a few steps each."""

from __future__ import annotations

from pathlib import Path

import pytest

from momentum_gpt.core.files import read_json_lines
from tests.conftest import command

SHORT = "overrides=['training.max_steps=6','training.eval_every=2','training.tokens_per_step=256','evaluation.tokens=1024']"


@pytest.mark.parametrize("task", ["recall", "induction"])
def test_variants_are_trained_side_by_side_and_not_twice(task: str, tmp_path: Path) -> None:
    output = tmp_path / task
    arguments = [
        f"task={task}",
        f"output={output}",
        "attentions=[vanilla,momentum]",
        "seeds=1",
        SHORT,
    ]
    done = command("momentum_gpt.recall", *arguments)
    assert done.code == 0, done.err
    assert {path.name for path in output.iterdir() if path.is_dir()} == {
        "vanilla-rotary-seed0",
        "momentum_0.5-rotary-seed0",
    }
    records = [
        read_json_lines(output / f"{name}-rotary-seed0" / "metrics.jsonl")
        for name in ("vanilla", "momentum_0.5")
    ]
    assert [row["step"] for row in records[0] if "val/acc" in row] == [2, 4, 6]
    assert "rotary     momentum 0.5" in done.out
    assert (output / "recall.html").is_file()
    again = command("momentum_gpt.recall", *arguments)
    assert again.out.splitlines()[-5:] == done.out.splitlines()[-5:]
    assert [
        read_json_lines(output / f"{name}-rotary-seed0" / "metrics.jsonl")
        for name in ("vanilla", "momentum_0.5")
    ] == records


def test_a_run_that_fails_is_named_with_what_it_said(tmp_path: Path) -> None:
    arguments = [
        f"output={tmp_path}",
        "attentions=[vanilla]",
        "seeds=1",
        "overrides=['model.n_heads=3']",
    ]
    done = command("momentum_gpt.recall", *arguments)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "the run vanilla-rotary-seed0 ended with 2" in done.err
    assert "take model.n_heads=2" in done.err
