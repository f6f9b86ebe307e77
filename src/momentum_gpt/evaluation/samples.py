"""Texts that a model writes, for people to read: the same openings and draws for every model."""

from __future__ import annotations

import numpy as np

from momentum_gpt.core.config import Sampling
from momentum_gpt.data import Tokenizer
from momentum_gpt.evaluation.records import Sample
from momentum_gpt.evaluation.targets import Stream
from momentum_gpt.models import GPT
from momentum_gpt.models.decoding import generate

SAMPLES = 4
"""Texts of each checkpoint."""

OPENING = 32
"""Most tokens of an opening, which is text of the data."""

WRITTEN = 64
"""Most tokens that the model writes."""


def write_samples(model: GPT, stream: Stream, seq_len: int) -> list[Sample]:
    """Return texts that the model writes after openings from all over the stream.

    Args:
        model: tokens (B, T) -> logits (B, T, V).
        stream: documents, of which each opening is a part.
        seq_len: the longest context, tokens.
    """
    if seq_len < 2:  # there is no room for anything after an opening
        return []
    tokenizer = stream.tokenizer
    length = min(OPENING, seq_len // 2, len(stream))
    starts = np.linspace(0, len(stream) - length, SAMPLES, dtype=int)
    openings = [opening(stream.read(int(start), length), tokenizer) for start in starts]

    room = min(WRITTEN, seq_len - length)
    end = frozenset({tokenizer.eos_id})
    written: list[list[int]] = [[] for _ in openings]
    for tokens in generate(model, openings, room, Sampling(), end):
        for ids, token in zip(written, tokens, strict=True):
            if token is not None and token not in end:
                ids.append(token)

    texts = zip(openings, written, strict=True)
    return [Sample(tokenizer.decode(before), tokenizer.decode(after)) for before, after in texts]


def opening(tokens: np.ndarray, tokenizer: Tokenizer) -> list[int]:
    """Return the last document's tokens, or the end of a document if there are none."""
    ids: list[int] = tokens.tolist()
    while tokenizer.eos_id in ids:
        ids = ids[ids.index(tokenizer.eos_id) + 1 :]
    return ids or [tokenizer.eos_id]
