"""`intervene` as a user calls it, on runs of the trainer: its files, and what it refuses."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from momentum_gpt import intervene
from momentum_gpt.analysis.intervention import draw, effects_on
from momentum_gpt.core.config import TaskConfig
from momentum_gpt.data.synthetic_tasks import HELD_OUT, NO_TARGET, SyntheticTask
from momentum_gpt.models import load_model
from tests.conftest import Result, command

Invoke = Callable[..., Result]

TASK = SyntheticTask(TaskConfig(kind="recall", n_pairs=4, n_keys=8, n_values=8), 32)
SMALL = [
    "experiment=recall",
    "tracking.wandb=disabled",
    "task.n_pairs=4",
    "task.n_keys=8",
    "task.n_values=8",
    "model.d_model=16",
    "model.seq_len=32",
    "training.max_steps=4",
    "training.tokens_per_step=256",
    "training.eval_every=0",
    "training.save_every=2",
    "training.keep_checkpoints=2",
    "optim.warmup_steps=1",
    "evaluation.tokens=256",
]
N = 12
"""Sequences."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a vanilla run and two seeds of momentum, each with a checkpoint at steps 2 and 4."""
    folder = tmp_path_factory.mktemp("runs")
    for name, *options in (
        ("vanilla", "attention=vanilla"),
        ("momentum-0", "attention=momentum", "attention.layers=[0]"),
        ("momentum-1", "attention=momentum", "attention.layers=[0]", "training.seed=1"),
    ):
        done = command("momentum_gpt.train", f"name={name}", f"runs={folder}", *SMALL, *options)
        assert done.code == 0, done.err
    return {path.name: path for path in folder.iterdir()}


def read(output: Path) -> list[dict[str, str]]:
    with (output / "table.csv").open() as file:
        return list(csv.DictReader(file))


def right(run: Path, step: int) -> np.ndarray:
    """Return the share of right answers of each held-out sequence."""
    tokens, answers = TASK.draw(HELD_OUT, 2**41, N)
    model = load_model(run / "checkpoints" / f"step_{step:08}" / "model").eval()
    with torch.no_grad():
        chosen = model(torch.from_numpy(tokens)).argmax(-1).numpy()
    return ((chosen == answers) & (answers != NO_TARGET)).sum(1) / (answers != NO_TARGET).sum(1)


def test_two_seeds_over_training(runs: dict[str, Path], invoke: Invoke, tmp_path: Path) -> None:
    seeds = [runs["momentum-0"], runs["momentum-1"]]
    options = ["checkpoints=all", f"sequences={N}", f"output={tmp_path / 'out'}"]
    done = invoke(intervene.main, f"runs=[{seeds[0]},{seeds[1]}]", *options)
    assert done.code == 0, done.err
    assert "momentum 0.5, layers [0], 2 run(s), 12 sequences:" in done.out
    assert [line for line in done.out.splitlines() if line.startswith("written: ")] == [
        f"written: {tmp_path / 'out' / name}" for name in ("table.csv", "interventions.html")
    ]

    lines = read(tmp_path / "out")
    assert [line["step"] for line in lines] == ["2"] * 15 + ["4"] * 15
    for line in (lines[0], lines[15]):
        assert line["part"] == "nothing"
        means = [right(run, int(line["step"])).mean() for run in seeds]
        assert float(line["without"]) == pytest.approx(np.mean(means), abs=1e-5)
        margin = 12.7062 * np.std(means, ddof=1) / np.sqrt(2)  # Student's t, 1 degree of freedom
        assert float(line["without_margin"]) == pytest.approx(margin, abs=1e-5)
        assert line["own"] == line["without"]

    # Nothing is added in layer 1: without it, everything stays as it is.
    last = {(line["layer"], line["head"], line["part"]): line for line in lines[15:]}
    for head in ("0", "1", "all"):
        assert last["1", head, "added"]["without"] == last["-", "-", "nothing"]["without"]
    for layer in ("0", "1"):
        weights = [float(last[layer, head, "softmax"]["previous"]) for head in ("0", "1")]
        assert weights[0] > weights[1] > 0

    page = (tmp_path / "out" / "interventions.html").read_text()
    assert f">{float(last['all', 'all', 'added']['unrelated']):.3f}</td>" in page
    assert "over 2 runs" in page
    assert '"figures": [{' in page


def test_the_last_checkpoint_of_one_vanilla_run(
    runs: dict[str, Path], invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke(intervene.main, f"runs=[{runs['vanilla']}]", f"sequences={N}")
    assert done.code == 0, done.err
    lines = read(tmp_path / "interventions")
    assert [line["part"] for line in lines] == ["nothing"] + ["softmax"] * 7
    values = right(runs["vanilla"], 4)
    assert float(lines[0]["without"]) == pytest.approx(values.mean(), abs=1e-5)
    margin = 2.20099 * values.std(ddof=1) / np.sqrt(N)  # Student's t, 11 degrees of freedom
    assert float(lines[0]["without_margin"]) == pytest.approx(margin, abs=1e-5)

    model = load_model(runs["vanilla"] / "checkpoints" / "step_00000004" / "model").eval()
    effect = effects_on(model, draw(TASK, N))[-1]  # of the softmax, everywhere
    expected = (effect.out, effect.followed, effect.exchanged, effect.unrelated)
    for name, values in zip(("without", "twin", "own", "unrelated"), expected, strict=True):
        assert float(lines[-1][name]) == pytest.approx(float(values.mean()), abs=1e-5)
    assert len({lines[-1][name] for name in ("without", "twin", "own", "unrelated")}) > 2

    page = (tmp_path / "interventions" / "interventions.html").read_text()
    assert "over 12 sequences" in page
    assert '"figures": []' in page


def test_a_step_that_not_all_runs_have_is_left_out(
    runs: dict[str, Path], invoke: Invoke, tmp_path: Path
) -> None:
    shorter = tmp_path / "shorter"
    shutil.copytree(runs["momentum-1"], shorter)
    shutil.rmtree(shorter / "checkpoints" / "step_00000004")
    (shorter / "checkpoints" / "latest").write_text("step_00000002\n")
    options = [f"runs=[{runs['momentum-0']},{shorter}]", "sequences=2", f"output={tmp_path}"]

    done = invoke(intervene.main, *options, "checkpoints=all")
    assert done.code == 0, done.err
    assert "left out, not all runs have a checkpoint: step 4\n" in done.out
    assert {line["step"] for line in read(tmp_path)} == {"2"}

    done = invoke(intervene.main, *options)
    assert (done.code, done.out) == (2, "")
    assert "different steps (2, 4)" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["runs=[]"], "at least one run"),
        (["runs=[{vanilla}]", "checkpoints=some"], "latest or all"),
        (["runs=[{vanilla}]", "sequences=1"], "at least 2"),
        (["runs=[{vanilla}]", "outputs=x"], "outputs"),
        (["runs=[nowhere]"], "nowhere holds no model"),
        (["runs=[{vanilla}/checkpoints/step_00000004/model]", "checkpoints=all"], "checkpoints"),
        (["runs=[{vanilla},{momentum-0}]"], "vanilla"),
        (["runs=[{text}]"], "was not trained on the task recall"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    options: list[str], message: str, runs: dict[str, Path], invoke: Invoke, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    shutil.copytree(runs["vanilla"], text)
    config = text / "config.yaml"
    config.write_text(config.read_text().replace("kind: recall", "kind: induction"))

    filled = [option.format(**runs, text=text) for option in options]
    done = invoke(intervene.main, *filled, f"output={tmp_path / 'out'}")
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
