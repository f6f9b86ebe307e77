"""Loss and accuracy of a synthetic task, at its answers alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from momentum_gpt.data.synthetic_tasks import NO_TARGET, SyntheticTask
from momentum_gpt.evaluation.scoring import score, token_losses


def answers(
    model: nn.Module, task: SyntheticTask, n_sequences: int, tokens_per_forward: int
) -> dict[str, float]:
    """Keys `val/loss` (nats per answer) and `val/acc` (share of the answers that are the model's first choice)."""

    def held_out(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        drawn = [task.held_out(int(n)) for n in numbers]
        return np.concatenate([tokens for tokens, _ in drawn]), np.concatenate(
            [targets for _, targets in drawn]
        )

    def statistics(logits: Tensor, targets: Tensor) -> Tensor:
        right = (logits.argmax(-1) == targets).float()
        return torch.stack([(targets != NO_TARGET).float(), right, token_losses(logits, targets)])

    asked, right, nats = (
        score(model, held_out, n_sequences, tokens_per_forward, statistics)
        .double()
        .sum(dim=(1, 2))
        .tolist()
    )
    return {"val/loss": nats / asked, "val/acc": right / asked}
