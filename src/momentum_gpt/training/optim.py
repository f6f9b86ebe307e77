"""The optimizer, its parameter groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from momentum_gpt.core.config import OptimConfig
from momentum_gpt.models.gpt import is_of_variant
from momentum_gpt.training.muon import MuonAdamW


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return a fused AdamW, or Muon and AdamW, with weight decay on matrices and embeddings only.

    It is compiled with torch, so that nothing is built at start-up.
    """
    named = dict(model.named_parameters())
    groups: list[dict[str, Any]] = []
    for kind, parameters in parameter_groups(named, config.name == "muon").items():
        weight_decay = 0.0 if kind == "vectors" else config.weight_decay
        group = {"params": list(parameters.values()), "weight_decay": weight_decay}
        if config.name == "muon":
            group |= {"muon": kind == "hidden", "momentum": config.momentum}
        groups.append(group)

    optimizer = MuonAdamW if config.name == "muon" else torch.optim.AdamW
    betas = (config.beta1, config.beta2)
    return optimizer(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)


def parameter_groups(named: Mapping[str, Tensor], muon: bool) -> dict[str, dict[str, Tensor]]:
    """Return the parameters of each group that has any, by name, in the optimizer's order.

    The groups are "hidden", the matrices of the blocks, where Muon updates them; "matrices", the
    others and the embeddings; and "vectors".

    Args:
        named: parameters by name, in the model's order.
        muon: whether there is a group for Muon.
    """
    groups: dict[str, dict[str, Tensor]] = {"hidden": {}, "matrices": {}, "vectors": {}}
    for name, parameter in named.items():
        if parameter.ndim < 2:
            groups["vectors"][name] = parameter
        elif muon and name.startswith("blocks.") and not is_of_variant(name):
            groups["hidden"][name] = parameter
        else:
            groups["matrices"][name] = parameter
    return {kind: group for kind, group in groups.items() if group}


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
