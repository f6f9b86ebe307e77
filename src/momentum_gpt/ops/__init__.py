"""Operations on tensors: one file each, the definition first, then the fast form."""

from momentum_gpt.ops.ema import ema_of_past, ema_of_past_by_definition

__all__ = ["ema_of_past", "ema_of_past_by_definition"]
