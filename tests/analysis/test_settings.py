"""What is shown before queries: the same as in the few-shot evaluation, and what stands for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from momentum_gpt.analysis.settings import (
    Demonstrations,
    demonstrations_of,
    drawn,
    held_out,
    in_other_order,
    in_random_order,
    none_of,
    shared_tokens,
    shuffled_answers,
    untrained,
    wrong_answers,
)
from momentum_gpt.core.config import IclConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import Tokenizer
from momentum_gpt.evaluation.few_shot.prompts import Prompts, Setting, prepare_task
from momentum_gpt.models.gpt import init_weights
from tests.analysis.cases import SETTING, prepared, small_model, small_task, write_choices
from tests.evaluation.few_shot.cases import write_rows


@pytest.mark.parametrize("separator", ["eos", "\n\n"])
def test_the_prefix_is_that_of_the_evaluation(
    tokenizer: Tokenizer, tmp_path: Path, separator: str
) -> None:
    prompts = small_task(tmp_path, tokenizer, separator=separator)
    shown = drawn(prompts, SETTING)
    assert shown.prefix == prompts.prefix(SETTING)
    assert none_of(prompts).prefix == [tokenizer.eos_id]


def test_places_are_all_tokens_but_the_document_end_and_the_separators(
    prompts: Prompts, tokenizer: Tokenizer
) -> None:
    shown = drawn(prompts, SETTING)
    prefix = shown.prefix
    expected = [place for place, token in enumerate(prefix) if token != tokenizer.eos_id]
    assert shown.places == expected
    assert len(expected) == len(prefix) - 4

    # Each separator begins the next demonstration.
    owners = []
    for place, token in enumerate(prefix):
        if token != tokenizer.eos_id:
            owners.append(prefix[:place].count(tokenizer.eos_id) - 1)
    assert shown.owners == owners
    assert set(owners) == {0, 1, 2}


def test_shuffling_moves_answers_and_nothing_else(prompts: Prompts) -> None:
    setting = SETTING._replace(k=12)
    shown = drawn(prompts, setting)
    shuffled = shuffled_answers(prompts, shown, seed=0)
    assert [d.prompt for d in shuffled.shown] == [d.prompt for d in shown.shown]
    assert [d.answer for d in shuffled.shown] != [d.answer for d in shown.shown]
    assert sorted(d.answer for d in shuffled.shown) == sorted(d.answer for d in shown.shown)
    assert shuffled_answers(prompts, shown, seed=0) == shuffled
    assert shuffled_answers(prompts, shown, seed=1) != shuffled


def test_the_first_queries_are_a_sample_of_all(prompts: Prompts) -> None:
    """They come in the order of the test split, which may be sorted by its answers."""
    found = in_random_order(prompts.queries)
    assert found.numbers != sorted(found.numbers)
    assert sorted(found.numbers) == prompts.queries.numbers
    assert found.numbers == in_random_order(prompts.queries).numbers
    assert found.groups == {"": list(range(9))}


def test_shuffling_three_answers_changes_some(prompts: Prompts) -> None:
    """One of three random orders of two equal answers and another one leaves all as they are."""
    for draw in range(20):
        setting = SETTING._replace(seed=draw)
        shown = drawn(prompts, setting)
        answers = [one.answer for one in shown.shown]
        shuffled = [one.answer for one in shuffled_answers(prompts, shown, seed=draw).shown]
        assert sorted(shuffled) == sorted(answers)
        assert (shuffled == answers) == (len(set(map(tuple, answers))) == 1)


def test_equal_answers_cannot_be_shuffled(prompts: Prompts) -> None:
    example = drawn(prompts, SETTING).examples[0]
    shown = demonstrations_of(prompts, [example] * 3)
    assert shuffled_answers(prompts, shown, seed=0) == shown


def test_every_demonstration_gets_a_wrong_answer(prompts: Prompts) -> None:
    shown = drawn(prompts, SETTING._replace(k=12))
    wrong = wrong_answers(prompts, shown)
    assert [d.prompt for d in wrong.shown] == [d.prompt for d in shown.shown]
    for one, other in zip(wrong.shown, shown.shown, strict=True):
        assert one.answer != other.answer


def test_answers_are_shuffled_among_examples_with_candidates_of_their_own(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """The third answer of one becomes the first of another, which has two."""
    three = {"text": "three", "options": ["c", "d", "e"], "right": 2}
    two = {"text": "two", "options": ["a", "b"], "right": 1}
    write_rows(tmp_path / "train.jsonl", [three, two])
    write_rows(tmp_path / "test.jsonl", [{"text": "one", "options": ["a", "b"], "right": 0}])
    prompts = prepared(write_choices(tmp_path), tokenizer, k=[2])
    shown = drawn(prompts, Setting(2, (2,), 0))
    shuffled = shuffled_answers(prompts, shown, seed=0)
    answers = [example.candidates[example.gold[0]] for example in shuffled.examples]
    assert sorted(answers) == [" a", " d"]


def test_tokens_are_shared_where_the_same_demonstration_has_them(prompts: Prompts) -> None:
    """Of answers of other lengths, as many tokens as the shorter one has."""
    shown = drawn(prompts, SETTING)
    shuffled = shuffled_answers(prompts, shown, seed=0)
    own, of_other = shared_tokens(shown, shuffled)

    def places(demonstrations: Demonstrations) -> list[tuple[int, int]]:
        """Return each token's demonstration and place in it."""
        found = []
        for number, one in enumerate(demonstrations.shown):
            found += [(number, place) for place in range(len(one.tokens))]
        return found

    first, second = places(shown), places(shuffled)
    assert first != second
    assert [first[i] for i in own] == [second[i] for i in of_other]
    assert {first[i] for i in own} == set(first) & set(second)


