"""Operations on tensors: one file each, the definition first, then the fast form."""

from momentum_gpt.ops.ema import add_ema_of_past, ema_of_past, ema_of_past_by_definition
from momentum_gpt.ops.linear import linear_attention

__all__ = ["add_ema_of_past", "ema_of_past", "ema_of_past_by_definition", "linear_attention"]
