"""The attention variants: rules that mix values over time, `(q, k, v) -> y`, and nothing else.

Projections, norms and output stay in gpt.py, so every variant has the same parameters under the same names. A new
variant is one class here, one entry in ATTENTIONS, and one YAML file in conf/attention/.

Shapes: B batch, H heads, T time, D head dimension.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from momentum_gpt.config import require
from momentum_gpt.errors import UserError
from momentum_gpt.ops import ema_of_past


class VanillaAttention(nn.Module):
    """Causal softmax attention: y_t = V softmax(K^T q_t / sqrt(D)) over the tokens up to t."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, T, D)


class MomentumAttention(nn.Module):
    """Causal softmax attention plus the decayed sum of past values (Dai et al., arXiv 2212.10559, section 5).

        y_t = V softmax(K^T q_t / sqrt(D)) + sum_{i=1}^{t-1} ema_decay^(t-i) v_i

    Args:
        ema_decay: eta of the paper, which does not state its value; in [0, 1). 0 is vanilla attention.
    """

    def __init__(self, ema_decay: float) -> None:
        super().__init__()
        number = isinstance(ema_decay, int | float) and not isinstance(ema_decay, bool)
        require(number and 0 <= ema_decay < 1, "attention.ema_decay", ema_decay, "a number in [0, 1)")
        self.ema_decay = float(ema_decay)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        past, _ = ema_of_past(v, self.ema_decay)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True) + past  # (B, H, T, D)

    def extra_repr(self) -> str:
        return f"ema_decay={self.ema_decay}"


ATTENTIONS: dict[str, type[nn.Module]] = {"vanilla": VanillaAttention, "momentum": MomentumAttention}
"""By the name of the YAML file; the name, not a class path, is what checkpoints store."""


def build_attention(options: dict[str, Any]) -> nn.Module:
    """The variant `options["name"]`, made with the other options as arguments.

    Raises:
        UserError: an unknown name, an option the variant does not take, one it lacks, or a value out of its bounds.
    """
    arguments = {key: value for key, value in options.items() if key != "name"}
    name = options.get("name")
    if name not in ATTENTIONS:
        raise UserError(f"attention.name must be one of {', '.join(ATTENTIONS)}, got {name!r}")
    takes = [p for p in inspect.signature(ATTENTIONS[name]).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    names = [p.name for p in takes]
    if unknown := sorted(set(arguments) - set(names)):
        rule = f"its options are {', '.join(names)}" if names else "it has no options"
        raise UserError(f"attention {name!r} does not take {', '.join(unknown)}: {rule}")
    if missing := [p.name for p in takes if p.default is p.empty and p.name not in arguments]:
        raise UserError(f"attention {name!r} needs {', '.join(missing)}: add attention.{missing[0]}=...")
    return ATTENTIONS[name](**arguments)
