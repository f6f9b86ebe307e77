"""What happens inside the attention of a model, at the last real token of each row.

Rows are padded on the right and continue a beginning that they share, which is read once. The
model is not changed: hooks on its modules look at what passes by.

Shapes: B rows, L layers, H heads, T tokens of the longest row, P shared tokens, M those of them
that count as demonstrations, D head dimension, C = H * D width of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from momentum_gpt.evaluation.few_shot.shared_prefix import read_prefix
from momentum_gpt.models import GPT, Cache
from momentum_gpt.models.attention import LinearAttention, Variant
from momentum_gpt.models.gpt import Attention
from momentum_gpt.models.mixing import relaxed_attention


@dataclass
class SharedBeginning:
    """What all rows begin with, after the model has read it."""

    cache: Cache
    """One row, to branch from."""
    keys: list[Tensor]
    """Those of each layer as the attention uses them, thus after rotary positions: (H, P, D)."""
    values: list[Tensor]
    """Those of each layer, (H, P, D)."""
    places: Tensor
    """(M,): which of the P tokens count as demonstrations."""


@dataclass
class Captured:
    """What one layer computed at the last real token of each row."""

    query: Tensor
    """(B, C): the attention query before rotary positions, all heads side by side."""
    logits: Tensor
    """(B, H, T): scaled attention logits on the row's own tokens, before the softmax. Those on the
    padding mean nothing."""
    on_demonstrations: Tensor
    """(B, M): the logits on the tokens of demonstrations, summed over heads."""
    parts: dict[str, Tensor]
    """(B, C) each: see `Pass.parts`."""
    output: Tensor
    """(B, C): what the attention module returns."""


Hook = Callable[[nn.Module, Any, Any], None]


@contextmanager
def hooked(pairs: Sequence[tuple[nn.Module, Hook]]) -> Iterator[None]:
    """Call each hook after every forward pass of its module, inside the `with` block."""
    handles = [module.register_forward_hook(hook) for module, hook in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def read_beginning(model: GPT, tokens: list[int], places: Sequence[int]) -> SharedBeginning:
    """Let a model read what all rows begin with.

    Args:
        model: the model.
        tokens: (P,), at least one.
        places: which of them count as demonstrations, (M,).
    """
    keys: list[Tensor] = []
    values: list[Tensor] = []

    def keep(attend: nn.Module, given: Any, mixed: Tensor) -> None:
        _, k, v, *_ = given  # (1, H, P, D) each
        # Copies: without rotary positions they are views of queries, keys and values together.
        keys.append(k[0].clone())
        values.append(v[0].clone())

    with hooked([(attention.attend, keep) for attention in attentions(model)]):
        cache = read_prefix(model, tokens)
    return SharedBeginning(cache, keys, values, torch.tensor(places, device=keys[0].device).long())


def attentions(model: GPT) -> list[Attention]:
    """Return the attention module of each layer."""
    found = []
    for block in model.blocks:
        attention = block.attention
        assert isinstance(attention, Attention)
        found.append(attention)
    return found


@contextmanager
def capture(model: GPT, beginning: SharedBeginning, lengths: Tensor) -> Iterator[list[Captured]]:
    """Capture what each layer computes at the last real tokens of a batch.

    The `with` block is for one forward pass of the model, whose rows branch from the shared
    beginning. After it the list has an entry for each layer::

        cache = beginning.cache.branch(n_rows, capacity)
        with capture(model, beginning, lengths) as layers:
            model(tokens, cache=cache, n_new=lengths)
        layers[0].output  # (B, C)

    Args:
        model: the model.
        beginning: what the rows begin with.
        lengths: (B,), the real tokens of each row.
    """
    watcher = _Watcher(beginning, lengths)
    pairs: list[tuple[nn.Module, Hook]] = []
    for attention in attentions(model):
        pairs.append((attention.qkv, watcher.see_projections))
        pairs.append((attention.attend, watcher.see_mixing))
        pairs.append((attention, watcher.see_output))
    with hooked(pairs):
        yield watcher.layers


class _Watcher:
    """Looks at one layer after another, each time in the order of its modules."""

    def __init__(self, beginning: SharedBeginning, lengths: Tensor) -> None:
        self.beginning = beginning
        self.lengths = lengths
        self.layers: list[Captured] = []

        # Of the layer that is being computed:
        self.query = torch.empty(0)
        self.mixed: _Mixed | None = None

    def see_projections(self, qkv: nn.Module, given: Any, projected: Tensor) -> None:
        width = projected.shape[-1] // 3
        self.query = last_of(projected, self.lengths)[:, :width]

    def see_mixing(self, attend: nn.Module, given: Any, mixed: Tensor) -> None:
        assert isinstance(attend, Variant)
        q, k, v, *_ = given
        layer = len(self.layers)
        self.mixed = mix_last(
            attend,
            q=last_of(q.transpose(1, 2), self.lengths),
            k=k,
            v=v,
            mixed=last_of(mixed.transpose(1, 2), self.lengths),
            shared_k=self.beginning.keys[layer],
            shared_v=self.beginning.values[layer],
            lengths=self.lengths,
        )

    def see_output(self, attention: nn.Module, given: Any, output: Tensor) -> None:
        assert isinstance(attention, Attention)
        assert self.mixed is not None
        parts = {}
        for name, part in self.mixed.parts.items():
            parts[name] = F.linear(part.flatten(1), attention.out.weight)  # (B, C)

        on_shared = self.mixed.on_shared.sum(1)  # (B, P)
        captured = Captured(
            query=self.query,
            logits=self.mixed.on_own,
            on_demonstrations=on_shared[:, self.beginning.places],
            parts=parts,
            output=last_of(output, self.lengths),
        )
        self.layers.append(captured)


@dataclass
class _Mixed:
    """What a variant does with the last real token of each row."""

    on_own: Tensor
    """(B, H, T): logits on the row's own tokens."""
    on_shared: Tensor
    """(B, H, P): logits on the shared ones."""
    parts: dict[str, Tensor]
    """(B, H, D): the mixed values, part by part."""


