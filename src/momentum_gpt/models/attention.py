"""The attention variants: rules that mix values over time, and nothing else.

Projections, norms and output stay in gpt.py, so every variant has the same parameters under the same names. A new
variant is one class here, one entry in ATTENTIONS, and one YAML file in conf/attention/; `make check-attention` proves it.

A variant is a module with
    __init__(place, ...)                        its further arguments are its options
    forward(q, k, v, documents, cache) -> y     the fast form; all (B, H, T, D)
    definition(q, k, v) -> y                    the formula, to check it by

Shapes: B batch, H heads, T time, D head dimension.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from momentum_gpt.core.config import ModelConfig, require
from momentum_gpt.core.errors import UserError
from momentum_gpt.models.cache import LayerCache
from momentum_gpt.ops import add_ema_of_past, ema_of_past, linear_attention

EDGE = 2.0**-20
"""A learned decay stays this far from 0 and 1."""


@dataclass(frozen=True)
class Place:
    """Where a variant stands: its layer, counted from 0, in a model of that shape."""

    layer: int
    n_layers: int
    n_heads: int
    d_head: int


class Documents(NamedTuple):
    """The documents packed into each row, which must not see one another."""

    ids: Tensor
    """(B, T), one number >= 0 per document, each document in one piece."""
    mask: Tensor | BlockMask
    """The same for softmax attention, causal: (B, 1, T, T), or blocks of it on CUDA."""


def documents_of(ids: Tensor) -> Documents:
    """The documents numbered by ids (B, T). On CUDA softmax attention takes them as FlexAttention, elsewhere as a mask."""
    return Documents(
        ids,
        blocks_of(ids) if ids.is_cuda else (ids[:, None, :, None] == ids[:, None, None, :]).tril(),
    )


def blocks_of(ids: Tensor) -> BlockMask:
    """The causal mask of the documents, by blocks: those that see nothing are never computed."""
    B, T = ids.shape

    def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (ids[b, query] == ids[b, key])

    return create_block_mask(sees, B, None, T, T, device=str(ids.device))


def softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, documents: Documents | None, cache: LayerCache | None
) -> Tensor:
    """Causal softmax attention: y_t = V softmax(K^T q_t / sqrt(D)) over the tokens up to t."""
    if cache is not None:
        k, v = cache.append(k, v)
        if cache.shared is not None:
            return attend_to_shared(q, k, v, cache.visible(q.shape[2]), *cache.shared)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=cache.visible(q.shape[2]))
    if documents is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if isinstance(documents.mask, Tensor):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=documents.mask)
    flex = flex_attention if torch.compiler.is_compiling() else _compiled_flex_attention()
    return flex(q, k, v, block_mask=documents.mask)


def attend_to_shared(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, shared_k: Tensor, shared_v: Tensor
) -> Tensor:
    """Softmax attention to keys that all rows share, (1, H, P, D), and to their own, (B, H, L', D), as far as visible.

    All rows meet the shared keys in one product: nothing is copied to the rows. The softmax is computed in float32 at least.
    """
    before = torch.einsum("bhtd,hpd->bhtp", q, shared_k[0])
    own = (q @ k.mT).masked_fill(~visible, -torch.inf)
    scores = (
        torch.cat([before, own], dim=-1).to(torch.promote_types(q.dtype, torch.float32))
        / q.shape[-1] ** 0.5
    )
    weights = scores.softmax(-1).to(v.dtype)
    P = shared_k.shape[2]
    return torch.einsum("bhtp,hpd->bhtd", weights[..., :P], shared_v[0]) + weights[..., P:] @ v


@functools.cache
def _compiled_flex_attention() -> Any:
    return torch.compile(flex_attention)


def relaxed_attention(
    q: Tensor, k: Tensor, v: Tensor, documents: Documents | None, cache: LayerCache | None
) -> Tensor:
    """Causal linear attention, y_t = V K^T q_t over the tokens up to t (Dai et al., arXiv 2212.10559, section 3.1)."""
    if cache is None:
        return linear_attention(q, k, v, None, documents.ids if documents else None)[0]
    y, cache.tensors["sums"] = linear_attention(
        q, k, v * cache.is_real(v.shape[2]), cache.get("sums")
    )
    return y


def softmax_weights(q: Tensor, k: Tensor) -> Tensor:
    """The weights (B, H, T, T) of softmax attention, written out."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return scores.masked_fill(
        scores.new_ones(scores.shape[-2:]).triu(1).bool(), -torch.inf
    ).softmax(-1)


