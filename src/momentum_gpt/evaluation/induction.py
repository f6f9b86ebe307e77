"""The induction probe: a random token sequence shown twice. Only the context can tell how the second showing goes on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from momentum_gpt.evaluation.scoring import score, token_losses

SEED = 20221220
"""Of the probe's sequences: fixed, so that every model and every step meets the same ones."""


def induction(
    model: nn.Module, token_ids: np.ndarray, seq_len: int, n_sequences: int, tokens_per_forward: int
) -> dict[str, float]:
    """Accuracy and loss (nats per token) on the second showing: `icl/induction/acc`, `icl/induction/loss`.

    Each sequence is h = seq_len // 2 tokens drawn uniformly, with replacement, from `token_ids`, then the same again. The
    second showing's first token cannot be foreseen and is not counted; its other h - 1 are. Chance is an accuracy of
    1 / len(token_ids) and a loss of at least ln len(token_ids).
    """
    half = seq_len // 2

    def showings(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        once = [np.random.default_rng([SEED, n]).choice(token_ids, half) for n in numbers]
        twice = np.stack([np.concatenate([row, row]) for row in once])
        return twice[:, :-1], twice[:, 1:]

    def statistics(logits: Tensor, targets: Tensor) -> Tensor:
        return torch.stack([(logits.argmax(-1) == targets).float(), token_losses(logits, targets)])

    values = score(model, showings, n_sequences, tokens_per_forward, statistics)[
        :, :, half:
    ]  # (2, n_sequences, h - 1)
    accuracy, loss = values.double().mean(dim=(1, 2)).tolist()
    return {"icl/induction/acc": accuracy, "icl/induction/loss": loss}
