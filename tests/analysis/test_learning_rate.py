"""The learning rate is chosen by accuracy, on the examples that the protocol says."""

from __future__ import annotations

import pytest

from momentum_gpt.analysis import learning_rate
from momentum_gpt.analysis.finetune import Finetuning, finetune, with_weights
from momentum_gpt.analysis.learning_rate import best_of, choose_learning_rate
from momentum_gpt.analysis.passes import answer_scores
from momentum_gpt.analysis.settings import drawn, none_of
from momentum_gpt.core.errors import UserError
from momentum_gpt.evaluation.few_shot.prompts import Prompts
from tests.analysis.cases import SETTING, small_model


def test_dai2022_chooses_on_the_queries(prompts: Prompts) -> None:
    model = small_model()
    rates = [0.001, 0.1, 3.0]
    found = choose_learning_rate(
        model, prompts, SETTING, Finetuning(0.0), protocol="dai2022", rates=rates
    )
    assert found.n == 9
    gold = [query.example.gold[0] for query in prompts.queries.asked]
    for lr in rates:
        tuned = finetune(model, drawn(prompts, SETTING), Finetuning(lr))
        with with_weights(model, tuned.weights):
            scores = answer_scores(model, prompts.queries, none_of(prompts))
        right = [int(best) == label for best, label in zip(scores.argmax(1), gold, strict=True)]
        assert found.accuracies[lr] == pytest.approx(sum(right) / 9)
    assert found.accuracies[found.lr] == max(found.accuracies.values())


def test_the_default_chooses_on_held_out_examples(prompts: Prompts) -> None:
    model = small_model()
    found = choose_learning_rate(model, prompts, SETTING, Finetuning(0.0), rates=[0.01], n=6)
    assert (found.n, found.lr) == (6, 0.01)
    found = choose_learning_rate(model, prompts, SETTING, Finetuning(0.0), rates=[0.01], n=100)
    assert found.n == 17


def test_dai2022_tries_the_published_rates() -> None:
    rates = learning_rate.RATES["dai2022"]
    assert rates == sorted(rates)
    published = [
        f"{digit * unit:.4f}" for digit in range(1, 10) for unit in (0.1, 0.01, 1e-3, 1e-4)
    ]
    assert sorted(f"{lr:.4f}" for lr in rates) == sorted(published)


def test_of_ties_the_smallest_is_best() -> None:
    assert best_of({0.3: 0.5, 0.1: 0.5, 0.01: 0.4}) == 0.1
    with pytest.raises(UserError, match="at least 1"):
        best_of({})
