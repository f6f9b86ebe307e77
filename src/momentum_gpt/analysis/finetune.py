"""Finetuning that is restricted as in-context learning is, after Dai et al. (arXiv 2212.10559).

Only the key and value projections of each layer change, their biases included, by one step of SGD
on each demonstration, in their order.

Shapes: L layers, C width of the model, M tokens of all demonstrations together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from momentum_gpt.analysis.capture import attentions, hooked
from momentum_gpt.analysis.records import TrainingQueries
from momentum_gpt.analysis.settings import Demonstrations
from momentum_gpt.core.config import require, require_choice
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.terminal import Advance, ignore_progress
from momentum_gpt.models import GPT

LOSSES = ("lm", "label")
GRADIENTS = ("backprop", "layer_causal")

KeyValueWeights = dict[str, Tensor]
"""Name of a parameter -> its rows for keys and values: (2C, C) of a matrix, (2C,) of a bias."""


@dataclass(frozen=True)
class Finetuning:
    """How a model is finetuned on the demonstrations.

    Raises:
        UserError: an option is out of its bounds.
    """

    lr: float
    """Learning rate."""
    momentum: float = 0.0
    """Momentum of SGD, in [0, 1)."""
    loss: str = "lm"
    """lm: the mean over all tokens of a demonstration. label: the mean over those of its answer."""
    gradient: str = "backprop"
    """backprop: that of the model's loss. layer_causal: no layer learns from a later one, as in
    Deutch et al. (arXiv 2311.07772); see `gradients_of`."""

    def __post_init__(self) -> None:
        require(self.lr >= 0, "lr", self.lr, "at least 0")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        require_choice(LOSSES, "loss", self.loss)
        require_choice(GRADIENTS, "gradient", self.gradient)


@dataclass
class Finetuned:
    """What a finetuning leaves; the model itself is as it was."""

    weights: KeyValueWeights
    """The new rows, to be put in with `with_weights`."""
    training: TrainingQueries
    """The demonstrations' attention queries, of each before its own update."""
    losses: list[float]
    """The loss of each demonstration before its own update, nats per token; of layer_causal, the
    sum over layers."""


@dataclass
class Learnt:
    """What one demonstration leaves."""

    gradients: KeyValueWeights
    loss: float
    queries: Tensor
    """(L, tokens, C): attention queries of the demonstration's tokens, before rotary positions."""


def finetune(
    model: GPT,
    shown: Demonstrations,
    finetuning: Finetuning,
    advance: Advance = ignore_progress,
) -> Finetuned:
    """Finetune a model on demonstrations: one epoch of SGD, one demonstration a step, in order.

    A demonstration is read as a document of its own, after what `shown.beginning` has. The model
    is used for it and then has its own weights again, bit by bit.

    Args:
        model: the model, in float32.
        shown: the demonstrations, at least one.
        finetuning: how.
        advance: called with the demonstrations done.

    Raises:
        UserError: the model is in half precision, there is no demonstration, or one does not fit
            the context.
    """
    check_model(model, shown)
    rows = key_value_rows(model)
    velocity: KeyValueWeights = {}
    queries = []
    losses = []
    with with_weights(model, {}):
        for number in range(len(shown.shown)):
            learnt = learn(model, shown, number, finetuning)
            for name, gradient in learnt.gradients.items():
                if name in velocity:
                    velocity[name].mul_(finetuning.momentum).add_(gradient)
                else:
                    velocity[name] = gradient.clone()
                rows[name].add_(velocity[name], alpha=-finetuning.lr)
            queries.append(learnt.queries)
            losses.append(learnt.loss)
            advance(1)
        weights = {name: tensor.clone() for name, tensor in rows.items()}
    return Finetuned(weights, training_queries(shown, queries), losses)


def one_step(
    model: GPT, shown: Demonstrations, finetuning: Finetuning, size: float = 1e-3
) -> Finetuned:
    """Take one small step along the gradient of all demonstrations at the model's own weights.

    It is what finetuning tends to as its learning rate goes to 0, so that no rate needs to be
    chosen; those of `finetuning` are not used.

    Args:
        model, shown, finetuning: as in `finetune`.
        size: length of the step, as a share of the norm of all rows that change.
    """
    check_model(model, shown)
    rows = key_value_rows(model)
    total = {name: torch.zeros_like(tensor) for name, tensor in rows.items()}
    queries = []
    losses = []
    for number in range(len(shown.shown)):
        learnt = learn(model, shown, number, finetuning)
        for name, gradient in learnt.gradients.items():
            total[name] += gradient
        queries.append(learnt.queries)
        losses.append(learnt.loss)

    rate = size * norm_of(rows) / norm_of(total)
    weights = {name: tensor - rate * total[name] for name, tensor in rows.items()}
    return Finetuned(weights, training_queries(shown, queries), losses)


