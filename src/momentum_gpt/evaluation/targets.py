"""What perplexity is measured on: the targets of a stream of documents, and the windows over them.

Every target is scored exactly once at every context length.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from momentum_gpt.core.config import EvaluationConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import Tokenizer

TOKENS = 65_536
"""Targets at each context length, where nothing says how many."""

BLOCK = 1 << 16
"""Tokens that are read at once to find where documents end."""


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


@dataclass
class Targets:
    """What is scored, in the order of the stream.

    The targets lie in stretches that are read separately: all of the stream, windows spread over
    it, or single documents.
    """

    stream: Stream
    starts: np.ndarray
    """(stretches,): the first target of each."""
    sizes: np.ndarray
    """(stretches,): the targets of each."""
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
        """The document of each target, (targets,), counted from 0.

        A document of which only separate stretches are read counts as several.
        """
        begins = np.zeros(len(self), dtype=np.int64)
        if not self.apart:
            begins[1:] = ~self.is_text[:-1]  # after the end of a document
        begins[np.cumsum(self.sizes[:-1])] = 1  # at the first target of a stretch
        return begins.cumsum()

    @cached_property
    def is_text(self) -> np.ndarray:
        """Whether each target is text and not the end of a document, (targets,)."""
        return self.tokens != self.stream.tokenizer.eos_id

    @cached_property
    def texts(self) -> list[str]:
        """The text of each document."""
        cuts = np.searchsorted(self.documents, np.arange(1, int(self.documents[-1]) + 1))
        tokens = np.split(self.tokens, cuts)
        is_text = np.split(self.is_text, cuts)

        decode = self.stream.tokenizer.decode
        return [decode(ids[kept]) for ids, kept in zip(tokens, is_text, strict=True)]

    def pieces(self, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the piece of each target, (targets,), and the document of each piece, (pieces,).

        A piece is a document, or up to `most` consecutive targets of a longer one.
        """
        begins = np.searchsorted(self.documents, np.arange(self.documents[-1] + 1))
        offsets = np.arange(len(self)) - begins[self.documents]
        is_first = offsets % most == 0
        return np.cumsum(is_first) - 1, self.documents[is_first]

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
    """Return the targets to score: windows of seq_len, all or some of them, or the first documents.

    Windows begin at the stream's second token, as the first one has nothing before it.

    Raises:
        UserError: there is nothing to score.
    """
    wanted = TOKENS if config.tokens is None else config.tokens
    if config.documents == "apart":
        starts, sizes = first_documents(stream, wanted)
        if not len(starts):
            raise UserError(f"{stream.name} has no text to score: give more of it")
        return Targets(stream, starts, sizes, apart=True)

    n = min(wanted, len(stream) - 1) // seq_len
    if not n:
        raise UserError(
            f"{stream.name} has {len(stream)} tokens, fewer than one window of "
            f"model.seq_len + 1 = {seq_len + 1}: prepare more text for validation, "
            "take a smaller model.seq_len, or evaluation.documents=apart"
        )
    if config.windows is None or config.windows >= n:
        return Targets(stream, np.array([1]), np.array([n * seq_len]), apart=False)

    # Evenly over all, so that few windows see as many different documents as possible.
    spread = np.arange(config.windows) * n // config.windows
    sizes = np.full(config.windows, seq_len)
    return Targets(stream, 1 + spread * seq_len, sizes, apart=False)


def first_documents(stream: Stream, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first token and the size of each document in the first n_tokens of the stream.

    The end-of-document tokens are left out, as are empty documents; the last document may be cut.

    Returns:
        starts (documents,) and sizes (documents,).
    """
    # Blocks are read up to the first end of a document beyond n_tokens: no more of the stream.
    ends: list[int] = []
    done = 0
    while done < len(stream) and not (ends and ends[-1] >= n_tokens):
        block = stream.read(done, min(BLOCK, len(stream) - done))
        ends += (done + np.flatnonzero(block == stream.tokenizer.eos_id)).tolist()
        done += len(block)

    all_ends = np.array(ends, dtype=np.int64)
    starts = np.concatenate([[0], all_ends + 1])[: len(ends)]
    stops = np.minimum(all_ends, n_tokens)

    kept = stops > starts  # neither empty nor beyond n_tokens
    return starts[kept], (stops - starts)[kept]
