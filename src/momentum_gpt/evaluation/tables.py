"""What was measured of one model, for the terminal."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from momentum_gpt.core.terminal import table_text
from momentum_gpt.evaluation.few_shot.notes import notes_on
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
        tables.append("\n".join(few_shot_notes(measured.few_shot)))
    return "\n\n".join(filter(None, tables))


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
    if key.startswith("icl/") and "/ppl@" in key:
        return "per text"
    return next((name for start, name in UNITS.items() if key.startswith(start)), "")


def number(key: str, value: float) -> str:
    """Return a metric's value as text: counts in full, large perplexities with an exponent."""
    if unit(key) in ("tokens", "documents", "bytes", "words"):
        return f"{value:,.0f}"
    if "/ppl" in key:
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
    """Return a table with a row for each task and number of demonstrations asked for.

    It has the accuracy with its interval over queries and seeds, and what to compare it with. Where
    a model writes answers or has a text to foresee, it has their F1 and perplexity as well.
    """
    by_row: dict[tuple[str, int], list[FewShotRecord]] = defaultdict(list)
    for record in records:
        by_row[record.task, record.k_asked].append(record)

    head = ["task", "k", "asked", "seeds", "queries", "accuracy", "95% interval"]
    head += ["calibrated", "flipped", "soft", "majority"]
    more = {"F1": _f1, "perplexity": _ppl}
    shown = []
    for name, cell in more.items():
        cells = {cell([record]) for record in records}
        if cells != {"-"}:
            shown.append(name)

    rows = []
    for (task, k_asked), seeds in by_row.items():
        # Both queries and demonstration draws were drawn, so that the interval is over both.
        right = np.array([record.right for record in seeds], dtype=float)  # (seeds, queries)
        interval = over_queries(right).interval
        rows.append(
            [
                task,
                str(seeds[0].k),
                str(k_asked),
                str(len(seeds)),
                f"{seeds[0].n:,}",
                _mean(seeds, "acc"),
                interval_text(interval, 3),
                _mean_accuracy(seeds, "calibrated"),
                _mean_accuracy(seeds, "flipped"),
                _mean(seeds, "soft"),
                _mean(seeds, "majority"),
                *[more[name](seeds) for name in shown],
            ]
        )
    return table_text("Few-shot accuracy, share of queries", [*head, *shown], rows)


def few_shot_notes(records: Sequence[FewShotRecord]) -> list[str]:
    """Return sentences on what each task leaves out, or has less of than was asked for."""
    by_task: dict[str, list[FewShotRecord]] = defaultdict(list)
    for record in records:
        by_task[record.task].append(record)

    notes = []
    for task, found in by_task.items():
        pairs = [(record.k, record.k_asked) for record in found]
        notes += notes_on(task, pairs, found[0].left_out, found[0].rows_left_out)
    return notes


def _mean(records: Sequence[FewShotRecord], entry: str) -> str:
    values = [getattr(record, entry) for record in records]
    return "-" if None in values else f"{fmean(values):.3f}"


def _f1(records: Sequence[FewShotRecord]) -> str:
    values = [fmean(record.f1) for record in records if record.f1 is not None]
    return f"{fmean(values):.3f}" if values else "-"


def _ppl(records: Sequence[FewShotRecord]) -> str:
    values = [record.ppl for record in records if record.ppl is not None]
    return perplexity_text(fmean(values)) if values else "-"


def _mean_accuracy(records: Sequence[FewShotRecord], kind: str) -> str:
    if kind not in records[0].accuracies:
        return "-"
    return f"{fmean(record.accuracies[kind] for record in records):.3f}"
