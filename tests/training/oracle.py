"""Training by its definitions: one process, the whole global batch, float64.

Nothing of momentum_gpt.training is used here, but for the learning rates that a test passes in.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from momentum_gpt.core.config import OptimConfig


class PlainAdamW:
    """AdamW as it was published: Loshchilov and Hutter, arXiv 1711.05101, algorithm 2.

    The weight decay is for matrices and embeddings alone.
    """

    def __init__(self, parameters: Iterable[Tensor], config: OptimConfig) -> None:
        self.parameters = list(parameters)
        self.config = config
        self.first = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.second = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.t = 0

    @torch.no_grad()
    def step(self, gradients: list[Tensor], lr: float) -> None:
        beta1, beta2 = self.config.beta1, self.config.beta2
        self.t += 1
        for p, g, m, v in zip(self.parameters, gradients, self.first, self.second, strict=True):
            m.copy_(beta1 * m + (1 - beta1) * g)
            v.copy_(beta2 * v + (1 - beta2) * g**2)
            unbiased_m = m / (1 - beta1**self.t)
            unbiased_v = v / (1 - beta2**self.t)
            weight_decay = self.config.weight_decay if p.ndim >= 2 else 0.0
            step = unbiased_m / (unbiased_v.sqrt() + self.config.eps) + weight_decay * p
            p.sub_(lr * step)


def mean_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum of nats over all targets, divided by their number."""
    is_target = targets != -100
    log_p = F.log_softmax(logits, dim=-1)[is_target]  # (targets, V)
    nats = -log_p.gather(1, targets[is_target][:, None])
    return nats.sum() / is_target.sum()


def train_plainly(
    model: nn.Module,
    batches: list[tuple[Tensor, Tensor]],
    config: OptimConfig,
    lrs: list[float],
) -> tuple[list[tuple[float, float]], dict[str, Tensor]]:
    """Loss and gradient norm of each step, and the weights after the last one.

    Args:
        model: tokens (B, T) -> logits (B, T, V).
        batches: tokens and targets of each step's global batch, (B, T) each.
        lrs: of the steps.
    """
    model = model.double()
    parameters = list(model.parameters())
    optimizer = PlainAdamW(parameters, config)
    done = []
    for (tokens, targets), lr in zip(batches, lrs, strict=True):
        loss = mean_nats(model(tokens), targets)
        gradients = list(torch.autograd.grad(loss, parameters))
        norm = torch.stack([(gradient**2).sum() for gradient in gradients]).sum().sqrt().item()
        clipped = [gradient * min(1.0, config.grad_clip / norm) for gradient in gradients]
        optimizer.step(clipped, lr)
        done.append((loss.item(), norm))
    return done, {name: parameter.detach() for name, parameter in model.named_parameters()}
