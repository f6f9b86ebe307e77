"""What is measured of every model, in the training loop and afterwards: one function, so that the numbers agree."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from torch import nn

from momentum_gpt.core.config import EvaluationConfig
from momentum_gpt.core.files import append_json_lines
from momentum_gpt.data import SyntheticTask
from momentum_gpt.evaluation.few_shot.measure import evaluate_icl
from momentum_gpt.evaluation.induction import induction
from momentum_gpt.evaluation.perplexity import perplexity
from momentum_gpt.evaluation.synthetic import answers
from momentum_gpt.evaluation.targets import TOKENS, Stream

SEQUENCES = 64
"""Of the induction probe, where nothing says how many."""


class Measured(NamedTuple):
    metrics: dict[str, float]
    records: dict[str, list[dict[str, Any]]]
    """By kind: `perplexity`, one a context length; `icl`, one a (task, k, seed)."""


def evaluate(
    model: nn.Module,
    stream: Stream | SyntheticTask,
    config: EvaluationConfig,
    seq_len: int,
    tokens_per_forward: int,
) -> Measured:
    """Perplexity by context length, loss by position, the in-context-learning score, the induction probe, few-shot tasks.

    Every rank must call this: the rows are shared out and summed.

    Args:
        model: tokens (B, T) -> logits (B, T, V).
        stream: the validation split, other text, or a synthetic task, of which only the answers are measured.
        seq_len: the longest context, tokens.
    """
    if isinstance(stream, SyntheticTask):
        n_sequences = max(1, (config.tokens or TOKENS) // seq_len)
        return Measured(answers(model, stream, n_sequences, tokens_per_forward), {})
    was_training, began = model.training, time.perf_counter()
    model.eval()
    metrics, by_length = perplexity(model, stream, config, seq_len, tokens_per_forward)
    if seq_len >= 4:
        sequences = config.induction_sequences or SEQUENCES
        metrics |= induction(
            model, stream.tokenizer.ordinary_ids(), seq_len, sequences, tokens_per_forward
        )
    few_shot = list(evaluate_icl(model, stream.tokenizer, config.icl, seq_len, tokens_per_forward))
    metrics |= icl_metrics(few_shot)
    metrics["eval/seconds"] = time.perf_counter() - began
    model.train(was_training)
    return Measured(metrics, {"perplexity": by_length} | ({"icl": few_shot} if few_shot else {}))


def icl_metrics(records: list[dict[str, Any]]) -> dict[str, float]:
    """`icl/TASK/acc@K`, the mean over seeds, and `icl/TASK/soft@K`, the mean share of the right candidate."""
    values: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for key in ("acc", "soft"):
            values[f"icl/{record['task']}/{key}@{record['k']}"].append(record[key])
    return {key: fmean(its) for key, its in values.items()}


def keep_records(
    run_dir: Path,
    where: dict[str, Any],
    records: dict[str, list[dict[str, Any]]],
    leave_out: frozenset[str] = frozenset(),
) -> None:
    """Add a line for each to `evaluations/KIND.jsonl`, from which a line that a kill cut short is dropped.

    Args:
        where: what every line begins with: step, tokens.
        leave_out: keys that are too long to keep.
    """
    for kind, lines in records.items():
        kept = [
            {key: value for key, value in (where | line).items() if key not in leave_out}
            for line in lines
        ]
        append_json_lines(run_dir / "evaluations" / f"{kind}.jsonl", kept)
