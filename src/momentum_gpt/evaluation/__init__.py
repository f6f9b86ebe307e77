"""What a model knows: perplexity by context length, loss by position, the induction probe; a synthetic task's answers."""

from momentum_gpt.evaluation.answers import answers
from momentum_gpt.evaluation.suite import evaluate

__all__ = ["answers", "evaluate"]
