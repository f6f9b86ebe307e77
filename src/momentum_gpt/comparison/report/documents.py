"""Differences of single documents between two runs, for the figure of all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from momentum_gpt.evaluation.records import PerplexityRecord, read_perplexity

SHOWN = 300
"""Documents of a figure, at most."""

Losses = dict[tuple[int, str], float]
"""Number of a document and hash of its text -> its loss, nats per token."""


def losses_of(folder: Path) -> Losses:
    """Return the losses of the last step's documents at the longest context; {} without any."""
    best: PerplexityRecord | None = None
    rank = (-1, -1)
    for origin, record in read_perplexity(folder):
        # Only the run's own validation split is the same text for all runs.
        if origin.data is None and (origin.step, record.context_length) >= rank:
            rank = (origin.step, record.context_length)
            best = record
    if best is None:
        return {}
    found = {}
    for number, text, nats, targets in zip(
        best.document, best.text, best.nats, best.n_targets, strict=True
    ):
        if targets:
            found[number, text] = nats / targets
    return found


def differences(first: Losses, other: Losses) -> np.ndarray:
    """Return other - first of the documents that both have, (documents,): evenly chosen, if many.

    The choice depends on the documents alone, so that pairs of runs show the same ones.
    """
    common = sorted(first.keys() & other.keys())
    chosen = np.unique(np.linspace(0, len(common) - 1, min(len(common), SHOWN)).astype(int))
    return np.array([other[common[place]] - first[common[place]] for place in chosen])
