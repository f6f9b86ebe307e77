"""What perplexity is measured on: a sample of a stream of documents, and the windows over it.

The sample is a beginning of one random order of the stream's windows (or documents), the same for
every model. So it is spread over the documents, and a smaller sample is a part of every larger one:
what an evaluation in training measures is a part of what `evaluate` measures. Every target is
scored exactly once at every context length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from momentum_gpt.core.config import EvaluationConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import Tokenizer
from momentum_gpt.data.batches import Permutation

TOKENS = 65_536
"""Targets at each context length, where nothing says how many."""

BLOCK = 1 << 20
"""Tokens that are read at once to find where documents end."""

ORDER = "validation"
"""The key of the random order in which windows or documents are taken into the sample."""


class Stream(Protocol):
    """Documents one after another, each ended by the end-of-document token.

    `TokenShards` and `Texts` are streams.
    """

    name: str
    """What errors call it."""
    tokenizer: Tokenizer

    def __len__(self) -> int: ...

    def read(self, start: int, length: int) -> np.ndarray: ...

    def fingerprint(self) -> str: ...


class Windows(NamedTuple):
    """Windows over a stream, (n,) each."""

    starts: np.ndarray
    """First token that the window reads."""
    lengths: np.ndarray
    """Tokens that it reads; its targets are one token further on."""
    scored: np.ndarray
    """How many of its last targets it scores."""


class Text(NamedTuple):
    """What is scored of a document without a gap: all of it, or what windows have of it."""

    document: int
    """The document's number in the stream."""
    text: str
    n_words: int
    """Words between white space that begin in the text."""


