"""The command `evaluate`: what it opens, prints, stores, and does not do twice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from momentum_gpt import evaluate
from momentum_gpt.core.config import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimConfig,
    TrackingConfig,
    TrainConfig,
    TrainingConfig,
    write_config,
)
from momentum_gpt.core.files import read_json, read_json_lines, sha256_of_file, write_json
from momentum_gpt.core.manifest import CheckpointManifest, read_checkpoint_manifest
from momentum_gpt.data import TokenShards
from momentum_gpt.evaluation import checkpoints
from momentum_gpt.models import GPT, save_model
from momentum_gpt.models.gpt import init_weights
from tests.conftest import SMOKE, Result, command

Invoke = Callable[..., Result]

SMALL = ["evaluation.tokens=640", "evaluation.induction_sequences=2"]

BEFORE = "measured before with the same options; again=true measures it again"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("task")
    for split, n in (("train", 9), ("test", 7)):
        rows = [{"text": f"{split}{i}", "label": i % 2} for i in range(n)]
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    (folder / "small.yaml").write_text(
        f"dataset: {folder}\n"
        "test_split: test\n"
        "template: 'x {text}:'\n"
        "verbalizers: [' red', ' blue']\n"
    )
    return str(folder / "small.yaml")


@pytest.fixture
def run_dir(data_folder: Path, tmp_path: Path) -> Path:
    """A run as training leaves it, with two checkpoints of random weights."""
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    config = TrainConfig(
        name="a",
        data=DataConfig(str(data_folder), packing="best_fit"),
        model=ModelConfig(1, 2, 16, 64, vocab_size=512),
        attention={"name": "vanilla"},
        optim=OptimConfig(lr=1e-3, min_lr=0, warmup_steps=0),
        training=TrainingConfig(max_steps=20, tokens_per_step=64),
        deepspeed={},
        evaluation=EvaluationConfig(tokens=640),
        tracking=TrackingConfig(wandb="disabled"),
        runs=str(folder.parent),
    )
    write_config(config, folder / "config.yaml")
    for step in (10, 20):
        write_checkpoint(folder, config.model, step, data_folder / "tokenizer.model")
    return folder


def write_checkpoint(run_dir: Path, shape: ModelConfig, step: int, tokenizer: Path) -> None:
    """Write a checkpoint whose weights are drawn from the step."""
    name = f"step_{step:08}"
    folder = run_dir / "checkpoints" / name
    model = GPT(shape, {"name": "vanilla"})
    init_weights(model, seed=step)
    save_model(folder / "model", model, dict(model.named_parameters()), tokenizer)

    weights = "model/model.safetensors"
    manifest = CheckpointManifest(
        step=step,
        tokens=64 * step,
        order_sha256="",
        canary_loss=0.0,
        world_size=1,
        initial_weights_sha256="",
        data_sha256="",
        tokenizer_sha256="",
        files={weights: sha256_of_file(folder / weights)},
    )
    manifest.write(folder)
    (run_dir / "checkpoints" / "latest").write_text(name)


def lines_of(run_dir: Path) -> dict[str, list[dict[str, Any]]]:
    folder = run_dir / "evaluations"
    return {path.stem: read_json_lines(path) for path in sorted(folder.glob("*.jsonl"))}


@pytest.fixture
def measured_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The titles of what is measured, in order: empty as long as nothing is."""
    names: list[str] = []
    measure = checkpoints.measure_model

    def watched(*arguments: Any, **named: Any) -> Any:
        names.append(arguments[-1])
        return measure(*arguments, **named)

    monkeypatch.setattr(checkpoints, "measure_model", watched)
    return names


def test_help_loads_no_torch() -> None:
    code = "import sys; import momentum_gpt.evaluate, momentum_gpt.harness, "
    code += "momentum_gpt.bench.evaluation; "
    code += "heavy = {'torch', 'transformers', 'datasets', 'scipy', 'deepspeed', 'lm_eval'}; "
    code += "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_training_shard_is_opened(
    invoke: Invoke, run_dir: Path, data_folder: Path, tmp_path: Path
) -> None:
    """On a copy of the data without the training shards, of a run that packs them."""
    copy = tmp_path / "data"
    shutil.copytree(data_folder, copy)
    removed = list(copy.glob("train_*"))
    for path in removed:
        path.unlink()
    assert removed

    config = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(config.replace(str(data_folder), str(copy)))
    done = invoke(evaluate.main, f"run={run_dir}", *SMALL)
    assert done.code == 0, done.err
    assert lines_of(run_dir)["validation"][0]["val/targets"] == 640


