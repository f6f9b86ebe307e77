"""What was measured of one model, for the terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from momentum_gpt.core.terminal import table_text
from momentum_gpt.evaluation.records import FewShotRecord, Measured, PerplexityRecord
from momentum_gpt.evaluation.statistics import bootstrap, bootstrap_ratio, in_blocks

UNITS = {
    "val/loss": "nats per token",
    "val/ppl@": "per token",
    "val/ppl_word": "per word",
    "val/bpb": "bits per byte",
    "val/targets": "tokens",
    "val/bytes": "bytes",
    "val/words": "words",
    "val/acc": "share",
    "icl/score": "nats per token",
    "icl/induction/loss": "nats per token",
    "icl/": "share",
    "eval/seconds": "s",
}
"""Unit by the beginning of a metric's key; the first that fits counts."""

READABLE = 1e6
"""Perplexities from here on are shown with an exponent."""


def report(measured: Measured) -> str:
    """Return tables of all that was measured."""
    tables = [metrics_table(measured.metrics)]
    if measured.perplexity:
        tables.append(perplexity_table(measured.perplexity))
    if measured.few_shot:
        tables.append(few_shot_table(measured.few_shot))
    return "\n\n".join(tables)


def metrics_table(metrics: Mapping[str, float]) -> str:
    """Return a table with a row for each metric: its value and its unit."""
    rows = [[key, number(key, value), unit(key)] for key, value in metrics.items()]
    return table_text("", ["metric", "value", "unit"], rows)


def unit(key: str) -> str:
    """Return the unit of a metric; "" if it has none."""
    return next((name for start, name in UNITS.items() if key.startswith(start)), "")


def number(key: str, value: float) -> str:
    """Return a metric's value as text: counts in full, large perplexities with an exponent."""
    if unit(key) in ("tokens", "bytes", "words"):
        return f"{value:,.0f}"
    if key.startswith("val/ppl"):
        return perplexity_text(value)
    if unit(key) == "s":
        return f"{value:,.1f}"
    return f"{value:.4f}"


def perplexity_text(value: float) -> str:
    """Return a perplexity as text, such as 1,234.567 or 2.5e+20."""
    return f"{value:,.3f}" if value < READABLE else f"{value:.1e}"


def perplexity_table(records: Sequence[PerplexityRecord]) -> str:
    """Return a table with a row for each context length and stride.

    It has the loss, its interval over pieces of documents, perplexity and bits per byte.
    """
    head = ["context", "stride", "pieces", "loss", "95% interval", "perplexity", "bpb", "per word"]
    units = ["tokens", "tokens", "", "nats/token", "nats/token", "per token", "bits/byte", ""]
    rows = []
    for record in records:
        sums, sizes = in_blocks(np.array(record.nats), np.array(record.n_targets))
        low, high = bootstrap_ratio(sums, sizes)  # documents are what was drawn independently
        rows.append(
            [
                f"{record.context_length:,}",
                f"{record.stride:,}" if record.stride else "-",
                f"{len(record.nats):,}",
                f"{record.loss:.4f}",
                f"[{low:.4f}, {high:.4f}]",
                perplexity_text(record.ppl),
                f"{record.bpb:.4f}",
                perplexity_text(record.ppl_word),
            ]
        )
    return table_text("Perplexity by context length", head, rows, units)


def few_shot_table(records: Sequence[FewShotRecord]) -> str:
    """Return a table with a row for each task and number of demonstrations.

    It has the accuracy with its interval over queries and seeds, and what to compare it with.
    """
    by_row: dict[tuple[str, int], list[FewShotRecord]] = defaultdict(list)
    for record in records:
        by_row[record.task, record.k].append(record)

    head = ["task", "k", "asked", "seeds", "queries", "accuracy", "95% interval"]
    head += ["calibrated", "flipped", "soft", "majority"]
    rows = []
    for (task, k), seeds in by_row.items():
        # Both queries and demonstration draws were drawn, so that the interval is over both.
        right = np.array([record.right for record in seeds], dtype=float)  # (seeds, queries)
        low, high = bootstrap(right)
        rows.append(
            [
                task,
                str(k),
                str(seeds[0].k_asked),
                str(len(seeds)),
                f"{seeds[0].n:,}",
                _mean(seeds, "acc"),
                f"[{low:.3f}, {high:.3f}]",
                _mean_accuracy(seeds, "calibrated"),
                _mean_accuracy(seeds, "flipped"),
                _mean(seeds, "soft"),
                _mean(seeds, "majority"),
            ]
        )
    return table_text("Few-shot accuracy, share of queries", head, rows)


def _mean(records: Sequence[FewShotRecord], entry: str) -> str:
    return f"{fmean(getattr(record, entry) for record in records):.3f}"


def _mean_accuracy(records: Sequence[FewShotRecord], kind: str) -> str:
    if kind not in records[0].accuracies:
        return "-"
    return f"{fmean(record.accuracies[kind] for record in records):.3f}"
