"""The induction probe: a random token sequence shown twice.

Only the context can tell how the second showing continues, so that the probe measures in-context
copying apart from all that a model knows of language (Olsson et al., "In-context learning and
induction heads", 2022).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from momentum_gpt.core.terminal import Advance, ignore_progress
from momentum_gpt.evaluation.scoring import score, token_losses
from momentum_gpt.evaluation.statistics import margin, over_seeds

SEED = 20221220
"""Seed of the probe's sequences: fixed, so that they are the same for every model and step."""


def induction(
    model: nn.Module,
    token_ids: np.ndarray,
    seq_len: int,
    n_sequences: int,
    tokens_per_forward: int,
    advance: Advance = ignore_progress,
) -> dict[str, float]:
    """Return accuracy and loss (nats per token) on the second showing.

    Each sequence is h = seq_len // 2 tokens drawn uniformly, with replacement, from `token_ids`,
    then the same again. The second showing's first token cannot be foreseen and is not counted; its
    other h - 1 are. Chance is an accuracy of 1 / len(token_ids) and a loss of at least
    ln len(token_ids).

    Args:
        model: tokens (B, T) -> logits (B, T, V).
        token_ids: (n,), the tokens to draw from.
        seq_len: longest sequence, tokens; at least 4.
        n_sequences: how many sequences.
        tokens_per_forward: most tokens in a forward pass.
        advance: called with the tokens done, `induction_tokens` in all.

    Returns:
        `icl/induction/acc` and `icl/induction/loss`; and, of two and more sequences, which were
        drawn independently, half the width of their 95% intervals, `icl/induction/acc_margin` and
        `icl/induction/loss_margin`.
    """
    half = seq_len // 2

    def showings(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        twice = []
        for number in numbers:
            once = np.random.default_rng([SEED, number]).choice(token_ids, half)
            twice.append(np.concatenate([once, once]))
        block = np.stack(twice)
        return block[:, :-1], block[:, 1:]

    def statistics(logits: Tensor, targets: Tensor) -> Tensor:
        right = (logits.argmax(-1) == targets).float()
        return torch.stack([right, token_losses(logits, targets)])

    values = score(model, showings, n_sequences, tokens_per_forward, statistics, advance)
    second = values[:, :, half:]  # (2, n_sequences, h - 1)

    metrics: dict[str, float] = {}
    by_sequence = second.double().mean(dim=2).numpy()  # (2, n_sequences)
    for name, of_sequences in zip(("acc", "loss"), by_sequence, strict=True):
        metric = f"icl/induction/{name}"
        estimate = over_seeds(of_sequences)
        metrics |= {metric: estimate.value, **margin(metric, estimate)}
    return metrics


def induction_tokens(seq_len: int, n_sequences: int) -> int:
    """Return the tokens that `induction` reads."""
    return n_sequences * (2 * (seq_len // 2) - 1)