@contextmanager
def with_weights(model: GPT, weights: KeyValueWeights) -> Iterator[None]:
    """Put other rows for keys and values into a model, and take them out again exactly.

    Args:
        model: the model.
        weights: from `Finetuned`; parameters without an entry keep their rows, until the block
            itself changes them.
    """
    rows = key_value_rows(model)
    own = {name: tensor.clone() for name, tensor in rows.items()}
    try:
        for name, tensor in weights.items():
            rows[name].copy_(tensor)
        yield
    finally:
        for name, tensor in own.items():
            rows[name].copy_(tensor)


def key_value_rows(model: GPT) -> KeyValueWeights:
    """Return the rows for keys and values of each layer; they share the memory of the model."""
    rows = {}
    for name, parameter in projections(model).items():
        rows[name] = rows_in(parameter.detach())
    return rows


def projections(model: GPT) -> dict[str, nn.Parameter]:
    """Return the parameters that make queries, keys and values, by name."""
    return {name: p for name, p in model.named_parameters() if ".attention.qkv." in name}


def rows_in(projection: Tensor) -> Tensor:
    """Return the last two thirds, those of keys and values, of a projection's rows."""
    return projection[len(projection) // 3 :]


def learn(model: GPT, shown: Demonstrations, number: int, finetuning: Finetuning) -> Learnt:
    """Return the gradients that a demonstration gives, and its attention queries."""
    prompt, answer = shown.shown[number]
    n_before = len(shown.beginning)
    tokens = [*shown.beginning, *prompt, *answer]
    first_target = n_before if finetuning.loss == "lm" else n_before + len(prompt)
    width = model.config.d_model
    queries: list[Tensor] = []

    def keep_queries(qkv: nn.Module, given: Any, projected: Tensor) -> None:
        queries.append(projected[0, n_before:, :width].detach().float().cpu())

    with hooked([(attention.qkv, keep_queries) for attention in attentions(model)]):
        gradients, loss = gradients_of(model, tokens, first_target, finetuning.gradient)
    return Learnt(gradients, loss, torch.stack(queries))


@torch.enable_grad()
def gradients_of(
    model: GPT, tokens: list[int], first_target: int, gradient: str
) -> tuple[KeyValueWeights, float]:
    """Return the gradients of the rows for keys and values, and the loss.

    The loss is the mean over the targets, in nats. With layer_causal it is the sum of such losses
    over the layers: each predicts the next tokens from its own output, through the model's last
    norm and its unembedding, and its input counts as a constant.

    Args:
        model: the model.
        tokens: a document, (T,).
        first_target: the place of the first token that is a target; all later ones are, too.
        gradient: backprop | layer_causal.
    """
    parameters = projections(model)
    for parameter in parameters.values():
        assert parameter.requires_grad, "the model's parameters take no gradients"

    ids = torch.tensor([tokens], device=model.token_embedding.weight.device)  # (1, T)
    targets = ids[0, first_target:]
    x, angles = model.embed(ids, torch.arange(ids.shape[1], device=ids.device))

    def loss_of(hidden: Tensor) -> Tensor:
        predicting = model.norm(hidden[0, first_target - 1 : -1])
        return F.cross_entropy(model.logits(predicting), targets)

    found: KeyValueWeights = {}
    total = 0.0
    for index, block in enumerate(model.blocks):
        if gradient == "layer_causal":
            x = block(x.detach(), angles, None, None)
            of_layer = [name for name in parameters if name.startswith(f"blocks.{index}.")]
            loss = loss_of(x)
            found |= _gradients(loss, {name: parameters[name] for name in of_layer})
            total += loss.item()
        else:
            x = block(x, angles, None, None)

    if gradient == "backprop":
        loss = loss_of(x)
        found = _gradients(loss, parameters)
        total = loss.item()
    return found, total


def _gradients(loss: Tensor, parameters: dict[str, nn.Parameter]) -> KeyValueWeights:
    found = torch.autograd.grad(loss, list(parameters.values()))
    return {name: rows_in(tensor) for name, tensor in zip(parameters, found, strict=True)}


def training_queries(shown: Demonstrations, queries: list[Tensor]) -> TrainingQueries:
    """Return the attention queries of all demonstrations, one after another."""
    together = torch.cat(queries, dim=1)  # (L, M, C)
    return TrainingQueries(together, torch.tensor(shown.owners))


def norm_of(tensors: KeyValueWeights) -> float:
    """Return the Euclidean norm of all numbers together."""
    return sum(tensor.double().square().sum().item() for tensor in tensors.values()) ** 0.5


def check_model(model: GPT, shown: Demonstrations) -> None:
    """Raise a UserError unless a model can be finetuned on the demonstrations."""
    dtype = model.token_embedding.weight.dtype
    if dtype not in (torch.float32, torch.float64):
        raise UserError(
            f"the model is in {dtype}, which loses small updates: convert it with model.float()"
        )
    if not shown.shown:
        raise UserError("there are 0 demonstrations, but finetuning needs at least 1: show some")

    longest = max(len(demonstration.tokens) for demonstration in shown.shown)
    needed = len(shown.beginning) + longest
    if needed > model.config.seq_len:
        raise UserError(
            f"a demonstration has {needed} tokens, but the model's context is "
            f"{model.config.seq_len}: draw others"
        )
