"""Operations on tensors, one file each: first the definition, then the fast form."""

from momentum_gpt.ops.cross_entropy import summed_loss
from momentum_gpt.ops.ema import add_ema_of_past, ema_of_past, ema_of_past_by_definition, has_kernel
from momentum_gpt.ops.linear import linear_attention
from momentum_gpt.ops.projection import project

__all__ = [
    "add_ema_of_past",
    "ema_of_past",
    "ema_of_past_by_definition",
    "has_kernel",
    "linear_attention",
    "project",
    "summed_loss",
]
