"""What a model knows: perplexity by context length, loss by position, the induction probe."""

from momentum_gpt.evaluation.suite import evaluate

__all__ = ["evaluate"]
