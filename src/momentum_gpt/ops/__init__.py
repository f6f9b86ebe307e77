"""Operations on tensors: one file each, the definition first, then the fast form."""

from momentum_gpt.ops.ema import add_ema_of_past, ema_of_past, ema_of_past_by_definition

__all__ = ["add_ema_of_past", "ema_of_past", "ema_of_past_by_definition"]
