"""Every variant passes every check, and each planted mistake is caught by the check for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from momentum_gpt.models import ATTENTIONS
from momentum_gpt.models.attention import Layer, MomentumAttention
from momentum_gpt.models.conformance import Check, costs
from momentum_gpt.models.mixing import softmax_attention
from momentum_gpt.ops import add_ema_of_past, ema_of_past
from tests.models import variants

MORE_OPTIONS: list[dict[str, Any]] = [
    {"name": "momentum", "ema_decay": 0.999},
    {"name": "momentum", "ema_decay": [0.0, 0.9], "normalised": True},
    {"name": "momentum", "ema_decay": [[0.2, 0.5, 0.9]], "learned": True, "include_current": True},
    {"name": "momentum", "ema_decay": 0.7, "learned": True, "layers": [0]},
    {"name": "linear_momentum", "ema_decay": [[0.2, 0.5, 0.9], [0.1, 0.1, 0.8]], "learned": True},
]
"""Cases beside those of the YAML files, for the 2 layers of 3 heads that are checked."""

OPTIONS = [*variants.FROM_YAML.values(), *MORE_OPTIONS]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_check_holds(options: dict[str, Any]) -> None:
    findings = Check(options, backend="aot_eager").all()
    assert len(findings) == 14
    assert [finding for finding in findings if not finding.holds] == []


class Wrong(MomentumAttention):
    """Momentum attention with parts that the mistakes below replace; this class has none."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, documents: Any = None, cache: Any = None
    ) -> Tensor:
        y = softmax_attention(q, k, v, documents, cache)
        values = v.to(torch.promote_types(v.dtype, torch.float32))
        ids = documents.ids if documents else None
        past, _ = ema_of_past(values, self.ema_decay(v), cache.get("ema") if cache else None, ids)
        if cache:
            cache.keep("ema", past + values)
        return (y + self.term(past, values)).to(v.dtype)

    def term(self, past: Tensor, values: Tensor) -> Tensor:
        return past


class SeesTheFuture(Wrong):
    def term(self, past: Tensor, values: Tensor) -> Tensor:
        return past + 1e-3 * values.roll(-1, dims=2)


class DecayOffByOne(Wrong):
    """eta^(t-i-1): the previous value has weight 1."""

    def term(self, past: Tensor, values: Tensor) -> Tensor:
        return past / self.ema_decay(values)


class IncludesTheCurrentToken(Wrong):
    def term(self, past: Tensor, values: Tensor) -> Tensor:
        return past + values


class IsAnAverage(Wrong):
    def term(self, past: Tensor, values: Tensor) -> Tensor:
        return past * (1 - self.ema_decay(values))


class MixesHeads(Wrong):
    def term(self, past: Tensor, values: Tensor) -> Tensor:
        return past.roll(1, dims=1)


class DependsOnTheBatch(Wrong):
    def term(self, past: Tensor, values: Tensor) -> Tensor:
        return past - 1e-3 * past.mean(dim=0)


class BreaksTheGraph(Wrong):
    def term(self, past: Tensor, values: Tensor) -> Tensor:
        return past if values.isfinite().all() else values


class CompilesEachLength(Wrong):
    def term(self, past: Tensor, values: Tensor) -> Tensor:
        return past * {}.get(int(values.shape[2]), 1.0)


class NeverRestarts(Wrong):
    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, documents: Any = None, cache: Any = None
    ) -> Tensor:
        if documents is None:
            return super().forward(q, k, v, None, cache)
        return add_ema_of_past(softmax_attention(q, k, v, documents, None), v, self.ema_decay(v))


