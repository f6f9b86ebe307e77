"""Few-shot accuracies of two models, paired by query: does one model answer more queries?

Both models are asked the same queries after the same demonstrations.
"""

from __future__ import annotations

import math
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
            differences += _differences(key, pairs)
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


def _differences(
    key: Key, pairs: list[tuple[FewShotRecord, FewShotRecord]]
) -> list[PairedDifference]:
    """Return the difference in accuracy and, of answers that the model writes, in F1."""
    rights = np.array([(a.right, b.right) for a, b in pairs], dtype=float)  # (draws, 2, queries)

    # McNemar's test has one answer for each query: that of the first draw of demonstrations.
    p_mcnemar = mcnemar(rights[0, 0], rights[0, 1])
    found = [_difference(key, "accuracy", rights, p_mcnemar)]
    if pairs[0][0].f1 is not None:
        overlaps = np.array([(a.f1, b.f1) for a, b in pairs])
        found.append(_difference(key, "F1", overlaps, math.nan))
    return found


def _difference(key: Key, unit: str, values: np.ndarray, p_mcnemar: float) -> PairedDifference:
    """Return the difference of values (draws, 2, queries) of the first run and the other one."""
    task, k = key
    n_draws, _, n_queries = values.shape
    estimate = over_queries(values[:, 1] - values[:, 0])
    return PairedDifference(
        measure=f"{task}, k={k}",
        unit=unit,
        paired_by="query",
        pairs=n_queries,
        first=float(values[:, 0].mean()),
        other=float(values[:, 1].mean()),
        interval=estimate.interval,
        detectable=estimate.detectable,
        p_values={"t-test": estimate.p_value, "McNemar": p_mcnemar},
        sample=f"{n_draws} draw{'s' if n_draws > 1 else ''}",
        digits=3,
    )
