"""Passes over the queries of a task: the scores of the evaluation, and what plain passes give."""

from __future__ import annotations

import gc
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from momentum_gpt.analysis.capture import attentions
from momentum_gpt.analysis.passes import (
    accuracy,
    answer_scores,
    ask,
    gold_of,
    n_tokens_of,
)
from momentum_gpt.analysis.records import Pass
from momentum_gpt.analysis.settings import drawn, none_of
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import Tokenizer
from momentum_gpt.evaluation.few_shot.measure import measure_setting, score_alone
from momentum_gpt.evaluation.few_shot.prompts import Prompts
from momentum_gpt.models import GPT
from tests.analysis.cases import SETTING, prepared, small_model, write_choices
from tests.analysis.test_capture import close, plain_pass
from tests.evaluation.few_shot.cases import write_rows


def assert_same(a: Pass, b: Pass) -> None:
    for entry in fields(Pass):
        if entry.name != "parts":
            same(getattr(a, entry.name), getattr(b, entry.name))
    assert a.parts.keys() == b.parts.keys()
    for name in a.parts:
        same(a.parts[name], b.parts[name])


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("attention", ["vanilla", "momentum"])
@pytest.mark.parametrize("k", [0, 3])
def test_scores_and_accuracy_are_those_of_the_evaluation(
    prompts: Prompts, attention: str, k: int
) -> None:
    model = small_model(attention)
    setting = SETTING._replace(k=k)
    alone = score_alone(model, prompts, 1000)
    record = measure_setting(model, prompts, setting, alone, 1000)
    found = ask(model, prompts.queries, drawn(prompts, setting), tokens_per_forward=200)

    assert record.scores is not None
    sizes = [len(prompts.tokenizer.encode(text)) for text in prompts.task.verbalizers]
    assert max(sizes) > 1
    per_token = torch.tensor(record.scores["sum"]) / torch.tensor(sizes)
    torch.testing.assert_close(found.scores, per_token, atol=1e-4, rtol=0)
    assert accuracy(found.scores, found.gold) == pytest.approx(record.acc)
    assert np.bincount(found.scores.argmax(1), minlength=3).tolist() == record.chosen

    alone_scores = answer_scores(model, prompts.queries, drawn(prompts, setting))
    torch.testing.assert_close(alone_scores, found.scores)


def test_an_answer_that_a_query_does_not_have_is_never_chosen(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_rows(tmp_path / "train.jsonl", [{"text": "one", "options": ["a", "b"], "right": 0}] * 5)
    test = [
        {"text": "two", "options": ["a", "b"], "right": 1},
        {"text": "three", "options": ["c", "d", "e"], "right": 2},
    ]
    write_rows(tmp_path / "test.jsonl", test)
    prompts = prepared(write_choices(tmp_path), tokenizer)

    scores = answer_scores(small_model(), prompts.queries, none_of(prompts))
    assert scores.isneginf().tolist() == [[False, False, True], [False, False, False]]


@pytest.mark.parametrize("position", ["last_prompt", "label0"])
@pytest.mark.parametrize("attention", ["vanilla", "momentum"])
def test_records_are_those_of_plain_passes(prompts: Prompts, attention: str, position: str) -> None:
    model = small_model(attention, "rotary")
    shown = drawn(prompts, SETTING)
    done: list[float] = []
    record = ask(
        model,
        prompts.queries,
        shown,
        position,
        tokens_per_forward=100,
        advance=done.append,
    )
    assert sum(done) == n_tokens_of(prompts.queries, shown)

    prefix = shown.prefix
    for number, query in enumerate(prompts.queries.asked):
        tokens = query.rows[0][0]
        logits = last_logits(model, prefix + tokens)
        assert record.top[number].tolist() == logits.topk(10).indices.tolist()
        assert record.gold[number] == query.example.gold[0]

        if position == "label0":
            tokens = tokens + query.rows[0][1][0][:1]
        plain = plain_pass(model, prefix + tokens)
        for layer, expected in enumerate(plain):
            close(record.outputs[number, layer], expected.output[-1])
            close(record.queries[number, layer], expected.projected[-1, :16])
            raw = torch.einsum("hd,htd->ht", expected.q[:, -1], expected.k) / 8**0.5
            own = record.logits[number, layer]
            close(own[:, -len(tokens) :], raw[:, len(prefix) :])
            assert own[:, : -len(tokens)].isnan().all()
            close(record.on_demonstrations[number, layer], raw[:, shown.places].sum(0))

            total: Tensor = attentions(model)[layer].out.bias
            for part in record.parts.values():
                total = total + part[number, layer]
            close(total, expected.output[-1])
    assert record.logits.isnan().any()


def test_only_the_first_queries_are_recorded_in_full(prompts: Prompts) -> None:
    """Batches have queries in another order, by length."""
    model = small_model("momentum")
    shown = drawn(prompts, SETTING)
    whole = ask(model, prompts.queries, shown, tokens_per_forward=100)
    part = ask(model, prompts.queries, shown, in_full=4, tokens_per_forward=100)
    assert len(whole.queries) == 9
    assert_same(
        part,
        replace(
            whole,
            queries=whole.queries[:4],
            on_demonstrations=whole.on_demonstrations[:4],
        ),
    )


def last_logits(model: GPT, tokens: list[int]) -> Tensor:
    with torch.no_grad():
        return model(torch.tensor([tokens]))[0, -1]


def test_without_demonstrations_in_context_learning_is_zero_shot(prompts: Prompts) -> None:
    model = small_model("momentum")
    zero = ask(model, prompts.queries, none_of(prompts))
    icl = ask(model, prompts.queries, drawn(prompts, SETTING._replace(k=0)))
    assert_same(zero, icl)
    assert zero.on_demonstrations.shape == (9, 2, 0)


def test_what_does_not_fit_the_context_is_refused(prompts: Prompts) -> None:
    model = small_model(seq_len=64)
    with pytest.raises(UserError, match="context is 64: show fewer"):
        ask(model, prompts.queries, drawn(prompts, SETTING))
    with pytest.raises(UserError, match="position must be one of"):
        ask(model, prompts.queries, none_of(prompts), "middle")


def test_a_score_that_is_not_a_number_is_wrong() -> None:
    scores = torch.tensor([[0.0, -1.0], [torch.nan, 0.0], [-3.0, -torch.inf]])
    assert accuracy(scores, torch.tensor([0, 0, 0])) == pytest.approx(2 / 3)


def test_gold_answers_are_in_the_order_of_the_queries(prompts: Prompts) -> None:
    assert gold_of(prompts.queries).tolist() == [0, 1, 2] * 3


def test_nothing_of_a_batch_is_left_to_the_garbage_collector(prompts: Prompts) -> None:
    """A cycle of references would keep the keys and values of all batches in memory for a while."""
    model = small_model("momentum")
    gc.collect()
    gc.disable()
    try:
        record = ask(model, prompts.queries, drawn(prompts, SETTING))
        before = n_tensors()
        del record
        ask(model, prompts.queries, drawn(prompts, SETTING), tokens_per_forward=50)
        assert n_tensors() < before
    finally:
        gc.enable()


def n_tensors() -> int:
    return sum(isinstance(thing, Tensor) for thing in gc.get_objects())
