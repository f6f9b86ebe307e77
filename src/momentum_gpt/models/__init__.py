"""The GPT, its attention variants, and its weights on disk."""

from momentum_gpt.models.attention import ATTENTIONS, build_attention
from momentum_gpt.models.cache import Cache
from momentum_gpt.models.gpt import GPT
from momentum_gpt.models.weights import load_model, save_model, start_from

__all__ = [
    "ATTENTIONS",
    "GPT",
    "Cache",
    "build_attention",
    "load_model",
    "save_model",
    "start_from",
]