def test_a_second_evaluation_measures_nothing_and_adds_nothing(
    invoke: Invoke, run_dir: Path, task: str, measured_names: list[str]
) -> None:
    options = [f"run={run_dir}", *SMALL, f"evaluation.icl.tasks=[{task}]", "evaluation.icl.k=[2]"]
    first = invoke(evaluate.main, *options)
    assert first.code == 0, first.err
    assert measured_names == ["step_00000020"]
    assert BEFORE not in first.out
    stored = lines_of(run_dir)
    n_lines = {name: len(lines) for name, lines in stored.items()}
    assert n_lines == {"icl": 5, "perplexity": 3, "samples": 4, "validation": 1}

    second = invoke(evaluate.main, *options)
    assert second.code == 0, second.err
    assert measured_names == ["step_00000020"]
    assert lines_of(run_dir) == stored
    assert second.out == first.out + f"\n{BEFORE}\n\n"

    # Only what was not measured before is measured.
    third = invoke(evaluate.main, *options, "checkpoints=all")
    assert measured_names == ["step_00000020", "step_00000010"]
    assert third.out.count(BEFORE) == 1


def test_measuring_again_replaces_the_lines(
    invoke: Invoke, run_dir: Path, measured_names: list[str]
) -> None:
    invoke(evaluate.main, f"run={run_dir}", *SMALL)
    stored = lines_of(run_dir)
    done = invoke(evaluate.main, f"run={run_dir}", *SMALL, "again=true")
    assert done.code == 0, done.err
    assert measured_names == ["step_00000020"] * 2
    assert BEFORE not in done.out
    again = lines_of(run_dir)
    for lines in (stored, again):
        lines["validation"][0].pop("eval/seconds")
    assert again == stored


@pytest.mark.parametrize(
    "change",
    [
        "evaluation.tokens=704",
        "evaluation.context_lengths=[32]",
        "evaluation.stride=16",
        "evaluation.documents=apart",
        "evaluation.induction_sequences=3",
        "evaluation.icl.seeds=2",
    ],
)
def test_other_options_are_measured(
    invoke: Invoke, run_dir: Path, measured_names: list[str], change: str
) -> None:
    invoke(evaluate.main, f"run={run_dir}", *SMALL)
    done = invoke(evaluate.main, f"run={run_dir}", *SMALL, change)
    assert done.code == 0, done.err
    assert len(measured_names) == 2
    settings = [line["settings"] for line in lines_of(run_dir)["validation"]]
    assert len(set(settings)) == 2


def test_other_weights_or_other_data_are_measured(
    invoke: Invoke, run_dir: Path, data_folder: Path, tmp_path: Path, measured_names: list[str]
) -> None:
    invoke(evaluate.main, f"run={run_dir}", *SMALL)

    # The content of the data counts, and not its path.
    copy = tmp_path / "data"
    shutil.copytree(data_folder, copy)
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace(str(data_folder), str(copy)))
    invoke(evaluate.main, f"run={run_dir}", *SMALL)
    assert len(measured_names) == 1

    content = read_json(copy / "manifest.json")
    content["splits"]["validation"][0]["sha256"] = "0" * 64
    write_json(copy / "manifest.json", content)
    invoke(evaluate.main, f"run={run_dir}", *SMALL)
    assert len(measured_names) == 2

    checkpoint = run_dir / "checkpoints" / "step_00000020"
    manifest = read_checkpoint_manifest(checkpoint)
    other_weights = manifest.files | {"model/model.safetensors": "0" * 64}
    replace(manifest, files=other_weights).write(checkpoint)
    invoke(evaluate.main, f"run={run_dir}", *SMALL)
    assert len(measured_names) == 3


def test_a_line_of_an_old_version_is_measured_again(
    invoke: Invoke, run_dir: Path, measured_names: list[str]
) -> None:
    folder = run_dir / "evaluations"
    folder.mkdir()
    old = {"checkpoint": "step_00000020", "data": None, "step": 20, "tokens": 1280, "val/loss": 9.0}
    (folder / "validation.jsonl").write_text(json.dumps(old) + "\n")
    invoke(evaluate.main, f"run={run_dir}", *SMALL)
    assert measured_names == ["step_00000020"]
    assert len(lines_of(run_dir)["validation"]) == 2


