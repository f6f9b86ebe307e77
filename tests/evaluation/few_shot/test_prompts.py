"""As many demonstrations as fit, whatever they look like."""

from __future__ import annotations

from pathlib import Path

import pytest

from momentum_gpt.core.config import IclConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import Tokenizer, load_tokenizer
from momentum_gpt.evaluation.few_shot.prompts import prepare_task
from tests.evaluation.few_shot.cases import measure, model_of, write_colours, write_rows, write_task


@pytest.fixture(scope="module")
def tokenizer(data_folder: Path) -> Tokenizer:
    return load_tokenizer(data_folder)


def test_as_many_demonstrations_are_shown_as_fit(tokenizer: Tokenizer, tmp_path: Path) -> None:
    task = write_colours(tmp_path, [" a", " b"])
    config = IclConfig(tasks=[task], k=[0, 2, 16, 32], seeds=2)
    records = measure(model_of({"name": "vanilla"}, 250), tokenizer, config, 250)
    shown = sorted({(record.k, record.k_asked) for record in records})
    assert shown[:2] == [(0, 0), (2, 2)]
    assert len(shown) == 3
    assert shown[2][1] == 16
    assert 2 < shown[2][0] < 16

    # One more than fits would not.
    prompts = prepare_task(task, tokenizer, config, 250)
    assert prompts.settings[-1].k == shown[2][0]
    lengths = []
    for setting in prompts.settings[-2:]:
        lengths.append(len(prompts.prefix(setting)) + prompts.queries.longest)
        more = setting._replace(k=setting.k + 1)
        lengths.append(len(prompts.prefix(more)) + prompts.queries.longest)
    assert max(lengths[0], lengths[2]) <= 250 < max(lengths[1], lengths[3])


def test_a_task_whose_queries_do_not_fit_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    task = write_colours(tmp_path, [" a", " b"])
    with pytest.raises(UserError, match="none of 12 queries fits the model's context of 8 tokens"):
        prepare_task(task, tokenizer, IclConfig(tasks=[task]), 8)


def test_wrong_answers_and_prompts_without_content_fit_too(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """At any length of the context.

    The right answers are short and the wrong ones long, and the queries are shorter than "[MASK]".
    """
    write_rows(tmp_path / "train.jsonl", [{"text": str(i), "label": 0} for i in range(20)])
    write_rows(tmp_path / "test.jsonl", [{"text": "x", "label": 0} for _ in range(4)])
    task = write_task(tmp_path, "{text}", [" a", " a longer answer"])
    config = IclConfig(tasks=[task], k=[16], seeds=2, flipped=True)
    for seq_len in range(60, 75, 3):
        records = measure(model_of({"name": "vanilla"}, seq_len), tokenizer, config, seq_len)
        assert 1 <= records[0].k < 16


def test_queries_are_a_function_of_their_seed_and_come_in_their_order(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    task = write_colours(tmp_path, [" a", " b"])

    def numbers(seed: int) -> list[int]:
        config = IclConfig(tasks=[task], queries=5, queries_seed=seed)
        return prepare_task(task, tokenizer, config, 512).queries.numbers

    assert len(numbers(1)) == 5
    assert numbers(1) == numbers(1) == sorted(numbers(1))
    assert numbers(1) != numbers(2)
