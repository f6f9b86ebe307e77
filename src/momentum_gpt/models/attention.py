"""The attention variants: rules that mix values over time, and nothing else.

Projections, norms and output stay in gpt.py, so every variant has the same parameters under the
same names. A new variant is one class here, one entry in ATTENTIONS and one YAML file in
conf/attention/. `make check-attention NAME=...` then checks it, and docs/writing-a-variant.md
shows the whole way.

Shapes: B batch, H heads, T time, D head dimension.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from momentum_gpt.core.config import ModelConfig, require
from momentum_gpt.core.errors import UserError
from momentum_gpt.models.cache import LayerCache
from momentum_gpt.models.hf.form import HFForm, HFMomentum, HFShift
from momentum_gpt.models.mixing import (
    Documents,
    linear_weights,
    relaxed_attention,
    softmax_attention,
    softmax_weights,
)
from momentum_gpt.ops import add_ema_of_past, ema_of_past

EDGE = 2.0**-20
"""Distance that a learned decay keeps from 0 and from 1."""


@dataclass(frozen=True)
class Layer:
    """The layer that a variant is built for, and the shape of the model around it."""

    index: int
    """Counted from 0."""
    n_layers: int
    n_heads: int
    d_head: int


class Variant(nn.Module):
    """Base class of the attention variants. Every fact about a variant stands on its class.

    - The first line of the docstring is its description.
    - The arguments of `__init__` after the first are its options: the keys of its YAML file.
    - `has_decay`, `mix`, `forward`, `definition` and `hf_form` are described below.

    Args:
        layer: where the module stands.
    """

    has_decay: ClassVar[bool] = False
    """Whether it has the option `ema_decay`, and sums past values with `ops.ema_of_past`."""

    mix: ClassVar[Callable[..., Tensor] | None] = None
    """The rule, called like `forward`, that it adds something to; None: it adds nothing."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.heads = slice(None)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        documents: Documents | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Return the mixed values (B, H, T, D), computed the fast way.

        The heads of q, k and v are those of `self.heads`: all of them, but for ranks that share
        sequences. What a variant has for each head must be taken from there.

        Args:
            q, k, v: (B, H, T, D).
            documents: the documents packed into each row; None: each row is one document.
            cache: what the layer remembers of earlier tokens, to be updated. Never given
                together with documents.
        """
        raise NotImplementedError

    def definition(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the same as `forward(q, k, v)`, from the formula; the checks compare the two."""
        raise NotImplementedError

    def hf_form(self) -> HFForm | None:
        """Return what the exported modelling code computes for this layer.

        None, the default: that code cannot compute it, and the model cannot be exported.
        """
        return None

    @classmethod
    def description(cls) -> str:
        """Return one line that says what the variant computes."""
        return (inspect.getdoc(cls) or "").partition("\n")[0]

    @classmethod
    def options(cls) -> dict[str, inspect.Parameter]:
        """Return the variant's options by name."""
        _layer, *options = inspect.signature(cls).parameters.values()
        return {option.name: option for option in options}


class VanillaAttention(Variant):
    """Causal softmax attention."""

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

    def hf_form(self) -> HFForm:
        return HFForm("softmax")


class LinearAttention(Variant):
    """Causal linear attention: softmax attention without the softmax and without the scale.

    This is the relaxed attention of the paper's dual form (arXiv 2212.10559, section 3.1).
    """

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
        return linear_weights(q, k) @ v

    def hf_form(self) -> HFForm:
        return HFForm("linear")


