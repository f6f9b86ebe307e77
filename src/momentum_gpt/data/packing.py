"""Best-fit packing (Ding et al., "Fewer Truncations Improve Language Modeling", arXiv 2404.10830): documents kept whole.

A document of up to seq_len tokens is never cut: a longer one is cut into pieces of seq_len, and what remains of each is put
where the least room is left for it. Every token is a target once an epoch, as in the concatenated stream; each piece begins
with the end of the document before it.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from momentum_gpt.data.batches import Batches
from momentum_gpt.data.synthetic_tasks import NO_TARGET


class PackedBatches(Batches):
    """`Batches` of windows that documents were packed into; the whole split is read once, to find where they end."""

    def _arrange(self) -> int:
        starts, lengths = documents(self.shards.shards, self.shards.tokenizer.eos_id)
        whole, rest = np.divmod(lengths, self.seq_len)
        self.cut_share = float(lengths[lengths > self.seq_len].sum() / max(1, lengths.sum()))
        pieces = np.concatenate(
            [
                np.repeat(starts, whole) + self.seq_len * _count_up(whole),
                starts + whole * self.seq_len,
            ]
        )
        sizes = np.concatenate([np.full(whole.sum(), self.seq_len), rest])
        pieces, sizes = pieces[sizes > 0], sizes[sizes > 0]
        bins = best_fit(sizes, self.seq_len)
        order = np.argsort(bins, kind="stable")
        self.pieces, self.sizes = pieces[order], sizes[order].astype(np.int32)
        n_windows = int(bins.max()) + 1 if len(bins) else 0
        self.firsts = np.searchsorted(bins[order], np.arange(n_windows + 1))
        self.padded_share = 1 - float(sizes.sum()) / max(1, n_windows * self.seq_len)
        return n_windows

    def window(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.full(self.seq_len, self.shards.tokenizer.eos_id)
        targets = np.full(self.seq_len, NO_TARGET)
        done = 0
        for piece in range(self.firsts[number], self.firsts[number + 1]):
            start, size = int(self.pieces[piece]), int(self.sizes[piece])
            block = self.shards.read(start - 1, size + 1)
            tokens[done : done + size], targets[done : done + size] = block[:-1], block[1:]
            done += size
        return tokens, targets

    def describe(self) -> str:
        return (
            f"{self.n_windows:,} windows packed best-fit: {self.padded_share:.2%} padding, {self.cut_share:.2%} of the tokens "
            "in documents that had to be cut"
        )


def documents(shards: list[np.ndarray], eos_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Start and length of each document in the stream, its end included; the stream's first token is no target."""
    ends, before = [], 0
    for shard in shards:
        ends.append(before + 1 + np.flatnonzero(np.asarray(shard) == eos_id))
        before += len(shard)
    stops = np.concatenate(ends)
    starts = np.concatenate([[1], stops[:-1]])
    return starts, stops - starts


def best_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """The bin of each size, (n,): the largest first, each into the bin with the least room that holds it, or a new one."""
    bins = np.empty(len(sizes), dtype=np.int64)
    room: defaultdict[int, list[int]] = defaultdict(list)  # bins by the room they have left
    n_bins = 0
    order = np.argsort(-sizes, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(sizes[order])) + 1):
        size, waiting = int(sizes[places[0]]) if len(places) else 0, places.tolist()[::-1]
        for left in sorted(it for it in room if it >= size and room[it]):
            while waiting and room[left]:
                number = room[left].pop()
                room[_fill(bins, number, left, size, waiting)].append(number)
        while waiting:
            room[_fill(bins, n_bins, capacity, size, waiting)].append(n_bins)
            n_bins += 1
    return bins


def _fill(bins: np.ndarray, number: int, left: int, size: int, waiting: list[int]) -> int:
    """Put as many of the waiting into the bin as it holds; returns the room that is left."""
    while waiting and left >= size:
        bins[waiting.pop()] = number
        left -= size
    return left


def _count_up(counts: np.ndarray) -> np.ndarray:
    """[2, 0, 3] -> [0, 1, 0, 1, 2]."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
