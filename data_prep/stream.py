"""Which documents are in the shards, and in which order.

The shards of a split are one long stream of tokens: the documents of task 0, then those of task 1
and so on. Where a mix repeats documents, all second copies come after all first ones, so that no
document stands beside its copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_prep.sources import Source
from momentum_gpt.data.shards import SPLITS

INDEX = np.dtype([("tokens", "<u4"), ("split", "u1"), ("hash", "<u8")])
"""What is kept of each encoded document.

Its tokens, with the end-of-sequence token; the place of its split in SPLITS; a hash of its text.
"""


@dataclass(frozen=True)
class Span:
    """Where the documents of one task stand in the stream of a split."""

    split: str
    copy: int
    """0 for the first copy of the documents, 1 for the second, ..."""
    rank: int
    """The task."""
    start: int
    """The first token's place in the stream."""
    tokens: int


@dataclass(frozen=True)
class Shard:
    """The documents that begin at tokens start ... end - 1 of a split's stream."""

    split: str
    number: int
    start: int
    end: int

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.split}_{self.number:05d}.npy"

    def overlaps(self, span: Span) -> bool:
        """Return whether documents of the span may begin in the shard."""
        ends_before = span.start + span.tokens <= self.start
        return span.split == self.split and span.start < self.end and not ends_before


def chosen_documents(index: np.ndarray, split: str, copy: int, copies: float) -> np.ndarray:
    """Return which documents of a task are in a copy.

    With copies = 1.3, all documents are in copy 0 and three tenths of them, drawn by their hashes,
    in copy 1. Validation documents are there once.

    Args:
        index: (documents,) of dtype INDEX.
        split: "train" or "validation".
        copy: the number of the copy.
        copies: how often a training document is there, on average.

    Returns:
        (documents,) bool.
    """
    inside = index["split"] == SPLITS.index(split)
    if split == "validation":
        return inside if copy == 0 else np.zeros_like(inside)

    # How much of this copy there is: all of the first ones, a part of the last.
    share = copies - copy
    if share >= 1:
        return inside
    if share <= 0:
        return np.zeros_like(inside)
    return inside & (index["hash"] < np.uint64(share * (2**64 - 1)))


def chosen_tokens(index: np.ndarray, split: str, copy: int, copies: float) -> int:
    """Return the number of tokens of the documents that `chosen_documents` returns."""
    chosen = chosen_documents(index, split, copy, copies)
    return int(index["tokens"][chosen].sum(dtype=np.int64))


def repeats_of(sources: list[Source], tokens: list[int]) -> list[float]:
    """Return how often a training document of each source is there, on average.

    Without weights, each document is there once. With weights w and tokens n, source s is repeated
    w_s T / n_s times, where T, the sum of all tokens, is as large as max_epochs allows.

    Args:
        sources: the sources of the mix.
        tokens: tokens of the training documents of each.
    """
    if sources[0].weight is None:
        return [1.0 if count else 0.0 for count in tokens]

    weights = [source.weight or 0.0 for source in sources]
    limits = []
    # Source s allows T as large as max_epochs_s n_s / w_s.
    for source, count, weight in zip(sources, tokens, weights, strict=True):
        limits.append(source.max_epochs * count / weight)
    total = min(limits)
    return [weight * total / count for count, weight in zip(tokens, weights, strict=True)]


def spans_of(indices: list[np.ndarray], copies: list[float]) -> list[Span]:
    """Return where the documents of each task stand in the stream of each split.

    Args:
        indices: the index of each task.
        copies: how often its training documents are there, on average.
    """
    rounds = max(1, math.ceil(max(copies, default=1)))
    spans = []
    for split in SPLITS:
        start = 0
        for copy in range(rounds):
            for rank, index in enumerate(indices):
                tokens = chosen_tokens(index, split, copy, copies[rank])
                if tokens:
                    spans.append(Span(split, copy, rank, start, tokens))
                start += tokens
    return spans


def shards_of(spans: list[Span], shard_tokens: int) -> list[Shard]:
    """Return the shards: the stream of each split, cut at multiples of `shard_tokens`.

    A document belongs to the shard in which it begins.
    """
    shards = []
    for split in SPLITS:
        total = 0
        for span in spans:
            if span.split == split:
                total = max(total, span.start + span.tokens)
        for number, start in enumerate(range(0, total, shard_tokens)):
            shards.append(Shard(split, number, start, start + shard_tokens))
    return shards


def runs(offsets: np.ndarray, lengths: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (first token, last token + 1) of each run of documents without a gap between them.

    Args:
        offsets: (documents,), where each document begins, increasing.
        lengths: (documents,), the tokens of each.
    """
    if not len(offsets):
        return
    ends = offsets + lengths
    breaks = np.flatnonzero(offsets[1:] != ends[:-1]) + 1  # the first document of each later run
    firsts = np.concatenate([[0], breaks])
    lasts = np.concatenate([breaks, [len(offsets)]]) - 1
    for first, last in zip(firsts, lasts, strict=True):
        yield int(offsets[first]), int(ends[last])
