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


class PlainMuon:
    """Muon as it was published (Jordan et al. 2024), with Nesterov's momentum, for matrices.

    The scale is that of Liu et al., arXiv 2502.16982, equation 4.
    """

    def __init__(self, parameters: Iterable[Tensor], config: OptimConfig) -> None:
        self.parameters = list(parameters)
        self.config = config
        self.averages = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def step(self, gradients: list[Tensor], lr: float) -> None:
        mu = self.config.momentum
        for p, g, m in zip(self.parameters, gradients, self.averages, strict=True):
            m.copy_(mu * m + (1 - mu) * g)
            nesterov = mu * m + (1 - mu) * g
            scale = 0.2 * max(p.shape) ** 0.5
            p.sub_(lr * (scale * newton_schulz(nesterov) + self.config.weight_decay * p))


def newton_schulz(x: Tensor) -> Tensor:
    """Five iterations of the published quintic, in the precision of x."""
    x = x / x.norm()
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * (x @ x.T) @ x + 2.0315 * (x @ x.T) @ (x @ x.T) @ x
    return x


def mean_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum of nats over all targets, divided by their number."""
    is_target = targets != -100
    log_p = F.log_softmax(logits, dim=-1)[is_target]  # (targets, V)
    nats = -log_p.gather(1, targets[is_target][:, None])
    return nats.sum() / is_target.sum()


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon is for this parameter."""
    return name.startswith("blocks.") and parameter.ndim == 2


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
    optimizers: list[PlainAdamW | PlainMuon] = [PlainAdamW([p], config) for p in parameters]
    if config.name == "muon":
        for number, (name, parameter) in enumerate(model.named_parameters()):
            if is_hidden_matrix(name, parameter):
                optimizers[number] = PlainMuon([parameter], config)
    done = []
    for (tokens, targets), lr in zip(batches, lrs, strict=True):
        loss = mean_nats(model(tokens), targets)
        gradients = list(torch.autograd.grad(loss, parameters))
        norm = torch.stack([(gradient**2).sum() for gradient in gradients]).sum().sqrt().item()
        clipped = [gradient * min(1.0, config.grad_clip / norm) for gradient in gradients]
        for optimizer, gradient in zip(optimizers, clipped, strict=True):
            optimizer.step([gradient], lr)
        done.append((loss.item(), norm))
    return done, {name: parameter.detach() for name, parameter in model.named_parameters()}
