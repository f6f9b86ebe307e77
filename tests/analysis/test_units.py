"""The pieces of an analysis: which passes, nulls and orders go into one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from momentum_gpt import analyze
from momentum_gpt.analysis import units
from momentum_gpt.analysis.finetune import Finetuning, finetune, with_weights
from momentum_gpt.analysis.passes import ask
from momentum_gpt.analysis.protocols import Draw, against, measure
from momentum_gpt.analysis.settings import (
    Demonstrations,
    drawn,
    in_other_order,
    none_of,
    shared_tokens,
    shuffled_answers,
    untrained,
    wrong_answers,
)
from momentum_gpt.analysis.similarity import simaou
from momentum_gpt.analysis.units import (
    WAYS,
    Method,
    Unit,
    compute,
    draw_of,
    in_full_of,
    in_other_orders,
    name_of,
    on_other_answers,
    position_of,
)
from momentum_gpt.data import Tokenizer
from momentum_gpt.evaluation.few_shot.prompts import Prompts
from momentum_gpt.evaluation.few_shot.tasks import flipped
from momentum_gpt.models import GPT
from tests.analysis.cases import SETTING, small_model
from tests.evaluation.few_shot.cases import write_colours

METHOD = Method(
    data=None,
    k=3,
    draws=1,
    queries=9,
    protocol="default",
    variant="code",
    way="backprop",
    lr=0.5,
    orders=2,
)
UNIT = Unit(Path("model"), "task", 0, METHOD)


def draw_by_hand(
    model: GPT, prompts: Prompts, shown: Demonstrations, learnt: Demonstrations
) -> Draw:
    """Return the passes of a model that is shown some demonstrations and finetuned on others."""
    tuned = finetune(model, learnt, Finetuning(lr=0.5))
    nothing = none_of(prompts)
    with with_weights(model, tuned.weights):
        finetuned = ask(model, prompts.queries, nothing)
    zero_shot = ask(model, prompts.queries, nothing)
    return Draw(zero_shot, ask(model, prompts.queries, shown), finetuned, tuned.training)


def test_the_nulls_are_another_finetuning_and_another_model(prompts: Prompts) -> None:
    model = small_model("momentum")
    shown = drawn(prompts, SETTING)
    found = compute(UNIT, small_model("momentum"), prompts, SETTING).measures
    shuffled, wrong = shuffled_answers(prompts, shown, 0), wrong_answers(prompts, shown)
    fresh = untrained(model, 1)
    expected = {
        "SimAOU": draw_by_hand(model, prompts, shown, shown),
        against("SimAOU", "shuffled labels"): draw_by_hand(model, prompts, shown, shuffled),
        against("SimAOU", "wrong labels"): draw_by_hand(model, prompts, shown, wrong),
        against("SimAOU", "untrained model"): draw_by_hand(fresh, prompts, shown, shown),
    }
    for name, draw in expected.items():
        by_hand = simaou(draw.zero_shot, draw.icl, draw.finetuned)
        torch.testing.assert_close(found[name], by_hand, equal_nan=True)
    assert not torch.equal(found["SimAOU"], found[against("SimAOU", "shuffled labels")])


def test_shuffled_labels_are_compared_token_by_token(prompts: Prompts) -> None:
    """Without an update, the first layer's query of a token depends on it and its place alone."""
    model = small_model()
    shown = drawn(prompts, SETTING)
    frozen = Finetuning(lr=0.0)
    of_right = finetune(model, shown, frozen).training
    shuffled = shuffled_answers(prompts, shown, 0)
    own, _ = shared_tokens(shown, shuffled)
    right = draw_by_hand(model, prompts, shown, shown)
    draw = on_other_answers(right, model, prompts, shown, shuffled, frozen, METHOD)

    attended = right.icl.on_demonstrations
    torch.testing.assert_close(draw.icl.on_demonstrations, attended[..., own])
    expected = of_right.queries[0, own]
    is_same = (draw.training.queries[0] == expected).all(dim=-1)  # (M,)
    n_answers = len(own) - sum(len(one.prompt) for one in shown.shown)
    assert 0 < (~is_same).sum() <= n_answers
    torch.testing.assert_close(draw.training.demonstration, of_right.demonstration[own])


def test_other_orders_are_asked_and_learnt_in(prompts: Prompts) -> None:
    model = small_model()
    shown = drawn(prompts, SETTING)
    orders = [in_other_order(prompts, shown, seed) for seed in range(20)]
    seeds = [seed for seed, order in enumerate(orders) if order.prefix != shown.prefix][:2]
    read: list[list[int]] = []
    handle = model.token_embedding.register_forward_pre_hook(
        lambda _, given: read.append(given[0][0].tolist())
    )
    found = in_other_orders(seeds, model, prompts, shown, Finetuning(lr=0.5))
    handle.remove()
    assert {way: len(accuracies) for way, accuracies in found.items()} == {
        "icl_orders": 2,
        "finetuned_orders": 2,
    }

    for seed in seeds:
        after = read[read.index(orders[seed].prefix) :]
        inputs = [[*shown.beginning, *one.tokens] for one in orders[seed].shown]
        assert [row for row in after if row in inputs][:3] == inputs


