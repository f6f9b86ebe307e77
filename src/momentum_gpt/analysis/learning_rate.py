"""Which learning rate to finetune with.

By default it is chosen on examples that are neither queries nor demonstrations. Dai et al. (arXiv
2212.10559) chose it on the queries themselves, which flatters finetuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from momentum_gpt.analysis.finetune import Finetuning, finetune, with_weights
from momentum_gpt.analysis.passes import accuracy, answer_scores, gold_of
from momentum_gpt.analysis.settings import Demonstrations, drawn, held_out, none_of
from momentum_gpt.core.config import require_choice
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.terminal import Advance, ignore_progress
from momentum_gpt.evaluation.few_shot.prompts import Prompts, Setting
from momentum_gpt.evaluation.few_shot.queries import Queries
from momentum_gpt.models import GPT

HELD_OUT = 200
"""Examples that the learning rate is chosen on, unless the caller says otherwise."""

PROTOCOLS = ("default", "dai2022")

UNITS = (0.0001, 0.001, 0.01, 0.1)

RATES = {
    "default": [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3],
    "dai2022": [round(digit * unit, 4) for unit in UNITS for digit in range(1, 10)],
}
"""Protocol -> the learning rates that are tried, from the smallest."""


class Choice(NamedTuple):
    """A learning rate, and why it was chosen."""

    lr: float
    """The best; of ties the smallest."""
    accuracies: dict[float, float]
    """Learning rate -> accuracy after finetuning with it."""
    n: int
    """Queries that each accuracy is of."""


def choose_learning_rate(
    model: GPT,
    prompts: Prompts,
    setting: Setting,
    finetuning: Finetuning,
    protocol: str = "default",
    rates: Sequence[float] | None = None,
    n: int = HELD_OUT,
    tokens_per_forward: int | None = None,
    advance: Advance = ignore_progress,
) -> Choice:
    """Finetune with each learning rate, and return the one with the best accuracy.

    Args:
        model: the model.
        prompts: the task.
        setting: the demonstrations to finetune on.
        finetuning: how to; its own learning rate is not used.
        protocol: default, which chooses on examples of the training split that are no
            demonstrations; or dai2022, which chooses on the queries themselves.
        rates: what to try. None: the protocol's `RATES`.
        n: examples to choose on, with the default protocol.
        tokens_per_forward: as in `ask`.
        advance: called with the learning rates done.

    Raises:
        UserError: the protocol is unknown, or no example is left to choose on.
    """
    require_choice(PROTOCOLS, "protocol", protocol)
    shown = drawn(prompts, setting)
    queries = prompts.queries if protocol == "dai2022" else held_out(prompts, setting, n)
    nothing = none_of(prompts)

    accuracies = {}
    for lr in RATES[protocol] if rates is None else rates:
        trial = replace(finetuning, lr=lr)
        accuracies[lr] = accuracy_after(model, shown, trial, queries, nothing, tokens_per_forward)
        advance(1)
    return Choice(best_of(accuracies), accuracies, len(queries.asked))


def accuracy_after(
    model: GPT,
    shown: Demonstrations,
    finetuning: Finetuning,
    queries: Queries,
    nothing: Demonstrations,
    tokens_per_forward: int | None = None,
) -> float:
    """Return the accuracy on queries without demonstrations, after finetuning on these.

    Args:
        nothing: what stands before the queries, from `none_of`.
    """
    finetuned = finetune(model, shown, finetuning)
    with with_weights(model, finetuned.weights):
        scores = answer_scores(model, queries, nothing, tokens_per_forward)
    return accuracy(scores, gold_of(queries))


def best_of(accuracies: dict[float, float]) -> float:
    """Return the learning rate with the highest accuracy, of ties the smallest.

    Raises:
        UserError: nothing was tried.
    """
    if not accuracies:
        raise UserError("0 learning rates were given to choose from: give at least 1")
    best = max(accuracies.values())
    return min(lr for lr, found in accuracies.items() if found == best)
