"""What perplexity is measured on: the targets of a stream of documents, and the windows that score them.

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
"""Scored at each context length, where nothing says how many."""

BLOCK = 1 << 16
"""Tokens that are read at once to find where documents end."""


class Stream(Protocol):
    """Documents one after another, each ended by the end-of-document token: `TokenShards`, or `Texts`."""

    name: str
    tokenizer: Tokenizer

    def __len__(self) -> int: ...

    def read(self, start: int, length: int) -> np.ndarray: ...


class Windows(NamedTuple):
    """(n,) each: a window reads `lengths` tokens from `starts` on, and the last `scored` of the targets behind them are its."""

    starts: np.ndarray
    lengths: np.ndarray
    scored: np.ndarray


@dataclass
class Targets:
    """What is scored, in the order of the stream."""

    stream: Stream
    starts: np.ndarray
    """(n,): the first target of each stretch that is read by itself: all of the stream, windows of it, or documents."""
    sizes: np.ndarray
    """(n,): its targets."""
    apart: bool

    def __len__(self) -> int:
        return int(self.sizes.sum())

    @cached_property
    def tokens(self) -> np.ndarray:
        """(targets,)"""
        return np.concatenate(
            [
                read(self.stream, int(a), int(n))
                for a, n in zip(self.starts, self.sizes, strict=True)
            ]
        )

    @cached_property
    def documents(self) -> np.ndarray:
        """The document of each, (targets,), counted from 0; what is not read in one piece counts as several."""
        begins = np.zeros(len(self), dtype=np.int64)
        if not self.apart:
            begins[1:] = ~self.is_text[:-1]
        begins[np.cumsum(self.sizes[:-1])] = 1
        return begins.cumsum()

    @cached_property
    def is_text(self) -> np.ndarray:
        """(targets,): not the end of a document."""
        return self.tokens != self.stream.tokenizer.eos_id

    @cached_property
    def texts(self) -> list[str]:
        """Of each document."""
        cuts = np.searchsorted(self.documents, np.arange(1, int(self.documents[-1]) + 1))
        parts = zip(np.split(self.tokens, cuts), np.split(self.is_text, cuts), strict=True)
        return [self.stream.tokenizer.decode(tokens[is_text]) for tokens, is_text in parts]

    def pieces(self, most: int) -> tuple[np.ndarray, np.ndarray]:
        """The piece of each target, (targets,), and the document of each piece: one of more than `most` targets is cut."""
        begins = np.searchsorted(self.documents, np.arange(self.documents[-1] + 1))
        offsets = np.arange(len(self)) - begins[self.documents]
        piece = np.cumsum(offsets % most == 0) - 1
        return piece, self.documents[offsets % most == 0]

    def windows(self, length: int, stride: int | None = None) -> Windows:
        """Of `length` tokens, or as many as there are; the last of a stretch reaches back over tokens scored before.

        With a stride those of a stream reach back from the first on, as far as there are tokens before the stretch.
        """
        step = stride or length
        starts, lengths, scored = [], [], []
        for first, n in zip(self.starts.tolist(), self.sizes.tolist(), strict=True):
            before = 0 if self.apart else min(first - 1, length - step)
            size = min(length - before, n)
            ends = np.minimum(size + np.arange(1 + -(-(n - size) // step)) * step, n)
            begins = np.maximum(ends - length, -before)
            starts.append(first - 1 + begins)
            lengths.append(ends - begins)
            scored.append(np.diff(ends, prepend=0))
        return Windows(*map(np.concatenate, (starts, lengths, scored)))


def read(stream: Stream, start: int, length: int) -> np.ndarray:
    """Of the stream, before which there is the end of a document."""
    if start < 0:
        return np.concatenate([[stream.tokenizer.eos_id], stream.read(0, length - 1)])
    return stream.read(start, length)


def choose_targets(stream: Stream, config: EvaluationConfig, seq_len: int) -> Targets:
    """Windows of seq_len targets from the stream's second token on, all or some of them; or its first documents.

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
            f"{stream.name} has {len(stream)} tokens, fewer than one window of model.seq_len + 1 = {seq_len + 1}: "
            "prepare more text for validation, take a smaller model.seq_len, or evaluation.documents=apart"
        )
    if config.windows is None or config.windows >= n:
        return Targets(stream, np.array([1]), np.array([n * seq_len]), apart=False)
    spread = np.arange(config.windows) * n // config.windows
    return Targets(stream, 1 + spread * seq_len, np.full(config.windows, seq_len), apart=False)


def first_documents(stream: Stream, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """First token and number of tokens of the documents in the first n_tokens, their ends left out; the last may be cut."""
    ends: list[int] = []
    done = 0
    while done < len(stream) and not (ends and ends[-1] >= n_tokens):
        block = stream.read(done, min(BLOCK, len(stream) - done))
        ends += (done + np.flatnonzero(block == stream.tokenizer.eos_id)).tolist()
        done += len(block)
    starts, stops = (
        np.array([0, *(end + 1 for end in ends)])[: len(ends)],
        np.minimum(np.array(ends, dtype=np.int64), n_tokens),
    )
    kept = stops > starts
    return starts[kept], (stops - starts)[kept]
