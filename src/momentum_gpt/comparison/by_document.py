"""The losses of two models, paired by document: is one model better on this text?

The unit is a document: what is scored of it in pieces is added up first. A document counts if the
same text of it was scored in both runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from momentum_gpt.comparison.paired import PairedDifference
from momentum_gpt.core.terminal import Advance, ignore_progress
from momentum_gpt.evaluation.records import PerplexityRecord, read_perplexity
from momentum_gpt.evaluation.statistics import over_documents

Key = tuple[str | None, int, int | None, str]
"""Text (None: the run's own), context length, stride, treatment of documents."""

UNITS = {"token": "nats/token", "byte": "bits/byte", "word": "nats/word"}
"""The unit of a loss, by what it is divided by; with other tokenizers, tokens are other units."""

COUNTED = {"token": "targets", "byte": "bytes", "word": "words"}
"""What is counted of a document, by what its loss is divided by."""

Document = tuple[int, str, int]
"""The number of a document, the hash of its text that was scored, and the size of it."""


Losses = dict[Document, float]
"""The loss of each document, summed."""


def by_document(
    first: Path, other: Path, units: Sequence[str] = ("token",), advance: Advance = ignore_progress
) -> list[PairedDifference]:
    """Return the differences in loss where two runs scored the same documents in the same way.

    Args:
        first: folder of the run that the other is compared with.
        other: folder of the other run.
        units: what a loss is divided by: tokens, or, if the tokenizers differ, bytes and words.
        advance: called after each difference.
    """
    of_first = _newest(first)
    of_other = _newest(other)
    differences = []
    for key, record in of_first.items():
        paired = of_other.get(key)
        if paired is None:
            continue
        for per in units:
            difference = _difference(key, per, _losses(record, per), _losses(paired, per))
            if difference is not None:
                differences.append(difference)
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


def _losses(record: PerplexityRecord, per: str) -> Losses:
    """Return the losses of a record's documents, in bits for bytes, else in nats."""
    if per == "token":
        sums = np.array(record.nats)
        sizes = record.n_targets
    elif per == "byte":
        sums = np.array(record.nats_of_text) / math.log(2)
        sizes = record.n_bytes
    else:
        sums = np.array(record.nats_of_text)
        sizes = record.n_words

    documents = zip(record.document, record.text, sizes, strict=True)
    pairs = zip(documents, sums.tolist(), strict=True)
    # A document of which nothing is counted has no loss.
    return {document: value for document, value in pairs if document[-1]}


def _difference(key: Key, per: str, first: Losses, other: Losses) -> PairedDifference | None:
    """Return the difference over the documents that both have; None if there are none."""
    common = [document for document in first if document in other]
    if not common:
        return None

    text, context_length, stride, _ = key
    measure = f"{text or 'validation'}, context {context_length}"
    if stride is not None:
        measure += f", stride {stride}"

    sizes = np.array([n_units for _, _, n_units in common], dtype=float)  # (documents,)
    of_first = np.array([first[document] for document in common])
    of_other = np.array([other[document] for document in common])
    estimate = over_documents(of_other - of_first, sizes)
    return PairedDifference(
        measure=measure,
        unit=UNITS[per],
        paired_by="document",
        pairs=len(common),
        first=float(of_first.sum() / sizes.sum()),
        other=float(of_other.sum() / sizes.sum()),
        interval=estimate.interval,
        detectable=estimate.detectable,
        p_values={"sign-flip": estimate.p_value},
        sample=f"{sizes.sum():,.0f} {COUNTED[per]}",
    )