def test_text_is_recognised_by_its_content_and_kept_apart(
    invoke: Invoke, run_dir: Path, tmp_path: Path, measured_names: list[str]
) -> None:
    novel = tmp_path / "novel.txt"
    novel.write_text("def f(x):\n    return x\n" * 40)
    options = [f"run={run_dir}", f"text={novel}", *SMALL]
    for _ in range(2):
        done = invoke(evaluate.main, *options)
        assert done.code == 0, done.err
    assert len(measured_names) == 1
    assert f"{run_dir}, step_00000020, on {novel}" in done.out

    novel.write_bytes(b"\xef\xbb\xbf" + novel.read_bytes().replace(b"\n", b"\r\n"))
    done = invoke(evaluate.main, *options)
    changes = r"1 byte-order marks removed, 80 newlines \r\n or \r made \n"
    assert f"text={str(novel)!r}: {changes}\n" in done.out
    assert len(measured_names) == 1  # it is the same text

    novel.write_text("def g(x):\n    return x\n" * 40)
    invoke(evaluate.main, *options)
    assert len(measured_names) == 2
    found = lines_of(run_dir)
    assert set(found) == {"other", "perplexity"}
    assert [line["data"] for line in found["other"]] == [str(novel)] * 2


def test_the_runs_own_data_and_the_same_data_by_name_are_both_kept(
    invoke: Invoke, run_dir: Path, data_folder: Path, measured_names: list[str]
) -> None:
    for _ in range(2):
        for named in ([], [f"data={data_folder}"]):
            done = invoke(evaluate.main, f"run={run_dir}", *SMALL, *named)
            assert done.code == 0, done.err
    assert len(measured_names) == 2
    found = lines_of(run_dir)
    assert len(found["validation"]) == len(found["other"]) == 1
    assert len(found["perplexity"]) == 6


def test_the_dashboard_gets_only_what_is_new(invoke: Invoke, run_dir: Path) -> None:
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace("wandb: disabled", "wandb: offline"))
    for _ in range(2):
        done = invoke(evaluate.main, f"run={run_dir}", *SMALL)
        assert done.code == 0, done.err
    assert len(list((run_dir / "wandb").glob("offline-run-*"))) == 1


def test_numbers_are_printed_as_people_read_them(invoke: Invoke, run_dir: Path) -> None:
    done = invoke(evaluate.main, f"run={run_dir}", "evaluation.tokens=1280")
    rows = {}
    for line in done.out.splitlines():
        name, *rest = line.split(maxsplit=2) or [""]
        rows[name] = rest
    assert rows["val/targets"] == ["1,280", "tokens"]
    margin, unit = rows["val/loss"][1].removeprefix("± ").split(maxsplit=1)
    assert 0 < float(margin) < 0.1
    assert unit == "nats per token"
    assert float(rows["val/loss"][0]) == pytest.approx(np.log(512), abs=0.2)
    assert "Perplexity by context length" in done.out


def test_a_model_folder_is_measured_and_nothing_is_stored(
    invoke: Invoke, run_dir: Path, data_folder: Path
) -> None:
    folder = run_dir / "checkpoints" / "step_00000010" / "model"
    before = sorted(folder.iterdir())
    done = invoke(evaluate.main, f"run={folder}", f"data={data_folder}", *SMALL)
    assert done.code == 0, done.err
    assert done.out.startswith(f"{folder}, model, on {data_folder}\n")
    assert sorted(folder.iterdir()) == before
    assert not (run_dir / "evaluations").exists()


def test_mistakes_are_named(invoke: Invoke, run_dir: Path, data_folder: Path) -> None:
    model = run_dir / "checkpoints" / "step_00000010" / "model"
    cases = {
        "is not a run folder": [f"run={model}"],
        "checkpoints must be one of latest, all, got 'some'": [
            f"run={run_dir}",
            "checkpoints=some",
        ],
        "set data or text, not both": [f"run={run_dir}", f"data={data_folder}", "text=a.txt"],
        "a divisor of model.seq_len=64": [f"run={run_dir}", "evaluation.context_lengths=[48]"],
        "has no checkpoints": [f"run={model}", f"data={data_folder}", "checkpoints=all"],
    }
    for message, arguments in cases.items():
        done = invoke(evaluate.main, *arguments)
        assert done.code == 2
        assert message in done.err


def test_data_with_tokens_that_the_model_does_not_know_are_refused(
    invoke: Invoke, run_dir: Path, data_folder: Path
) -> None:
    path = run_dir / "checkpoints" / "step_00000020" / "model" / "config.json"
    content = read_json(path)
    content["model"]["vocab_size"] = TokenShards(data_folder, "validation").vocab_size - 1
    write_json(path, content)
    done = invoke(evaluate.main, f"run={run_dir}", f"data={data_folder}", *SMALL)
    assert done.code == 2
    assert "has 512 tokens, but the model knows 511" in done.err


def measured(folder: Path) -> list[dict[str, Any]]:
    return [record for record in read_json_lines(folder / "metrics.jsonl") if "val/loss" in record]