def mix_last(
    attend: Variant,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mixed: Tensor,
    shared_k: Tensor,
    shared_v: Tensor,
    lengths: Tensor,
) -> _Mixed:
    """Return the attention logits of the last real tokens, and the parts of their mixed values.

    The part of attention follows from the logits. What the variant adds to it is the rest.

    Args:
        attend: the variant.
        q: of the last real tokens, (B, H, D).
        k, v: of the rows' own tokens, (B, H, T, D).
        mixed: what the variant returned for the last real tokens, (B, H, D).
        shared_k, shared_v: of the tokens that precede all rows, (H, P, D).
        lengths: the real tokens of each row, (B,).
    """
    linear = is_linear(attend)
    scale = 1.0 if linear else q.shape[-1] ** -0.5
    places = torch.arange(k.shape[2], device=k.device)
    is_padding = (places >= lengths[:, None])[:, None]  # (B, 1, T)

    on_shared = torch.einsum("bhd,hpd->bhp", q, shared_k) * scale
    on_own = torch.einsum("bhd,bhtd->bht", q, k) * scale
    on_own = on_own.masked_fill(is_padding, 0.0 if linear else -torch.inf)

    parts = {"softmax": mixed}
    if adds_something(attend):
        weights = torch.cat([on_shared, on_own], dim=-1)  # (B, H, P + T)
        weights = weights if linear else weights.softmax(-1)
        P = shared_k.shape[1]
        attended = torch.einsum("bhp,hpd->bhd", weights[..., :P], shared_v)
        attended = attended + torch.einsum("bht,bhtd->bhd", weights[..., P:], v)
        parts = {"softmax": attended, "momentum": mixed - attended}
    elif attend.mix is not None:
        parts["momentum"] = torch.zeros_like(mixed)
    return _Mixed(on_own, on_shared, parts)


def is_linear(attend: Variant) -> bool:
    """Return whether a variant's attention has no softmax."""
    return isinstance(attend, LinearAttention) or attend.mix is relaxed_attention


def adds_something(attend: Variant) -> bool:
    """Return whether a variant adds something to attention in its layer."""
    return attend.mix is not None and getattr(attend, "active", True)


def last_of(x: Tensor, lengths: Tensor) -> Tensor:
    """Return the entries (B, ...) of x (B, T, ...) that belong to the last real tokens."""
    return x[torch.arange(len(x), device=x.device), lengths - 1]
