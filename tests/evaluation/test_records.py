"""The files of an evaluation: lines are added, read back, found again and replaced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import read_json_lines
from momentum_gpt.evaluation.records import (
    FewShotRecord,
    Measured,
    Origin,
    PerplexityRecord,
    find_measured,
    keep_records,
    read_few_shot,
    read_perplexity,
)

PERPLEXITY = PerplexityRecord(
    context_length=64,
    stride=None,
    documents="stream",
    loss=2.0,
    ppl=7.389,
    bpb=1.5,
    ppl_word=900.0,
    targets=3,
    bytes=9,
    words=2,
    document=[0, 4],
    nats=[4.0, 2.0],
    n_targets=[2, 1],
    nats_of_text=[3.5, 2.0],
    n_bytes=[5, 4],
    n_words=[1, 1],
    text=["ab", "cd"],
)

FEW_SHOT = FewShotRecord(
    task="sst2",
    k=4,
    k_asked=8,
    seed=1,
    left_out=0,
    n=2,
    accuracies={"sum": 0.5, "pmi": 1.0},
    acc=0.5,
    soft=0.6,
    majority=0.5,
    chosen=[2, 0],
    right=[1, 0],
    loss=[0.1, 0.9],
    queries=[3, 7],
    demonstrations=[5, 2, 9, 0],
    content_sha256="cd",
    seconds=0.25,
    scores={"sum": [[-1.0, -2.0], [-3.0, -4.0]]},
)

MEASURED = Measured({"val/loss": 2.0}, [PERPLEXITY], [FEW_SHOT])

IN_TRAINING = Origin(step=10, tokens=640)

AFTERWARDS = Origin(10, 640, checkpoint="step_00000010", data=None, settings="0123")


def evaluations(run_dir: Path) -> dict[str, list[dict]]:
    folder = run_dir / "evaluations"
    return {path.stem: read_json_lines(path) for path in folder.glob("*.jsonl")}


def test_lines_of_training_have_no_metrics_and_no_scores(tmp_path: Path) -> None:
    keep_records(tmp_path, IN_TRAINING, MEASURED)
    found = evaluations(tmp_path)
    assert set(found) == {"perplexity", "icl"}

    (perplexity,) = found["perplexity"]
    (few_shot,) = found["icl"]
    assert list(perplexity)[:3] == ["step", "tokens", "context_length"]
    assert perplexity["stride"] is None
    assert not {"checkpoint", "data", "settings"} & set(perplexity)
    assert few_shot["acc/pmi"] == 1.0
    assert not {"scores", "verified", "accuracies"} & set(few_shot)


def test_lines_of_a_checkpoint_have_all(tmp_path: Path) -> None:
    keep_records(tmp_path, AFTERWARDS, MEASURED)
    found = evaluations(tmp_path)
    beginning = {
        "checkpoint": "step_00000010",
        "data": None,
        "settings": "0123",
        "step": 10,
        "tokens": 640,
    }
    assert found["validation"] == [beginning | {"val/loss": 2.0}]
    assert found["icl"][0]["scores"] == FEW_SHOT.scores
    for lines in found.values():
        assert beginning.items() <= lines[0].items()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    keep_records(tmp_path, IN_TRAINING, MEASURED)
    keep_records(tmp_path, AFTERWARDS, MEASURED)
    assert read_perplexity(tmp_path) == [(IN_TRAINING, PERPLEXITY), (AFTERWARDS, PERPLEXITY)]
    assert read_few_shot(tmp_path) == [
        (IN_TRAINING, replace(FEW_SHOT, scores=None)),
        (AFTERWARDS, FEW_SHOT),
    ]
    assert read_perplexity(tmp_path / "nowhere") == []
    assert read_few_shot(tmp_path / "nowhere") == []


def test_lines_are_added_and_a_line_that_a_kill_cut_short_is_dropped(tmp_path: Path) -> None:
    more = [FEW_SHOT, replace(FEW_SHOT, k=0)]
    keep_records(tmp_path, replace(IN_TRAINING, step=1), Measured({}, [], more))
    path = tmp_path / "evaluations" / "icl.jsonl"
    with path.open("a") as file:
        file.write('{"step": 2, "k"')

    keep_records(tmp_path, replace(IN_TRAINING, step=3), Measured({}, [], [FEW_SHOT]))
    steps = [(origin.step, record.k) for origin, record in read_few_shot(tmp_path)]
    assert steps == [(1, 4), (1, 0), (3, 4)]
    assert path.read_text().count("\n") == 3
    assert read_perplexity(tmp_path) == []


def test_only_the_same_checkpoint_and_settings_are_found_again(tmp_path: Path) -> None:
    keep_records(tmp_path, IN_TRAINING, MEASURED)
    assert find_measured(tmp_path, AFTERWARDS) is None
    keep_records(tmp_path, AFTERWARDS, MEASURED)
    assert find_measured(tmp_path, AFTERWARDS) == MEASURED
    assert find_measured(tmp_path, replace(AFTERWARDS, settings="4567")) is None
    assert find_measured(tmp_path, replace(AFTERWARDS, checkpoint="step_00000020")) is None


def test_a_checkpoints_lines_replace_those_of_the_same_settings_alone(tmp_path: Path) -> None:
    others = [
        IN_TRAINING,
        replace(AFTERWARDS, settings="4567"),
        replace(AFTERWARDS, checkpoint="step_00000020", step=20),
    ]
    for origin in [*others, AFTERWARDS]:
        keep_records(tmp_path, origin, MEASURED)

    better = Measured({"val/loss": 1.0}, [replace(PERPLEXITY, loss=1.0)], [])
    keep_records(tmp_path, AFTERWARDS, better)

    assert find_measured(tmp_path, AFTERWARDS) == better
    assert [origin for origin, _ in read_perplexity(tmp_path)] == [*others, AFTERWARDS]
    assert [origin for origin, _ in read_few_shot(tmp_path)] == others
    assert len(evaluations(tmp_path)["validation"]) == 3


def test_an_evaluation_whose_metrics_were_not_written_counts_for_nothing(tmp_path: Path) -> None:
    """A kill between the files leaves lines without metrics: measuring again replaces them."""
    keep_records(tmp_path, AFTERWARDS, MEASURED)
    (tmp_path / "evaluations" / "validation.jsonl").unlink()
    assert find_measured(tmp_path, AFTERWARDS) is None
    keep_records(tmp_path, AFTERWARDS, MEASURED)
    assert len(read_perplexity(tmp_path)) == len(read_few_shot(tmp_path)) == 1


def test_metrics_on_other_data_are_kept_apart_from_those_of_the_runs_own(tmp_path: Path) -> None:
    novel = replace(AFTERWARDS, data="novel.txt", settings="89ab")
    keep_records(tmp_path, novel, MEASURED)
    assert set(evaluations(tmp_path)) == {"other", "perplexity", "icl"}
    assert find_measured(tmp_path, novel) == MEASURED


def test_a_line_of_another_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "evaluations" / "perplexity.jsonl"
    path.parent.mkdir()
    path.write_text('{"step": 1, "tokens": 64, "loss": 2.0}\n')
    with pytest.raises(UserError, match=r"line 1 of .*perplexity.jsonl is not a record"):
        read_perplexity(tmp_path)
