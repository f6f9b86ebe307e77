"""Few-shot tasks in the training loop, afterwards, and in the comparison: whole processes, on one rank and on two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from momentum_gpt.core.files import read_json_lines
from tests.conftest import SMOKE, command


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("task")
    for split, n in (("train", 9), ("test", 7)):
        rows = [{"text": f"{split}{i}", "label": i % 2} for i in range(n)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "small.yaml").write_text(
        f"dataset: {folder}\ntest_split: test\ntemplate: 'x {{text}}:'\nverbalizers: [' red', ' blue']\n"
    )
    return str(folder / "small.yaml")


def measured(folder: Path) -> list[dict[str, Any]]:
    return [record for record in read_json_lines(folder / "metrics.jsonl") if "val/loss" in record]


def test_tasks_are_measured_while_training_and_afterwards_alike(
    data_folder: Path, task: str, tmp_path: Path
) -> None:
    """An odd number of queries on two ranks under ZeRO-3, against one process; then every checkpoint again, and compared."""
    icl = [f"evaluation.icl.tasks=[{task}]", "evaluation.icl.k=[0,2]", "evaluation.icl.seeds=2"]
    common = [f"data={data_folder}", f"runs={tmp_path}", *SMOKE, *icl]
    ranks = ["launch.nproc_per_node=2", "deepspeed=zero3", "attention=momentum"]
    for name, more in (("one", []), ("two", ranks)):
        done = command("momentum_gpt.train", f"name={name}", *common, *more)
        assert done.code == 0, done.err
    keys = {
        "icl/small/acc@0",
        "icl/small/acc@2",
        "icl/small/soft@0",
        "icl/small/soft@2",
        "eval/seconds",
    }
    assert all(
        keys <= record.keys() for name in ("one", "two") for record in measured(tmp_path / name)
    )
    for name in ("one", "two"):
        done = command(
            "momentum_gpt.evaluate",
            f"run={tmp_path / name}",
            "checkpoints=all",
            "evaluation.tokens=2048",
            *icl,
        )
        assert done.code == 0, done.err
        lines = [
            json.loads(line)
            for line in (tmp_path / name / "evaluations" / "icl.jsonl").read_text().splitlines()
        ]
        assert [(line["step"], line["k"], line["seed"]) for line in lines] == [
            (step, k, seed)
            for _ in ("then", "now")
            for step in (10, 20)
            for k, seed in ((0, 0), (2, 0), (2, 1))
        ]
        again = [
            json.loads(line)
            for line in (tmp_path / name / "evaluations" / "validation.jsonl")
            .read_text()
            .splitlines()
        ]
        for then, now in zip(measured(tmp_path / name), again, strict=True):
            for key in ("icl/small/soft@0", "icl/small/soft@2", "val/bpb"):
                assert now[key] == pytest.approx(then[key], rel=1e-4), key
    compared = command("momentum_gpt.compare", f"runs=[{tmp_path / 'one'},{tmp_path / 'two'}]")
    assert compared.code == 0, compared.err
    assert "Few-shot accuracy of two against one, paired by query:" in compared.out
    assert "Loss of two against one, nats per token, paired by document:" in compared.out
    assert "McNemar" in compared.out
