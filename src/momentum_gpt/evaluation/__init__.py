"""What a model knows: perplexity, loss by position, the induction probe, few-shot tasks; a synthetic task's answers."""

from momentum_gpt.evaluation.suite import Measured, evaluate, keep_records
from momentum_gpt.evaluation.synthetic import answers

__all__ = ["Measured", "answers", "evaluate", "keep_records"]