class VanillaAttention(nn.Module):
    """Causal softmax attention."""

    def __init__(self, place: Place) -> None:
        super().__init__()

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        documents: Documents | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        return softmax_attention(q, k, v, documents, cache)

    def definition(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return softmax_weights(q, k) @ v


class LinearAttention(nn.Module):
    """Causal linear attention: the relaxed attention of the paper's dual form, without softmax and scale."""

    def __init__(self, place: Place) -> None:
        super().__init__()

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        documents: Documents | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        return relaxed_attention(q, k, v, documents, cache)

    def definition(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT).tril() @ v


class MomentumAttention(nn.Module):
    """Causal softmax attention plus the decayed sum of past values (Dai et al., arXiv 2212.10559, section 5).

        y_t = V softmax(K^T q_t / sqrt(D)) + sum_{i=1}^{t-1} ema_decay^(t-i) v_i

    Args:
        ema_decay: eta of the paper, which does not state its value; in [0, 1). 0 is vanilla attention. A number; a list of
            one for each layer; or a list of lists of one for each head, for each layer or, if there is one list, for all.
        learned: each head learns its own, from `ema_decay` on: a parameter whose sigmoid it is.
        normalised: times (1 - ema_decay), which makes the sum an average.
        include_current: sum up to the current token, which gets the weight 1.
        layers: those that have momentum, counted from 0; the others are vanilla. None: all.
    """

    mix = staticmethod(softmax_attention)

    def __init__(
        self,
        place: Place,
        ema_decay: float | Sequence[float] | Sequence[Sequence[float]],
        learned: bool = False,
        normalised: bool = False,
        include_current: bool = False,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        for option, value in (
            ("learned", learned),
            ("normalised", normalised),
            ("include_current", include_current),
        ):
            require(isinstance(value, bool), f"attention.{option}", value, "true or false")
        decays = decays_of_heads(ema_decay, place)
        known = layers is None or all(
            isinstance(i, int) and 0 <= i < place.n_layers for i in layers
        )
        require(
            known,
            "attention.layers",
            layers,
            f"a list of layers from 0 to {place.n_layers - 1}, or null for all",
        )
        self.active = layers is None or place.layer in layers
        self.normalised, self.include_current = normalised, include_current
        self.decays: float | Tensor = (
            decays[0] if len(set(decays)) == 1 else torch.tensor(decays, dtype=torch.float64)
        )
        self.decay_logits: nn.Parameter | None = None
        if learned:
            require(
                min(decays) > 0,
                "attention.ema_decay",
                ema_decay,
                "above 0 to be learned from there on",
            )
            if self.active:
                self.decay_logits = nn.Parameter(
                    torch.tensor(decays, dtype=torch.float64).logit().float()
                )  # (H,)

    def ema_decay(self, like: Tensor) -> float | Tensor:
        """A number, or one of each head, (H,), in the precision of the sum."""
        precise = torch.promote_types(like.dtype, torch.float32)
        if self.decay_logits is not None:
            return self.decay_logits.to(precise).sigmoid().clamp(EDGE, 1 - EDGE)
        if isinstance(self.decays, Tensor):
            self.decays = self.decays.to(
                like.device
            )  # no buffer: the model's precision must not round it
            return self.decays.to(precise)
        return self.decays

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        documents: Documents | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        y = self.mix(q, k, v, documents, cache)
        if not self.active:
            return y
        decay, ids = self.ema_decay(v), documents.ids if documents else None
        if cache is None and not self.normalised and not self.include_current:
            return add_ema_of_past(y, v, decay, ids)
        values = v.to(torch.promote_types(v.dtype, torch.float32))
        past, _ = ema_of_past(values, decay, cache.get("ema") if cache else None, ids)
        if cache is not None:
            cache.keep("ema", past + values)
        term = past + values if self.include_current else past
        if self.normalised:
            term = (1 - (decay[:, None, None] if isinstance(decay, Tensor) else decay)) * term
        return (y + term).to(y.dtype)

    def definition(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = self.mix_by_definition(q, k) @ v
        if not self.active:
            return y
        decay = torch.as_tensor(self.ema_decay(v), dtype=v.dtype).expand(q.shape[1])[
            :, None, None
        ]  # (H, 1, 1)
        t, i = torch.arange(v.shape[2])[:, None], torch.arange(v.shape[2])
        weights = torch.where(
            i <= t if self.include_current else i < t, decay ** (t - i).clamp(min=0), 0.0
        )  # (H, T, T)
        return y + (weights * (1 - decay) if self.normalised else weights) @ v

    def mix_by_definition(self, q: Tensor, k: Tensor) -> Tensor:
        return softmax_weights(q, k)


class LinearMomentumAttention(MomentumAttention):
    """Linear attention with momentum: the dual form's gradient descent with the momentum that the paper gives it.

    y_t = V K^T q_t + sum_{i=1}^{t-1} ema_decay^(t-i) v_i; its options are those of MomentumAttention.
    """

    mix = staticmethod(relaxed_attention)

    def mix_by_definition(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.mT).tril()


class ShiftAttention(nn.Module):
    """Causal softmax attention plus the previous token's value, weighted: the cheapest thing that momentum could be.

        y_t = V softmax(K^T q_t / sqrt(D)) + weight v_{t-1}

    Args:
        weight: where each head's learned weight starts.
    """

    def __init__(self, place: Place, weight: float) -> None:
        super().__init__()
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        require(number, "attention.weight", weight, "a number")
        self.weight = nn.Parameter(torch.full((place.n_heads,), float(weight)))

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        documents: Documents | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        y = softmax_attention(q, k, v, documents, cache)
        before = cache.get("previous") if cache else None  # (B, H, D)
        before = torch.zeros_like(v[:, :, 0]) if before is None else before
        previous = torch.cat([before[:, :, None], v[:, :, :-1]], dim=2)
        if documents:
            goes_on = F.pad(documents.ids[:, 1:] == documents.ids[:, :-1], (1, 0))  # (B, T)
            previous = previous * goes_on[:, None, :, None]
        if cache:
            cache.keep("previous", v)
        return y + self.weight.to(v.dtype)[:, None, None] * previous

    def definition(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        one_back = torch.ones(q.shape[2] - 1, dtype=v.dtype).diag(-1)  # (T, T)
        return (softmax_weights(q, k) + self.weight.to(v.dtype)[:, None, None] * one_back) @ v


ATTENTIONS: dict[str, Callable[..., nn.Module]] = {
    "vanilla": VanillaAttention,
    "momentum": MomentumAttention,
    "shift": ShiftAttention,
    "linear": LinearAttention,
    "linear_momentum": LinearMomentumAttention,
}
"""By the name of the YAML file; the name, not a class path, is what checkpoints store."""


def decays_of_heads(ema_decay: Any, place: Place) -> list[float]:
    """The decay of each head of a layer, (H,), from the option `ema_decay`.

    Raises:
        UserError: a number out of its bounds, or a list that is not one for each layer or head.
    """
    rule = (
        f"a number in [0, 1), a list of {place.n_layers} (one a layer), or a list of 1 or {place.n_layers} lists of "
        f"{place.n_heads} (one a head)"
    )
    of_layer = ema_decay
    if isinstance(ema_decay, list | tuple):
        nested = all(isinstance(row, list | tuple) for row in ema_decay)
        fits = len(ema_decay) in ((1, place.n_layers) if nested else (place.n_layers,))
        require(fits, "attention.ema_decay", ema_decay, rule)
        of_layer = ema_decay[0] if len(ema_decay) == 1 else ema_decay[place.layer]
    of_heads = list(of_layer) if isinstance(of_layer, list | tuple) else [of_layer] * place.n_heads
    numbers = all(
        isinstance(it, int | float) and not isinstance(it, bool) and 0 <= it < 1 for it in of_heads
    )
    require(numbers and len(of_heads) == place.n_heads, "attention.ema_decay", ema_decay, rule)
    return [float(it) for it in of_heads]


def build_attention(options: dict[str, Any], config: ModelConfig) -> list[nn.Module]:
    """The variant `options["name"]`, made with the other options as arguments: one module for each layer.

    Raises:
        UserError: an unknown name, an option the variant does not take, one it lacks, or a value out of its bounds.
    """
    arguments = {key: value for key, value in options.items() if key != "name"}
    name = options.get("name")
    if name not in ATTENTIONS:
        raise UserError(f"attention.name must be one of {', '.join(ATTENTIONS)}, got {name!r}")
    takes = list(inspect.signature(ATTENTIONS[name]).parameters.values())[
        1:
    ]  # the first is its place
    names = [p.name for p in takes]
    if unknown := sorted(set(arguments) - set(names)):
        rule = f"its options are {', '.join(names)}" if names else "it has no options"
        raise UserError(f"attention {name!r} does not take {', '.join(unknown)}: {rule}")
    if missing := [p.name for p in takes if p.default is p.empty and p.name not in arguments]:
        raise UserError(
            f"attention {name!r} needs {', '.join(missing)}: add attention.{missing[0]}=..."
        )
    places = [
        Place(layer, config.n_layers, config.n_heads, config.d_head)
        for layer in range(config.n_layers)
    ]
    return [ATTENTIONS[name](place, **arguments) for place in places]
