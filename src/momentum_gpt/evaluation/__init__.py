"""What a model knows: perplexity, loss by position, the induction probe, few-shot tasks."""

from momentum_gpt.evaluation.records import (
    FewShotRecord,
    Measured,
    Origin,
    PerplexityRecord,
    keep_records,
    read_few_shot,
    read_perplexity,
)
from momentum_gpt.evaluation.suite import evaluate, plan_suite

__all__ = [
    "FewShotRecord",
    "Measured",
    "Origin",
    "PerplexityRecord",
    "evaluate",
    "keep_records",
    "plan_suite",
    "read_few_shot",
    "read_perplexity",
]
