"""Loss and accuracy on a synthetic task, at its answers alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from momentum_gpt.core.terminal import Advance, ignore_progress
from momentum_gpt.data.synthetic_tasks import NO_TARGET, SyntheticTask
from momentum_gpt.evaluation.scoring import score, token_losses


def measure_answers(
    model: nn.Module,
    task: SyntheticTask,
    n_sequences: int,
    tokens_per_forward: int,
    advance: Advance = ignore_progress,
) -> dict[str, float]:
    """Return the loss and the accuracy at the answers of sequences that no run trains on.

    Args:
        model: tokens (B, T) -> logits (B, T, V).
        task: the task that the sequences are drawn from.
        n_sequences: sequences of task.seq_len tokens.
        tokens_per_forward: most tokens in a forward pass.
        advance: called with the tokens done, n_sequences x task.seq_len in all.

    Returns:
        `val/loss`, nats per answer, and `val/acc`, the share of answers that are the model's first
        choice.
    """

    def held_out(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        drawn = [task.held_out(int(number)) for number in numbers]
        tokens, targets = zip(*drawn, strict=True)
        return np.concatenate(tokens), np.concatenate(targets)

    def statistics(logits: Tensor, targets: Tensor) -> Tensor:
        is_answer = (targets != NO_TARGET).float()
        right = (logits.argmax(-1) == targets).float()
        return torch.stack([is_answer, right, token_losses(logits, targets)])  # (3, B, T)

    values = score(model, held_out, n_sequences, tokens_per_forward, statistics, advance)
    n_answers, right, nats = values.double().sum(dim=(1, 2)).tolist()
    return {"val/loss": nats / n_answers, "val/acc": right / n_answers}