class Caching(Wrong):
    """Base class of the mistakes in what is kept in the cache."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, documents: Any = None, cache: Any = None
    ) -> Tensor:
        y = super().forward(q, k, v, documents, cache)
        if cache:
            cache.tensors["ema"] = self.state(cache.get("ema"), v)
        return y

    def state(self, state: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError


class CacheOneStepLate(Caching):
    def state(self, state: Tensor, v: Tensor) -> Tensor:
        return state - v[:, :, -1]


class StateInBfloat16(Caching):
    def state(self, state: Tensor, v: Tensor) -> Tensor:
        return state.to(v.dtype).to(state.dtype)


class PaddingReachesTheState(Wrong):
    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, documents: Any = None, cache: Any = None
    ) -> Tensor:
        if cache is None:
            return super().forward(q, k, v, documents, None)
        past, state = ema_of_past(v, self.ema_decay(v), cache.get("ema"))
        cache.tensors["ema"] = state
        return softmax_attention(q, k, v, None, cache) + past


class SumsInBfloat16(Wrong):
    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, documents: Any = None, cache: Any = None
    ) -> Tensor:
        if v.dtype != torch.bfloat16 or cache:
            return super().forward(q, k, v, documents, cache)
        state, pasts = torch.zeros_like(v[:, :, 0]), []
        for t in range(v.shape[2]):
            pasts.append((self.ema_decay(v) * state).bfloat16())
            state = pasts[-1] + v[:, :, t]
        return softmax_attention(q, k, v, documents, None) + torch.stack(pasts, dim=2)


class DecayHasNoGradient(Wrong):
    def ema_decay(self, like: Tensor) -> float | Tensor:
        decay = super().ema_decay(like)
        assert isinstance(decay, Tensor)
        return decay.detach() + 0.0 * decay


class ForgetsWhatItLearned(Wrong):
    """Multiplies by a number that is neither a parameter nor a buffer, and so is not saved."""

    def __init__(self, layer: Layer, ema_decay: float) -> None:
        super().__init__(layer, ema_decay)
        self.factor = 1 + torch.rand(())

    def term(self, past: Tensor, values: Tensor) -> Tensor:
        return past * self.factor


MISTAKES: list[tuple[type[Wrong], dict[str, Any], str]] = [
    (SeesTheFuture, {}, "future changes no past"),
    (DecayOffByOne, {}, "equals its definition"),
    (IncludesTheCurrentToken, {}, "equals its definition"),
    (IsAnAverage, {}, "equals its definition"),
    (MixesHeads, {}, "equals its definition"),
    (DependsOnTheBatch, {}, "rows are independent"),
    (BreaksTheGraph, {}, "compiled equals eager"),
    (CompilesEachLength, {}, "no graph for each length"),
    (NeverRestarts, {}, "documents are as if alone"),
    (CacheOneStepLate, {}, "decoding is the full pass"),
    (StateInBfloat16, {"ema_decay": 0.999}, "so is decoding in bf16"),
    (PaddingReachesTheState, {}, "padding is inert"),
    (SumsInBfloat16, {"ema_decay": 0.999}, "bf16 is near float64"),
    (DecayHasNoGradient, {"learned": True}, "gradients are numerical ones"),
    (ForgetsWhatItLearned, {}, "saved and loaded alike"),
]


def failures(options: dict[str, Any]) -> list[str]:
    return [finding.check for finding in Check(options, backend="eager").all() if not finding.holds]


def test_without_a_mistake_nothing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTENTIONS, "wrong", Wrong)
    for more in ({}, {"learned": True}, {"ema_decay": 0.999}):
        assert failures({"name": "wrong", "ema_decay": 0.5, **more}) == []


@pytest.mark.parametrize(
    ("mistake", "options", "check"), MISTAKES, ids=[mistake.__name__ for mistake, _, _ in MISTAKES]
)
def test_a_planted_mistake_is_caught_by_its_check(
    mistake: type[Wrong], options: dict[str, Any], check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ATTENTIONS, "wrong", mistake)
    assert check in failures({"name": "wrong", "ema_decay": 0.5, **options})


def test_the_cost_of_momentum_is_a_few_more_operations_and_one_more_tensor() -> None:
    """The sum takes 2 x 33 operations a value each way, softmax attention 12 T.

    Between the 8 chunks of 32 tokens, there is one more sum over what each hands on.

    It keeps one more tensor for the backward pass, the output of softmax attention.
    """
    B, H, T, D = 1, 2, 256, 16
    vanilla, momentum = costs(
        [{"name": "vanilla"}, {"name": "momentum", "ema_decay": 0.5}], B, H, T, D, repeats=1
    )
    between = 2 * (8 + 1) * 8 * H * D
    assert momentum.flops - vanilla.flops == 2 * (2 * 33 * B * H * T * D + between)
    assert vanilla.flops == 12 * B * H * T * T * D
    assert momentum.kept_bytes - vanilla.kept_bytes <= 4 * B * H * T * D + 4
    assert momentum.cache_bytes - vanilla.cache_bytes == 4 * H * D
