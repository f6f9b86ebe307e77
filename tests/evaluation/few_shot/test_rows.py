"""The language of task files: what a row becomes, and which rows are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from momentum_gpt.core.errors import UserError
from momentum_gpt.evaluation.few_shot.rows import IclTask, number_of, read_row
from momentum_gpt.evaluation.few_shot.tasks import flipped, load_task, read_examples
from tests.evaluation.few_shot.cases import write_rows


def task(**options: Any) -> IclTask:
    return IclTask("x", "test", **({"template": "{text}:"} | options))


def test_candidates_come_from_lists_from_entries_and_from_several_fields() -> None:
    row = {"text": "Q", "a": "x", "b": ["y", "z"], "c": {"d": ["w"]}, "label": 0}
    for candidates, expected in (
        (["b"], (" y", " z")),
        (["a", "b"], (" x", " y", " z")),
        (["b", "c.d"], (" y", " z", " w")),
    ):
        example = read_row(row, 3, task(candidates=candidates))
        assert example is not None
        assert example.candidates == expected
        assert example.number == 3


@pytest.mark.parametrize(
    ("label", "names", "number"),
    [
        (2, None, 2),
        (True, None, 1),
        ("2", None, 2),
        ("C", None, 2),
        ("c", None, 2),
        (" C ", ["A", "B", "C"], 2),
        ("3", ["1", "2", "3"], 2),
        (3, [1, 2, 3], 2),
        ("neutral", ["yes", "no", "neutral"], 2),
    ],
)
def test_labels_are_numbers_letters_or_names(label: Any, names: Any, number: int) -> None:
    assert number_of(label, names) == number


def test_the_names_of_the_labels_may_be_the_rows_own() -> None:
    """As in ARC, whose keys are letters in most rows and numbers in a few."""
    own = task(candidates=["choices.text"], label="answerKey", labels="choices.label")
    for keys, key in ((["A", "B", "C"], "B"), (["1", "2", "3"], "2")):
        choices = {"text": ["x", "y", "z"], "label": keys}
        example = read_row({"text": "Q", "choices": choices, "answerKey": key}, 0, own)
        assert example is not None
        assert example.gold == (1,)


def test_several_candidates_may_be_right() -> None:
    row = {"text": "Q", "c": ["x", "y", "z", "w"], "label": [2, 3]}
    example = read_row(row, 0, task(candidates=["c"]))
    assert example is not None
    assert example.gold == (2, 3)
    assert example.shown == ("Q:", " z")
    # The next candidate that is wrong: after 2 and 3 comes 0.
    assert flipped(example).shown == ("Q:", " x")


def test_fields_are_those_of_the_template_as_they_stand_in_the_row() -> None:
    own = task(
        template="{b:strip}: {a.c} {b:capitalize}", verbalizers=[" x", " y"], by="b", clean="strip"
    )
    example = read_row({"a": {"c": "One"}, "b": " two. ", "label": 1}, 0, own)
    assert example is not None
    assert example.fields == (" two. ", "One")
    assert example.prompt == "two.: One  two."
    assert example.group == " two. "


@pytest.mark.parametrize("label", [-1, "", []])
def test_a_row_without_a_label_is_left_out(label: Any) -> None:
    assert read_row({"text": "Q", "label": label}, 0, task(verbalizers=[" x", " y"])) is None


@pytest.mark.parametrize(
    ("options", "row", "message"),
    [
        ({}, {"text": None, "label": 0}, "its field 'text' is null"),
        ({}, {"text": "Q", "label": None}, "its field 'label' is null"),
        ({}, {"text": "Q"}, "it has no field 'label'"),
        ({}, {"text": "Q", "label": 2}, "its label is 2, but it has 2 candidates"),
        ({}, {"text": "Q", "label": [0, 1]}, "none of 2 candidates is wrong"),
        ({}, {"text": "Q", "label": "good"}, "label 'good' is no number and no letter"),
        ({"labels": ["bad", "fine"]}, {"text": "Q", "label": "good"}, "none of bad, fine"),
        ({"candidates": ["c"], "verbalizers": []}, {"text": "Q", "c": [], "label": 0}, "are empty"),
        (
            {"candidates": ["c"], "verbalizers": []},
            {"text": "Q", "c": ["x", None], "label": 0},
            r"its field 'c\.1' is null",
        ),
        ({"replace": {"text": {"a": "b"}}}, {"text": "Q", "label": 0}, "is 'Q', none of a"),
        ({"template": "{text:last_word}"}, {"text": "Q ", "label": 0}, "prompt or a candidate is"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(
    options: dict[str, Any], row: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_row(row, 0, task(**({"verbalizers": [" x", " y"]} | options)))


def test_a_refused_row_is_named_and_those_without_a_label_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(
        f"dataset: {tmp_path}\ntest_split: test\ntemplate: '{{text}}'\nverbalizers: [' x', ' y']\n"
    )
    shown = [{"text": "a", "label": 0}, {"text": "b", "label": -1}, {"text": "q", "label": 0}]
    write_rows(tmp_path / "train.jsonl", shown)
    write_rows(tmp_path / "test.jsonl", [{"text": "p", "label": -1}, {"text": "q", "label": 1}])
    found = read_examples(load_task(str(path)), None)
    assert [example.number for example in found.train] == [0]
    assert [example.number for example in found.test] == [1]
    assert found.left_out == {"test: no label": 1, "train: no label": 1, "train: also asked": 1}

    read_examples.cache_clear()
    write_rows(tmp_path / "test.jsonl", [{"text": "p", "label": 0}, {"text": None, "label": 1}])
    with pytest.raises(UserError, match=r"row 1 \(from 0\) of .*: its field 'text' is null"):
        read_examples(load_task(str(path)), None)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("", "must have one of verbalizers, candidates, answers, continuation"),
        ("verbalizers: [a]\nanswers: b\n", "must have one of"),
        ("verbalizers: [a]\ncontinuation: b\n", "must have one of"),
        ("answers: b\nscore: per_token\n", "score 'per_token' is none of exact, contains"),
        ("candidates: [a, b]\ncontinuation: c\nscore: pmi\n", "score 'pmi' is none of sum"),
        ("verbalizers: [a]\nclean: upper\n", "'upper' in .* is none of strip"),
        ("answers: b\nmax_new_tokens: 0\n", "max_new_tokens 0 must be at least 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, more: str, message: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"dataset: x\ntest_split: test\ntemplate: t\n{more}")
    with pytest.raises(UserError, match=message):
        load_task(str(path))
