"""What was measured of one model, for the terminal."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from momentum_gpt.core.terminal import table_text
from momentum_gpt.evaluation.records import FewShotRecord, Measured, PerplexityRecord
from momentum_gpt.evaluation.statistics import (
    Interval,
    margin_key,
    over_documents,
    over_queries,
)

UNITS = {
    "val/loss": "nats per token",
    "val/ppl@": "per token",
    "val/ppl_word": "per word",
    "val/bpb": "bits per byte",
    "val/targets": "tokens",
    "val/documents": "documents",
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
    """Return a table with a row for each metric: its value, half its 95% interval, its unit."""
    margins = set(map(margin_key, metrics))
    rows = []
    for key, value in metrics.items():
        if key not in margins:
            half = metrics.get(margin_key(key))
            rows.append(
                [key, number(key, value), "" if half is None else f"± {half:.4f}", unit(key)]
            )
    return table_text("", ["metric", "value", "95% interval", "unit"], rows)


def unit(key: str) -> str:
    """Return the unit of a metric; "" if it has none."""
    return next((name for start, name in UNITS.items() if key.startswith(start)), "")


def number(key: str, value: float) -> str:
    """Return a metric's value as text: counts in full, large perplexities with an exponent."""
    if unit(key) in ("tokens", "documents", "bytes", "words"):
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

    It has the loss, its interval over documents, perplexity and bits per byte.
    """
    head = ["context", "stride", "targets", "documents"]
    units = ["tokens", "tokens", "", ""]
    head += ["loss", "95% interval", "perplexity", "bpb", "per word"]
    units += ["nats/token", "nats/token", "per token", "bits/byte", ""]
    rows = []
    for record in records:
        loss = over_documents(np.array(record.nats), np.array(record.n_targets))
        rows.append(
            [
                f"{record.context_length:,}",
                f"{record.stride:,}" if record.stride else "-",
                f"{record.targets:,}",
                f"{len(record.document):,}",
                f"{record.loss:.4f}",
                interval_text(loss.interval, 4),
                perplexity_text(record.ppl),
                f"{record.bpb:.4f}",
                perplexity_text(record.ppl_word),
            ]
        )
    return table_text("Perplexity by context length", head, rows, units)


def interval_text(interval: Interval, digits: int) -> str:
    """Return an interval as text, such as "[4.2312, 4.3466]"; "-" if there is none."""
    low, high = interval
    return "-" if math.isnan(low) else f"[{low:.{digits}f}, {high:.{digits}f}]"


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
        interval = over_queries(right).interval
        rows.append(
            [
                task,
                str(k),
                str(seeds[0].k_asked),
                str(len(seeds)),
                f"{seeds[0].n:,}",
                _mean(seeds, "acc"),
                interval_text(interval, 3),
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
