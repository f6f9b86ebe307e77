"""The induction probe on models whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from momentum_gpt.evaluation.induction import induction, induction_tokens

IDS = np.arange(10, 60)


class Copier(nn.Module):
    """A perfect induction head: says with probability p what stood `period` tokens earlier."""

    def __init__(self, period: int, p: float) -> None:
        super().__init__()
        self.period = period
        self.p = p
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, tokens: Tensor) -> Tensor:
        T = tokens.shape[1]
        logits = torch.full((*tokens.shape, 64), math.log((1 - self.p) / 63))
        guess = tokens[:, 1 : T - self.period + 1]
        rows = torch.arange(len(tokens))[:, None]
        places = torch.arange(self.period, T)[None]
        return logits.index_put((rows, places, guess), torch.tensor(math.log(self.p)))


def test_a_perfect_copier_is_always_right() -> None:
    metrics = induction(Copier(16, 0.9), IDS, 32, 10, 64)
    assert metrics["icl/induction/acc"] == 1.0
    assert metrics["icl/induction/loss"] == pytest.approx(-math.log(0.9), rel=1e-4)


def test_one_that_looks_back_too_far_is_as_good_as_chance() -> None:
    metrics = induction(Copier(15, 0.9), IDS, 32, 50, 64)
    assert metrics["icl/induction/acc"] < 0.06  # chance is 1/50
    assert metrics["icl/induction/loss"] > 3


def test_the_sequences_are_the_same_every_time_and_shown_twice() -> None:
    seen: list[Tensor] = []

    class Watcher(Copier):
        def forward(self, tokens: Tensor) -> Tensor:
            seen.append(tokens)
            return super().forward(tokens)

    for tokens_per_forward in (31, 310):
        induction(Watcher(16, 0.9), IDS, 32, 10, tokens_per_forward)
    one_by_one = torch.cat(seen[:10])
    together = seen[10]
    assert torch.equal(one_by_one, together)
    assert torch.equal(one_by_one[:, :15], one_by_one[:, 16:])
    assert set(one_by_one.unique().tolist()) <= set(IDS.tolist())
    assert len(one_by_one.unique(dim=0)) == 10

    # Runs that were measured before are compared with those measured now.
    last = np.random.default_rng([20221220, 9]).choice(IDS, 16)
    assert one_by_one[9, :16].tolist() == last.tolist()


@pytest.mark.parametrize(("seq_len", "length"), [(4, 3), (32, 31), (33, 31)])
def test_progress_counts_the_tokens_read(seq_len: int, length: int) -> None:
    """Twice half the context, without the last token, which is only a target."""
    amounts: list[float] = []
    induction(Copier(seq_len // 2, 0.9), IDS, seq_len, 10, 64, amounts.append)
    assert sum(amounts) == induction_tokens(seq_len, 10) == 10 * length
