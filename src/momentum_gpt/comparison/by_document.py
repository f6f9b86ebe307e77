"""The losses of two models, paired by document: is one model better on this text?

The unit is a piece: a document, or as many tokens of a longer one as fit the model's context.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from momentum_gpt.comparison.paired import PairedDifference
from momentum_gpt.core.terminal import Advance, ignore_progress
from momentum_gpt.evaluation.records import PerplexityRecord, read_perplexity
from momentum_gpt.evaluation.statistics import bootstrap_ratio, in_blocks, smallest_detectable_ratio

Key = tuple[str | None, int, int | None, str]
"""Text (None: the run's own), context length, stride, treatment of documents."""


def by_document(
    first: Path, other: Path, advance: Advance = ignore_progress
) -> list[PairedDifference]:
    """Return the differences in loss where two runs scored the same targets in the same way.

    Args:
        first: folder of the run that the other is compared with.
        other: folder of the other run.
        advance: called after each difference.
    """
    of_first = _newest(first)
    of_other = _newest(other)
    differences = []
    for key, record in of_first.items():
        paired = of_other.get(key)

        # The hash of the targets: a pair of different texts would say nothing.
        if paired is not None and record.text_sha256 == paired.text_sha256:
            differences.append(_difference(key, record, paired))
            advance(1)
    return differences


def _newest(folder: Path) -> dict[Key, PerplexityRecord]:
    """Return the records of the newest step, by what was measured."""
    newest = 0
    found: dict[Key, PerplexityRecord] = {}
    for origin, record in read_perplexity(folder):
        if origin.step > newest:
            newest = origin.step
            found.clear()
        if origin.step == newest:
            # The last record counts if something was measured twice.
            key = (origin.data, record.context_length, record.stride, record.documents)
            found[key] = record
    return found


def _difference(key: Key, first: PerplexityRecord, other: PerplexityRecord) -> PairedDifference:
    text, context_length, stride, _ = key
    measure = f"{text or 'validation'}, context {context_length}"
    if stride is not None:
        measure += f", stride {stride}"

    more_nats = np.array(other.nats) - np.array(first.nats)  # (pieces,)

    # The time of a bootstrap grows with the number of its units, and its interval hardly changes.
    sums, sizes = in_blocks(more_nats, np.array(first.n_targets))
    return PairedDifference(
        measure=measure,
        unit="nats/token",
        paired_by="document",
        pairs=len(sums),
        first=first.loss,
        other=other.loss,
        interval=bootstrap_ratio(sums, sizes),
        detectable=smallest_detectable_ratio(sums, sizes),
        sample=f"{first.targets:,} targets",
    )