@pytest.mark.slow
def test_few_shot_tasks_are_measured_alike_while_training_and_afterwards(
    data_folder: Path, task: str, tmp_path: Path
) -> None:
    """An odd number of queries, on two ranks under ZeRO-3 and in one process; then compared.

    With a task whose answers the model writes, of any lengths.
    """
    written = Path(task).with_name("written.yaml")
    written.write_text(
        f"dataset: {written.parent}\ntest_split: test\ntemplate: 'x {{text}}:'\n"
        "answers: text\nmax_new_tokens: 5\nstop: [e]\n"
    )
    icl = [
        f"evaluation.icl.tasks=[{task},{written}]",
        "evaluation.icl.k=[0,2]",
        "evaluation.icl.seeds=2",
    ]
    common = [f"data={data_folder}", f"runs={tmp_path}", *SMOKE, *icl]
    ranks = ["launch.nproc_per_node=2", "deepspeed=zero3", "attention=momentum"]
    soft = ["icl/small/soft@0", "icl/small/soft@2"]
    overlap = ["icl/written/f1@0", "icl/written/f1@2"]
    keys = {*soft, *overlap, "icl/small/acc@0", "icl/small/acc@2", "eval/seconds"}

    for name, more in (("one", []), ("two", ranks)):
        run = tmp_path / name
        done = command("momentum_gpt.train", f"name={name}", *common, *more)
        assert done.code == 0, done.err
        assert all(keys <= record.keys() for record in measured(run))

        options = [f"run={run}", "checkpoints=all", "evaluation.tokens=2048", *icl]
        done = command("momentum_gpt.evaluate", *options)
        assert done.code == 0, done.err
        asked = []
        for _ in ("while training", "afterwards"):
            for step in (10, 20):
                asked += [(step, 0, 0), (step, 2, 0), (step, 2, 1)] * 2
        lines = lines_of(run)["icl"]
        assert [(line["step"], line["k"], line["seed"]) for line in lines] == asked

        afterwards = lines_of(run)["validation"]
        for then, now in zip(measured(run), afterwards, strict=True):
            for key in (*soft, *overlap, "val/bpb"):
                assert now[key] == pytest.approx(then[key], rel=1e-4), key

    both = f"runs=[{tmp_path / 'one'},{tmp_path / 'two'}]"
    refused = command("momentum_gpt.compare", both)
    assert refused.code == 2
    assert "the same deepspeed.zero_optimization.stage: 1 in one, 3 in two" in refused.err
    compared = command("momentum_gpt.compare", both, "confounded=true")
    assert compared.code == 0, compared.err
    assert "Few-shot tasks, two against one, paired by query:" in compared.out
    assert "Losses of two against one, paired by document:" in compared.out
    assert "McNemar" in compared.out


def test_texts_of_each_checkpoint_are_kept_with_the_same_openings(
    invoke: Invoke, run_dir: Path, data_folder: Path
) -> None:
    for again in ("false", "true"):  # the second time takes the place of the first
        options = [*SMALL, "checkpoints=all", f"again={again}"]
        done = invoke(evaluate.main, f"run={run_dir}", *options)
        assert done.code == 0, done.err
        lines = lines_of(run_dir)["samples"]
        assert [line["step"] for line in lines] == [10] * 4 + [20] * 4
        if again == "false":
            first = lines
    assert lines == first

    stream = TokenShards(data_folder, "validation")
    text = stream.tokenizer.decode(stream.read(0, len(stream)).tolist())
    older, newer = lines[:4], lines[4:]
    assert all(line["prompt"] in text for line in lines)
    assert [line["prompt"] for line in older] == [line["prompt"] for line in newer]
    assert [line["text"] for line in older] != [line["text"] for line in newer]


def test_few_shot_queries_are_kept_as_text(invoke: Invoke, run_dir: Path, task: str) -> None:
    options = [*SMALL, f"evaluation.icl.tasks=[{task}]", "evaluation.icl.k=[2]"]
    done = invoke(evaluate.main, f"run={run_dir}", *options)
    assert done.code == 0, done.err
    for line in lines_of(run_dir)["icl"]:
        examples = line["examples"]
        assert [one["query"] for one in examples] == line["queries"]
        assert [one["is_right"] for one in examples] == line["right"]
        for one in examples:
            number = one["query"]
            assert one["prompt"] == f"x test{number}:"
            assert one["right"] == [" red", " blue"][number % 2]
            assert (one["answer"] == one["right"]) == bool(one["is_right"])
        chosen = [one["answer"] for one in examples]
        assert [chosen.count(" red"), chosen.count(" blue")] == line["chosen"]
