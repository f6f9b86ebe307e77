"""The optimizer's parameter groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from momentum_gpt.core.config import OptimConfig


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return a fused AdamW with weight decay on matrices and embeddings only.

    It is compiled with torch, so that nothing is built at start-up.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]

    groups = []
    if matrices:
        groups.append({"params": matrices, "weight_decay": config.weight_decay})
    if vectors:
        groups.append({"params": vectors, "weight_decay": 0.0})

    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)


def lr_at(step: int, config: OptimConfig, max_steps: int) -> float:
    """Return the learning rate of update number `step`, counted from 0.

    The warm-up is linear, and update 0 already moves, with lr / warmup_steps. Let x go from 0 to 1
    over the remaining updates; the last update has x = 1:

    - polynomial: min_lr + (lr - min_lr) (1 - x)^power, as in fairseq and the paper;
    - cosine: half a cosine from lr to min_lr;
    - wsd: lr until the last `decay_fraction` of max_steps, then linear to min_lr.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps

    first = first_step_of_decay(config, max_steps)
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


def first_step_of_decay(config: OptimConfig, max_steps: int) -> int:
    """Return the update, counted from 0, from which on the learning rate falls."""
    if config.schedule != "wsd":
        return config.warmup_steps
    return max(config.warmup_steps, max_steps - round(config.decay_fraction * max_steps))
