"""The optimizer's parameter groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from momentum_gpt.core.config import OptimConfig


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Fused AdamW: compiled with torch, so nothing is built at start-up. Weight decay on matrices and embeddings only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
    )


def lr_at(step: int, config: OptimConfig, max_steps: int) -> float:
    """The learning rate of the update that is number `step`, counted from 0; set before the update.

    Linear warm-up: update 0 already moves, with lr / warmup_steps. Then, with x from 0 to 1 over the remaining updates:
    polynomial: min_lr + (lr - min_lr) (1 - x)^power, as fairseq's and the paper's; cosine: half a cosine from lr to
    min_lr; wsd: lr until the last `decay_fraction` of max_steps, then linear to min_lr. The last update has x = 1.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    first = config.warmup_steps
    if config.schedule == "wsd":
        first = max(first, max_steps - round(config.decay_fraction * max_steps))
        if step < first:
            return config.lr
    x = min(1.0, (step - first) / max(1, max_steps - 1 - first))
    if config.schedule == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * x))
    elif config.schedule == "polynomial":
        share = (1 - x) ** config.power
    else:
        share = 1 - x
    return config.min_lr + (config.lr - config.min_lr) * share