def test_another_order_has_the_same_demonstrations(prompts: Prompts) -> None:
    shown = drawn(prompts, SETTING._replace(k=12))
    other = in_other_order(prompts, shown, seed=0)
    assert other.shown != shown.shown
    assert sorted(other.shown) == sorted(shown.shown)


def test_held_out_examples_are_neither_demonstrations_nor_queries(prompts: Prompts) -> None:
    queries = held_out(prompts, SETTING, 100)
    numbers = [query.example.number for query in queries.asked]
    demonstrated = [example.number for example in prompts.demonstrations(SETTING, "")]
    assert sorted(numbers + demonstrated) == list(range(20))
    assert all(query.example.prompt.startswith("Thing: train") for query in queries.asked)
    assert len(held_out(prompts, SETTING, 5).asked) == 5

    with pytest.raises(UserError, match="20 demonstrations of 20 examples: show fewer"):
        held_out(prompts, SETTING._replace(k=20), 5)


def test_an_untrained_model_has_the_shape_and_nothing_of_the_weights() -> None:
    model = small_model("momentum")
    fresh = untrained(model, 7)
    assert (fresh.config, fresh.attention) == (model.config, model.attention)

    again = small_model("momentum")
    init_weights(again, 7)
    for name, parameter in fresh.named_parameters():
        torch.testing.assert_close(parameter, again.get_parameter(name), rtol=0, atol=0)
    assert not torch.equal(fresh.token_embedding.weight, model.token_embedding.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("verbalizers: [' a', ' b']\nby: text", "has parts with demonstrations of their own"),
        ("verbalizers: [' a', ' b']\nscore: pmi", "is scored by pmi"),
        ("verbalizers: [' a', ' b', ' c']", "several right answers"),
        ("continuation: ' {text}'", "has no answers to choose from"),
    ],
)
def test_tasks_of_other_kinds_are_refused(
    tokenizer: Tokenizer, tmp_path: Path, options: str, message: str
) -> None:
    for split in ("train", "test"):
        several = "several" in message
        rows = [{"text": f"{split} {i}", "label": [0, 1] if several else i % 2} for i in range(4)]
        write_rows(tmp_path / f"{split}.jsonl", rows)
    task = tmp_path / "task.yaml"
    task.write_text(f"dataset: {tmp_path}\ntest_split: test\ntemplate: '{{text}}:'\n{options}\n")
    prompts = prepare_task(str(task), tokenizer, IclConfig(tasks=[str(task)], k=[1]), 256)
    with pytest.raises(UserError, match=message):
        drawn(prompts, SETTING)