@dataclass
class Targets:
    """What is scored, in the order of the stream.

    The targets lie in stretches that are read separately: windows of the stream, neighbouring ones
    in one stretch, or documents.
    """

    stream: Stream
    starts: np.ndarray
    """(stretches,): the first target of each."""
    sizes: np.ndarray
    """(stretches,): the targets of each."""
    ends: np.ndarray
    """(documents,): where each document of the whole stream ends."""
    apart: bool
    """Whether each stretch is a document that is read without what stands before it."""

    def __len__(self) -> int:
        return int(self.sizes.sum())

    @cached_property
    def tokens(self) -> np.ndarray:
        """The targets themselves, (targets,)."""
        blocks = []
        for start, size in zip(self.starts.tolist(), self.sizes.tolist(), strict=True):
            blocks.append(read(self.stream, start, size))
        return np.concatenate(blocks)

    @cached_property
    def documents(self) -> np.ndarray:
        """The number of each target's document in the stream, (targets,), counted from 0."""
        return np.searchsorted(self.ends, self._places)  # the end of a document belongs to it

    @cached_property
    def _places(self) -> np.ndarray:
        """Where each target stands in the stream, (targets,)."""
        before = np.cumsum(self.sizes) - self.sizes  # targets of the stretches before, (stretches,)
        return np.arange(len(self)) + np.repeat(self.starts - before, self.sizes)

    @cached_property
    def is_text(self) -> np.ndarray:
        """Whether each target is text and not the end of a document, (targets,)."""
        return self.tokens != self.stream.tokenizer.eos_id

    def texts(self) -> Iterator[Text]:
        """Yield the text of each run of targets that follow one another in one document."""
        # A run ends where its document does, and where its stretch does.
        is_last = np.append(np.diff(self.documents) > 0, True)
        is_last[np.cumsum(self.sizes) - 1] = True

        decode = self.stream.tokenizer.decode
        first = 0
        for end in (np.flatnonzero(is_last) + 1).tolist():
            ids = self.tokens[first:end]
            text = decode(ids[self.is_text[first:end]])
            # A run may begin within a word, which counts where it begins.
            before = decode(read(self.stream, int(self._places[first]) - 1, 1).tolist())
            is_within_word = before[-1:].strip() and text[:1].strip()
            n_words = len(text.split()) - bool(is_within_word)
            yield Text(int(self.documents[first]), text, n_words)
            first = end

    def windows(self, length: int, stride: int | None = None) -> Windows:
        """Return windows of `length` tokens, or of as many as a stretch has.

        The last window of a stretch reaches back over targets that others score. With a stride,
        every window of a stream reaches back, as far as there are tokens before the stretch.

        Args:
            length: tokens that a window reads.
            stride: targets that each window scores. None: all of them, so that windows are
                disjoint.
        """
        step = stride or length
        starts = []
        lengths = []
        scored = []
        for first, n in zip(self.starts.tolist(), self.sizes.tolist(), strict=True):
            # Places are counted from the stretch's first target; negative ones lie before it.
            before = 0 if self.apart else min(first - 1, length - step)
            size = min(length - before, n)  # targets that the first window scores
            n_more = -(-(n - size) // step)  # windows after it, rounded up

            ends = np.minimum(size + np.arange(1 + n_more) * step, n)
            begins = np.maximum(ends - length, -before)

            starts.append(first - 1 + begins)  # a target is predicted from the token before it
            lengths.append(ends - begins)
            scored.append(np.diff(ends, prepend=0))
        return Windows(np.concatenate(starts), np.concatenate(lengths), np.concatenate(scored))


def read(stream: Stream, start: int, length: int) -> np.ndarray:
    """Return tokens of the stream, (length,); before the first one stands the end of a document."""
    if start < 0:
        return np.concatenate([[stream.tokenizer.eos_id], stream.read(0, length - 1)])
    return stream.read(start, length)


def choose_targets(stream: Stream, config: EvaluationConfig, seq_len: int) -> Targets:
    """Return the targets to score: windows of seq_len, or documents, taken in a random order.

    Windows begin at the stream's second token, as the first one has nothing before it. Of documents
    apart, the last one taken is cut; their end-of-document tokens are no targets.

    Raises:
        UserError: there is nothing to score.
    """
    wanted = TOKENS if config.tokens is None else config.tokens
    ends = document_ends(stream)
    if config.documents == "apart":
        starts, sizes = _documents(ends, wanted)
        if not len(starts):
            raise UserError(f"{stream.name} has no text to score: give more of it")
        return Targets(stream, starts, sizes, ends, apart=True)

    n_windows = (len(stream) - 1) // seq_len
    if not n_windows:
        raise UserError(
            f"{stream.name} has {len(stream)} tokens, fewer than one window of "
            f"model.seq_len + 1 = {seq_len + 1}: prepare more text for validation, "
            "take a smaller model.seq_len, or evaluation.documents=apart"
        )
    chosen = np.sort(first_at_random(n_windows, wanted // seq_len))
    firsts = np.flatnonzero(np.diff(chosen, prepend=-2) > 1)  # windows with a gap before them
    counts = np.diff(firsts, append=len(chosen))
    return Targets(stream, 1 + chosen[firsts] * seq_len, counts * seq_len, ends, apart=False)


def first_at_random(size: int, n: int) -> np.ndarray:
    """Return the first n of the numbers below size in their random order, or all; (n,)."""
    return Permutation(size, ORDER)(np.arange(min(size, n)))


def document_ends(stream: Stream) -> np.ndarray:
    """Return where each document ends, (documents,): the place of its end-of-document token.

    What follows the last one is a document, too, which ends where the stream does.
    """
    found = []
    for start in range(0, len(stream), BLOCK):
        block = stream.read(start, min(BLOCK, len(stream) - start))
        found.append(start + np.flatnonzero(block == stream.tokenizer.eos_id))
    ends = np.concatenate(found)
    return ends if len(ends) and ends[-1] == len(stream) - 1 else np.append(ends, len(stream))


def _documents(ends: np.ndarray, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first token and the size, (documents,) each, of documents with n_tokens in all."""
    starts = np.append(0, ends[:-1] + 1)
    sizes = ends - starts
    order = first_at_random(len(ends), len(ends))

    # Each document gets what is left for it when those before it in the order have been taken.
    before = np.cumsum(sizes[order]) - sizes[order]
    sizes[order] = np.clip(n_tokens - before, 0, sizes[order])
    kept = sizes > 0
    return starts[kept], sizes[kept]
