"""Loss and accuracy at the answers, of models whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from momentum_gpt.core.config import TaskConfig
from momentum_gpt.data import SyntheticTask
from momentum_gpt.evaluation import answers

TASK = SyntheticTask(TaskConfig("recall", n_pairs=3, n_keys=8, n_values=8), seq_len=20)


class Uniform(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.device = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, TASK.vocab_size)


class LooksUp(Uniform):
    """Gives what stood behind the key's first showing the probability 3/4, if that was the first pair, else 1/4."""

    def forward(self, tokens: Tensor) -> Tensor:
        logits = torch.full((*tokens.shape, TASK.vocab_size), -1e9)
        for row, its in zip(tokens, logits, strict=True):
            for place in range(6, 20, 2):
                pair = row[0:6:2].tolist().index(int(row[place]))
                its[place, row[2 * pair + 1]] = math.log(0.75 if pair == 0 else 0.25)
                its[place, 0] = math.log(0.25 if pair == 0 else 0.75)
        return logits


def test_a_model_that_knows_nothing_is_at_chance() -> None:
    measured = answers(Uniform(), TASK, 50, tokens_per_forward=140)
    assert measured["val/loss"] == pytest.approx(math.log(17), rel=1e-6)
    assert measured["val/acc"] == 0.0  # all are equally likely: the first, a blank, is its choice


def test_known_probabilities_give_the_loss_and_the_accuracy_worked_out_on_paper() -> None:
    drawn = [TASK.held_out(n)[0][0] for n in range(50)]
    first = sum(int(row[place] == row[0]) for row in drawn for place in range(6, 20, 2))
    asked = 50 * 7
    measured = answers(LooksUp(), TASK, 50, tokens_per_forward=140)
    assert measured["val/acc"] == pytest.approx(first / asked, abs=1e-12)
    assert measured["val/loss"] == pytest.approx(
        -(first * math.log(0.75) + (asked - first) * math.log(0.25)) / asked, rel=1e-6
    )
