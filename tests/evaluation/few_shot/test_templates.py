"""Texts with places for fields."""

from __future__ import annotations

import pytest

from momentum_gpt.evaluation.few_shot.templates import (
    FILTERS,
    check_template,
    filled,
    names_in,
    render,
    text_of,
    texts_of,
)

ROW = {"text": " A b ", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "n": 7, "none": None}


def test_fields_entries_and_filters_are_filled_in() -> None:
    template = "{{{n}}} {text:strip,lower_first}|{choices.text.1}"
    assert render(template, lambda name: text_of(ROW, name)) == "{7} a b|y"
    assert names_in(template) == ["n", "text", "choices.text.1"]
    assert filled("{a} and {b:capitalize}", "cd") == "cd and Cd"


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("capitalize", "he DID", "He did"),
        ("without_last", "The end.", "The end"),
        ("spaced", "a_b_c", "a b c"),
        ("before_gap", "An _ is red.", "An "),
        ("after_gap", "An _ is red. ", "is red."),
        ("before_last_word", "one two three", "one two"),
        ("last_word", "one two three", "three"),
        ("wikihow", "[header] A [title] B  [x]c ", " A. B c"),
    ],
)
def test_filters_change_texts_like_this(name: str, before: str, after: str) -> None:
    assert FILTERS[name](before) == after


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other", "it has no field 'other'"),
        ("text.0", "it has no field 'text.0'"),
        ("choices.text.2", "it has no field 'choices.text.2'"),
        ("none", "its field 'none' is null"),
        ("choices", "its field 'choices' has several entries"),
    ],
)
def test_what_is_no_text_is_named(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text_of(ROW, name)


def test_a_list_with_a_null_is_no_list_of_texts() -> None:
    assert texts_of(ROW, "choices.text") == ["x", "y"]
    assert texts_of(ROW, "n") == ["7"]
    with pytest.raises(ValueError, match=r"its field 'x\.1' is null"):
        texts_of({"x": ["a", None]}, "x")


@pytest.mark.parametrize("template", ["{a:upper}", "{a!r}", "{a", "{a:strip,eval}"])
def test_what_is_not_understood_is_refused_before_a_row_is_read(template: str) -> None:
    with pytest.raises(ValueError, match=r"none of strip|expected"):
        check_template(template)


def test_a_template_reaches_nothing_but_fields() -> None:
    """Python's own format would reach the attributes of a value."""
    with pytest.raises(ValueError, match="it has no field"):
        render("{text.__class__}", lambda name: text_of(ROW, name))
