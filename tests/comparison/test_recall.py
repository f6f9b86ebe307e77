"""Trainings of one task, several at a time."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from momentum_gpt.comparison import recall
from momentum_gpt.comparison.accuracy import Cell
from momentum_gpt.comparison.recall import Job, Study


def test_the_runs_of_a_cell_stand_together_in_the_order_of_their_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever ends first: here the last one does."""
    cells = [Cell("vanilla", "rotary"), Cell("momentum 0.5", "rotary")]
    jobs = [Job(cell, seed, ()) for cell in cells for seed in (0, 1)]
    monkeypatch.setattr(recall, "train", lambda study, job: 0.0)
    monkeypatch.setattr(recall, "_progress_line", lambda *_: "")
    monkeypatch.setattr(recall, "load_run", lambda folder: Path(folder).name)

    found = recall.train_all(Study(tmp_path, jobs, 4, ()))
    assert found == {
        cells[0]: ["vanilla-rotary-seed0", "vanilla-rotary-seed1"],
        cells[1]: ["momentum_0.5-rotary-seed0", "momentum_0.5-rotary-seed1"],
    }


@pytest.mark.parametrize(
    ("environment", "at_a_time", "threads"),
    [({}, 2, "4"), ({}, 3, "2"), ({}, 9, "1"), ({"OMP_NUM_THREADS": "5"}, 2, "5")],
)
def test_a_training_has_its_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], at_a_time: int, threads: str
) -> None:
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    started: list[dict[str, str]] = []

    def run(*_: object, env: dict[str, str], **__: object) -> SimpleNamespace:
        started.append(env)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr(Path, "open", lambda *_, **__: nullcontext())
    recall.train(Study(Path(), [], at_a_time, ()), Job(Cell("vanilla", "rotary"), 0, ()))
    assert [env["OMP_NUM_THREADS"] for env in started] == [threads]
