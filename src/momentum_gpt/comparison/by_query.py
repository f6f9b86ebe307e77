"""Few-shot accuracies of two models, paired by query: does one model answer more queries?

Both models are asked the same queries after the same demonstrations.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from momentum_gpt.comparison.paired import PairedDifference
from momentum_gpt.core.terminal import Advance, ignore_progress
from momentum_gpt.evaluation.records import FewShotRecord, read_few_shot
from momentum_gpt.evaluation.statistics import mcnemar, over_queries

Key = tuple[str, int]
"""Task and number of demonstrations."""

Draws = dict[int, FewShotRecord]
"""Seed of the demonstrations -> what was measured with them."""


def by_query(
    first: Path, other: Path, advance: Advance = ignore_progress
) -> list[PairedDifference]:
    """Return the differences in accuracy where two runs were asked the same, for each (task, k).

    Args:
        first: folder of the run that the other is compared with.
        other: folder of the other run.
        advance: called after each difference.
    """
    of_first = _newest(first)
    of_other = _newest(other)
    differences = []
    for key, draws in of_first.items():
        pairs = _pairs(draws, of_other.get(key, {}))
        if pairs:
            differences.append(_difference(key, pairs))
            advance(1)
    return differences


def _newest(folder: Path) -> dict[Key, Draws]:
    """Return the records of the newest step, by task and number of demonstrations."""
    newest = 0
    found: dict[Key, Draws] = defaultdict(dict)
    for origin, record in read_few_shot(folder):
        if origin.step > newest:
            newest = origin.step
            found.clear()
        if origin.step == newest:
            # The last record counts if something was measured twice.
            found[record.task, record.k][record.seed] = record
    return found


def _pairs(first: Draws, other: Draws) -> list[tuple[FewShotRecord, FewShotRecord]]:
    """Return the records of the seeds with which both were asked the same.

    That is the same queries after the same demonstrations: the same rows, with the same content.
    All pairs have the same queries, those of the first one.
    """
    pairs: list[tuple[FewShotRecord, FewShotRecord]] = []
    for seed, record in first.items():
        is_same = seed in other and _asked(other[seed]) == _asked(record)
        if is_same and (not pairs or record.queries == pairs[0][0].queries):
            pairs.append((record, other[seed]))
    return pairs


def _asked(record: FewShotRecord) -> tuple[list[int], list[int], str]:
    return record.queries, record.demonstrations, record.content_sha256


def _difference(key: Key, pairs: list[tuple[FewShotRecord, FewShotRecord]]) -> PairedDifference:
    task, k = key
    rights = np.array([(a.right, b.right) for a, b in pairs], dtype=float)  # (draws, 2, queries)
    first = rights[:, 0]  # (draws, queries)
    other = rights[:, 1]
    estimate = over_queries(other - first)

    # McNemar's test has one answer for each query: that of the first draw of demonstrations.
    return PairedDifference(
        measure=f"{task}, k={k}",
        unit="accuracy",
        paired_by="query",
        pairs=first.shape[1],
        first=float(first.mean()),
        other=float(other.mean()),
        interval=estimate.interval,
        detectable=estimate.detectable,
        p_values={"t-test": estimate.p_value, "McNemar": mcnemar(first[0], other[0])},
        sample=f"{len(pairs)} draw{'s' if len(pairs) > 1 else ''}",
        digits=3,
    )