class MomentumAttention(Variant):
    """Causal softmax attention plus the decayed sum of past values.

    Dai et al. (arXiv 2212.10559, section 5):

        y_t = V softmax(K^T q_t / sqrt(D)) + sum_{i=1}^{t-1} ema_decay^(t-i) v_i

    Args:
        layer: where the module stands.
        ema_decay: eta of the paper, which does not state its value; in [0, 1), and 0 is vanilla
            attention. A number; or a list with a number for each layer; or a list of lists with a
            number for each head, one list for each layer, or a single list for all layers.
        learned: train the decay of each head, starting from `ema_decay`; it is the sigmoid of a
            parameter.
        normalised: multiply the sum by (1 - ema_decay), which makes it an average.
        include_current: sum up to the current token, which gets weight 1.
        layers: the layers that have momentum, counted from 0; the others are vanilla. None: all.

    Raises:
        UserError: an option is out of its bounds.
    """

    has_decay = True

    mix = staticmethod(softmax_attention)
    mixing_weights = staticmethod(softmax_weights)
    rule: ClassVar[Literal["softmax", "linear"]] = "softmax"

    def __init__(
        self,
        layer: Layer,
        ema_decay: float | Sequence[float] | Sequence[Sequence[float]],
        learned: bool = False,
        normalised: bool = False,
        include_current: bool = False,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(layer)
        _require_bool("learned", learned)
        _require_bool("normalised", normalised)
        _require_bool("include_current", include_current)
        _require_layers(layers, layer.n_layers)
        decays = decays_of_heads(ema_decay, layer)

        self.active = layers is None or layer.index in layers
        self.n_heads = layer.n_heads
        self.normalised = normalised
        self.include_current = include_current

        # A single number lets the fast form treat all heads as one wide head.
        self.decays: float | Tensor = decays[0]
        if len(set(decays)) > 1:
            self.decays = torch.tensor(decays, dtype=torch.float64)  # (H,)

        self.decay_logits: nn.Parameter | None = None
        if learned:
            above_zero = min(decays) > 0  # the logit of 0 is infinite
            rule = "above 0 if it is learned"
            require(above_zero, "attention.ema_decay", ema_decay, rule)
            if self.active:
                logits = torch.tensor(decays, dtype=torch.float64).logit()
                self.decay_logits = nn.Parameter(logits.float())  # (H,)

    def ema_decay(self, like: Tensor) -> float | Tensor:
        """Return the decay in the precision of the sum: one number, or one for each head, (H,)."""
        precise = torch.promote_types(like.dtype, torch.float32)
        if self.decay_logits is not None:
            return self.decay_logits[self.heads].to(precise).sigmoid().clamp(EDGE, 1 - EDGE)

        if isinstance(self.decays, Tensor):
            # Not a buffer: a model in bf16 would round it.
            self.decays = self.decays.to(like.device)
            return self.decays[self.heads].to(precise)
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

        decay = self.ema_decay(v)
        ids = documents.ids if documents else None
        if cache is None and not self.normalised and not self.include_current:
            # The common case in training: one pass over the values, rounded once.
            return add_ema_of_past(y, v, decay, ids)

        values = v.to(torch.promote_types(v.dtype, torch.float32))
        state = cache.get("ema") if cache else None
        past, _ = ema_of_past(values, decay, state, ids)
        if cache is not None:
            cache.keep("ema", past + values)

        term = past + values if self.include_current else past
        if self.normalised:
            of_heads = decay[:, None, None] if isinstance(decay, Tensor) else decay
            term = (1 - of_heads) * term
        return (y + term).to(y.dtype)

    def definition(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        H, T = v.shape[1:3]
        y = self.mixing_weights(q, k) @ v
        if not self.active:
            return y

        decay = torch.as_tensor(self.ema_decay(v), dtype=v.dtype)
        decay = decay.expand(H)[:, None, None]  # (H, 1, 1)

        t = torch.arange(T)[:, None]
        i = torch.arange(T)
        summed = i <= t if self.include_current else i < t
        weights = torch.where(summed, decay ** (t - i).clamp(min=0), 0.0)  # (H, T, T)
        if self.normalised:
            weights = weights * (1 - decay)
        return y + weights @ v

    def hf_form(self) -> HFForm:
        if not self.active:
            return HFForm(self.rule)

        decays = torch.as_tensor(self.decays, dtype=torch.float64).expand(self.n_heads)
        learned = self.decay_logits is not None
        momentum = HFMomentum(decays.tolist(), learned, self.normalised, self.include_current)
        return HFForm(self.rule, momentum)


class LinearMomentumAttention(MomentumAttention):
    """Causal linear attention plus the decayed sum of past values.

    The dual form's gradient descent with the momentum that the paper adds to it:
    y_t = V K^T q_t + sum_{i=1}^{t-1} ema_decay^(t-i) v_i. The options are those of
    MomentumAttention.
    """

    mix = staticmethod(relaxed_attention)
    mixing_weights = staticmethod(linear_weights)
    rule = "linear"


class ShiftAttention(Variant):
    """Causal softmax attention plus the previous token's value with a learned weight.

    The simplest rule that can do what momentum does for the previous token:

        y_t = V softmax(K^T q_t / sqrt(D)) + weight v_{t-1}

    Args:
        layer: where the module stands.
        weight: initial value of each head's weight.

    Raises:
        UserError: the weight is not a number.
    """

    mix = staticmethod(softmax_attention)

    def __init__(self, layer: Layer, weight: float) -> None:
        super().__init__(layer)
        require(_is_number(weight), "attention.weight", weight, "a number")
        self.weight = nn.Parameter(torch.full((layer.n_heads,), float(weight)))  # (H,)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        documents: Documents | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        y = self.mix(q, k, v, documents, cache)

        before = cache.get("previous") if cache else None  # (B, H, D)
        if before is None:
            before = torch.zeros_like(v[:, :, 0])
        previous = torch.cat([before[:, :, None], v[:, :, :-1]], dim=2)  # (B, H, T, D)

        if documents:
            same_document = documents.ids[:, 1:] == documents.ids[:, :-1]
            same_document = F.pad(same_document, (1, 0))  # (B, T): nothing precedes the first
            previous = previous * same_document[:, None, :, None]
        if cache:
            cache.keep("previous", v)
        weight = self.weight[self.heads].to(v.dtype)[:, None, None]  # (H, 1, 1)
        return y + weight * previous

    def definition(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        one_back = torch.ones(q.shape[2] - 1, dtype=v.dtype).diag(-1)  # (T, T)
        weight = self.weight.to(v.dtype)[:, None, None]  # (H, 1, 1)
        return (softmax_weights(q, k) + weight * one_back) @ v

    def hf_form(self) -> HFForm:
        return HFForm("softmax", HFShift())


ATTENTIONS: dict[str, type[Variant]] = {
    "vanilla": VanillaAttention,
    "momentum": MomentumAttention,
    "shift": ShiftAttention,
    "linear": LinearAttention,
    "linear_momentum": LinearMomentumAttention,
}
"""The variants by name. Checkpoints store the name, which is also that of the YAML file."""


def build_attention(options: dict[str, Any], config: ModelConfig) -> list[Variant]:
    """Return one module of a variant for each layer.

    Args:
        options: `name`, a key of ATTENTIONS, and the options of that variant.
        config: the shape of the model.

    Raises:
        UserError: the name is unknown, an option is unknown, missing or out of its bounds.
    """
    name = options.get("name")
    if name not in ATTENTIONS:
        raise UserError(f"attention.name must be one of {', '.join(ATTENTIONS)}, got {name!r}")

    variant = ATTENTIONS[name]
    arguments = {key: value for key, value in options.items() if key != "name"}
    _check_options(name, variant.options(), arguments)

    modules = []
    for index in range(config.n_layers):
        layer = Layer(index, config.n_layers, config.n_heads, config.d_head)
        modules.append(variant(layer, **arguments))
    return modules


def _check_options(
    name: str, options: dict[str, inspect.Parameter], arguments: dict[str, Any]
) -> None:
    unknown = sorted(set(arguments) - set(options))
    if unknown:
        rule = f"its options are {', '.join(options)}" if options else "it has no options"
        takers = [other for other, kind in ATTENTIONS.items() if unknown[0] in kind.options()]
        if takers:
            value = arguments[unknown[0]]
            rule += f"; did you mean attention={takers[0]} attention.{unknown[0]}={value}?"
        raise UserError(f"attention {name!r} does not take {', '.join(unknown)}: {rule}")

    required = [key for key, option in options.items() if option.default is option.empty]
    missing = [key for key in required if key not in arguments]
    if missing:
        remedy = f"add attention.{missing[0]}=..."
        raise UserError(f"attention {name!r} needs {', '.join(missing)}: {remedy}")


def decays_of_heads(ema_decay: Any, layer: Layer) -> list[float]:
    """Return the decay of each head of a layer, (H,), from the option `ema_decay`.

    Raises:
        UserError: a number is out of bounds, or a list does not have one for each layer or head.
    """
    rule = (
        f"a number in [0, 1), a list of {layer.n_layers} (one a layer), "
        f"or a list of 1 or {layer.n_layers} lists of {layer.n_heads} (one a head)"
    )
    of_layer = ema_decay
    if _is_list(ema_decay):
        nested = all(_is_list(row) for row in ema_decay)
        lengths = (1, layer.n_layers) if nested else (layer.n_layers,)
        require(len(ema_decay) in lengths, "attention.ema_decay", ema_decay, rule)
        of_layer = ema_decay[0] if len(ema_decay) == 1 else ema_decay[layer.index]

    of_heads = list(of_layer) if _is_list(of_layer) else [of_layer] * layer.n_heads
    in_bounds = all(_is_number(decay) and 0 <= decay < 1 for decay in of_heads)
    fits = in_bounds and len(of_heads) == layer.n_heads
    require(fits, "attention.ema_decay", ema_decay, rule)
    return [float(decay) for decay in of_heads]


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require_bool(option: str, value: Any) -> None:
    require(isinstance(value, bool), f"attention.{option}", value, "true or false")


def _require_layers(layers: Any, n_layers: int) -> None:
    known = layers is None or all(isinstance(i, int) and 0 <= i < n_layers for i in layers)
    rule = f"a list of layers from 0 to {n_layers - 1}, or null for all"
    require(known, "attention.layers", layers, rule)
