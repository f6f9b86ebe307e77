"""Loss by how frequent the token to predict is in the training text."""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np

from momentum_gpt.data import TokenShards
from momentum_gpt.evaluation.targets import BLOCK, Stream

COUNTED = 10_000_000
"""Tokens at the beginning of the training split that are counted, at most."""


def frequency_ranks(stream: Stream) -> np.ndarray | None:
    """Return the rank of each token by its frequency, (V,): 0 for the most frequent one.

    The first `COUNTED` tokens of the training split of the same shards are counted. Of tokens that
    are equally frequent, the one with the smaller id comes first.

    Returns:
        None of text that has no training split, or where the split is not on this machine.

    Raises:
        UserError: the training split is damaged.
    """
    if not isinstance(stream, TokenShards):
        return None
    entries = stream.manifest.splits["train"]
    before = accumulate((entry.tokens for entry in entries), initial=0)
    pairs = zip(entries, before, strict=False)  # the last sum is that of all
    counted = [entry for entry, start in pairs if start < COUNTED]
    if not all((stream.folder / entry.file).is_file() for entry in counted):
        return None
    return _ranks(stream.folder, tuple(entry.sha256 for entry in counted))


@lru_cache(maxsize=4)
def _ranks(folder: Path, sha256: tuple[str, ...]) -> np.ndarray:
    """Return the ranks; what was counted once in this process, by its hashes, is known."""
    shards = TokenShards(folder, "train")
    counts = np.zeros(shards.vocab_size, dtype=np.int64)
    end = min(len(shards), COUNTED)
    for start in range(0, end, BLOCK):
        block = shards.read(start, min(BLOCK, end - start))
        counts += np.bincount(block, minlength=len(counts))

    ranks = np.empty_like(counts)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(counts))  # stable: ties by their ids
    ranks.setflags(write=False)
    return ranks


def by_frequency(nats: np.ndarray, tokens: np.ndarray, ranks: np.ndarray) -> dict[str, float]:
    """Return `val/loss@rankN` for N = 10, 100, 1000, ... up to the size of the vocabulary.

    It is the loss of the targets that are among the N most frequent tokens, and not among the
    N / 10 most frequent ones. N without a target has no loss.

    Args:
        nats: of each target, (targets,).
        tokens: the targets themselves, (targets,).
        ranks: of each token, from `frequency_ranks`, (V,).
    """
    rank = ranks[tokens]  # (targets,)
    metrics = {}
    begin, end = 0, 10
    while begin < len(ranks):
        here = (rank >= begin) & (rank < end)
        if here.any():
            metrics[f"val/loss@rank{end}"] = float(nats[here].mean())
        begin, end = end, 10 * end
    return metrics