@pytest.mark.parametrize(
    ("protocol", "variant", "position"),
    [
        ("default", "code", "last_prompt"),
        ("dai2022", "paper", "last_prompt"),
        ("dai2022", "code", "label0"),
    ],
)
def test_the_papers_code_looks_at_the_label(protocol: str, variant: str, position: str) -> None:
    assert position_of(replace(METHOD, protocol=protocol, variant=variant)) == position


@pytest.mark.parametrize(
    ("protocol", "variant", "in_full"),
    [("default", "paper", 100), ("dai2022", "paper", None), ("dai2022", "code", 100)],
)
def test_the_papers_code_takes_the_first_queries_and_the_paper_all(
    protocol: str, variant: str, in_full: int | None
) -> None:
    """Of Kendall's correlation."""
    assert in_full_of(replace(METHOD, protocol=protocol, variant=variant)) == in_full


def test_all_passes_of_a_draw_record_the_first_queries_in_full(
    prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "IN_FULL", 4)
    model, shown = small_model(), drawn(prompts, SETTING)
    draw = draw_of(model, prompts, shown, Finetuning(lr=0.5), METHOD)
    all_of = draw_by_hand(model, prompts, shown, shown)
    found = measure(draw)["Kendall"]
    assert (len(found), len(measure(all_of)["Kendall"])) == (4, len(prompts.queries.asked))
    torch.testing.assert_close(found, measure(all_of)["Kendall"][:4], equal_nan=True)
    for name in ("zero_shot", "icl", "finetuned"):
        assert len(getattr(draw, name).queries) == 4


def test_a_name_tells_all_that_changes_a_result(prompts: Prompts) -> None:
    name = name_of(UNIT, "weights", prompts, SETTING)
    elsewhere = replace(UNIT, model=Path("moved"), method=replace(METHOD, data="copied"))
    assert name_of(elsewhere, "weights", prompts, SETTING) == name
    others = [
        name_of(UNIT, "others", prompts, SETTING),
        name_of(replace(UNIT, draw=1), "weights", prompts, SETTING),
        name_of(UNIT, "weights", prompts, SETTING._replace(seed=1)),
        *(
            name_of(replace(UNIT, method=replace(METHOD, **change)), "weights", prompts, SETTING)
            for change in ({"lr": 0.1}, {"way": "label"}, {"protocol": "dai2022"}, {"orders": 0})
        ),
    ]
    assert len({name, *others}) == 1 + len(others)


def test_a_name_tells_how_answers_are_scored_and_what_the_rate_is_chosen_on(
    prompts: Prompts,
) -> None:
    chosen = replace(UNIT, method=replace(METHOD, lr=None))
    name = name_of(chosen, "weights", prompts, SETTING)
    by_sum = replace(prompts, task=replace(prompts.task, score="sum"))
    assert name_of(chosen, "weights", by_sum, SETTING) != name

    train = prompts.examples.train
    shown = drawn(prompts, SETTING).examples
    others = [one if one in shown else flipped(one) for one in train]
    changed = replace(prompts, examples=prompts.examples._replace(train=others))
    assert name_of(chosen, "weights", changed, SETTING) != name
    assert name_of(UNIT, "weights", changed, SETTING) == name_of(UNIT, "weights", prompts, SETTING)


def test_queries_of_a_piece_are_in_a_random_order(
    tokenizer: Tokenizer, data_folder: Path, tmp_path: Path
) -> None:
    task = write_colours(tmp_path, [" e", " y"], n_test=8)
    unit = replace(UNIT, model=data_folder, task=task)
    numbers = units.prompts_of(unit, 256).queries.numbers
    assert numbers != sorted(numbers)
    assert len(numbers) == 8


def test_a_finetuning_that_diverges_answers_nothing(prompts: Prompts) -> None:
    diverging = replace(UNIT, method=replace(METHOD, lr=1e30))
    found = compute(diverging, small_model(), prompts, SETTING)
    assert found.facts["diverged"]
    assert not found.measures["accuracy, finetuned"].any()
    assert not compute(UNIT, small_model(), prompts, SETTING).facts["diverged"]


def test_the_ways_to_finetune_are_those_that_are_documented() -> None:
    assert WAYS["backprop"] == Finetuning(lr=0.0, momentum=0.0, loss="lm", gradient="backprop")
    assert WAYS["layer_causal"].gradient == "layer_causal"
    assert WAYS["label"].loss == "label"
    assert WAYS["momentum"].momentum == 0.5
    assert tuple(WAYS) == analyze.WAYS
