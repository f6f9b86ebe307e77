"""Loss and accuracy at the answers, of models whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from momentum_gpt.core.config import TaskConfig
from momentum_gpt.data import SyntheticTask
from momentum_gpt.evaluation.synthetic import measure_answers

TASK = SyntheticTask(TaskConfig("recall", n_pairs=3, n_keys=8, n_values=8), seq_len=20)

QUERIES = range(6, 20, 2)
"""Places of the queries: after three pairs, every second one."""


class Uniform(nn.Module):
    """Gives every token the same probability."""

    def __init__(self) -> None:
        super().__init__()
        self.device = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, TASK.vocab_size)


class LooksUp(Uniform):
    """Gives the value after the key's first showing 3/4 if that was the first pair, else 1/4."""

    def forward(self, tokens: Tensor) -> Tensor:
        logits = torch.full((*tokens.shape, TASK.vocab_size), -1e9)
        for row, of_row in zip(tokens, logits, strict=True):
            for place in QUERIES:
                pair = row[0:6:2].tolist().index(int(row[place]))
                probability = 0.75 if pair == 0 else 0.25
                of_row[place, row[2 * pair + 1]] = math.log(probability)
                of_row[place, 0] = math.log(1 - probability)
        return logits


def test_a_model_that_knows_nothing_is_at_chance() -> None:
    measured = measure_answers(Uniform(), TASK, 50, tokens_per_forward=140)
    assert measured["val/loss"] == pytest.approx(math.log(17), rel=1e-6)
    # All are equally likely: the first, a blank, is its choice.
    assert measured["val/acc"] == 0.0


def test_known_probabilities_give_the_loss_and_the_accuracy_worked_out_on_paper() -> None:
    n_first = 0
    for number in range(50):
        row = TASK.held_out(number)[0][0]
        n_first += sum(int(row[place] == row[0]) for place in QUERIES)

    n = 50 * len(QUERIES)
    nats = -n_first * math.log(0.75) - (n - n_first) * math.log(0.25)
    measured = measure_answers(LooksUp(), TASK, 50, tokens_per_forward=140)
    assert measured["val/acc"] == pytest.approx(n_first / n, abs=1e-12)
    assert measured["val/loss"] == pytest.approx(nats / n, rel=1e-6)
