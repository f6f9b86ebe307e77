"""What is measured of every model, in the training loop and afterwards: one function, so that the numbers agree."""

from __future__ import annotations

import time
from collections import defaultdict
from statistics import fmean
from typing import Any

from torch import nn

from momentum_gpt.config import EvaluationConfig
from momentum_gpt.data import TokenShards
from momentum_gpt.evaluation.icl import evaluate_icl
from momentum_gpt.evaluation.induction import induction
from momentum_gpt.evaluation.perplexity import perplexity


def evaluate(
    model: nn.Module, shards: TokenShards, config: EvaluationConfig, seq_len: int, tokens_per_forward: int
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Perplexity by context length, loss by position, the in-context-learning score, the induction probe, few-shot tasks.

    Every rank must call this: the rows are shared out and summed.

    Args:
        model: tokens (B, T) -> logits (B, T, V).
        shards: the validation split.
        seq_len: the longest context, tokens.

    Returns:
        The metrics, and a record for each (task, k, seed), see `evaluate_icl`.
    """
    was_training, began = model.training, time.perf_counter()
    model.eval()
    lengths = config.context_lengths or default_context_lengths(seq_len)
    metrics = perplexity(model, shards, lengths, seq_len, config.tokens, tokens_per_forward, config.stride)
    if seq_len >= 4:
        ids = shards.tokenizer.ordinary_ids()
        metrics |= induction(model, ids, seq_len, config.induction_sequences, tokens_per_forward)
    records = list(evaluate_icl(model, shards.tokenizer, config.icl, seq_len, tokens_per_forward))
    metrics |= icl_metrics(records)
    metrics["eval/seconds"] = time.perf_counter() - began
    model.train(was_training)
    return metrics, records


def icl_metrics(records: list[dict[str, Any]]) -> dict[str, float]:
    """`icl/TASK/acc@K`, the mean over seeds, and `icl/TASK/soft@K`, the mean share of the right candidate."""
    values: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for key in ("acc", "soft"):
            values[f"icl/{record['task']}/{key}@{record['k']}"].append(record[key])
    return {key: fmean(its) for key, its in values.items()}


def default_context_lengths(seq_len: int) -> list[int]:
    """A quarter, a half and the whole: 256, 512 and 1024 for the paper's model."""
    return [seq_len // part for part in (4, 2, 1) if seq_len % part == 0]
