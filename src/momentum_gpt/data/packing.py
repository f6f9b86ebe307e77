"""Best-fit packing: documents are kept whole where they fit.

Ding et al., "Fewer Truncations Improve Language Modeling", arXiv 2404.10830. A document of up to
seq_len tokens is never cut. A longer one is cut into pieces of seq_len, and what remains is put
where the least room is left for it. Every token is a target once an epoch, as in the concatenated
stream; each piece begins with the end of the document before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from momentum_gpt.data.batches import Batches
from momentum_gpt.data.synthetic_tasks import NO_TARGET


class PackedBatches(Batches):
    """`Batches` of windows that documents are packed into.

    The whole split is read once, to find where its documents end.
    """

    def _arrange(self) -> int:
        starts, lengths = documents(self.shards.whole(), self.shards.tokenizer.eos_id)
        cut = lengths > self.seq_len
        self.cut_share = float(lengths[cut].sum() / max(1, lengths.sum()))

        pieces, sizes = self._cut(starts, lengths)
        bins = best_fit(sizes, self.seq_len)
        n_windows = int(bins.max()) + 1 if len(bins) else 0
        self.padded_share = 1 - float(sizes.sum()) / max(1, n_windows * self.seq_len)
        self.targets_in = np.bincount(bins, weights=sizes).astype(np.int32)  # each window's number

        # The pieces of window w are those from firsts[w] up to firsts[w + 1].
        order = np.argsort(bins, kind="stable")
        self.pieces = pieces[order]
        self.sizes = sizes[order].astype(np.int32)
        self.firsts = np.searchsorted(bins[order], np.arange(n_windows + 1))
        return n_windows

    def _cut(self, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return start and size of the pieces of all documents, (pieces,) each."""
        whole, rest = np.divmod(lengths, self.seq_len)
        full = np.repeat(starts, whole) + self.seq_len * _count_up(whole)
        pieces = np.concatenate([full, starts + whole * self.seq_len])
        sizes = np.concatenate([np.full(whole.sum(), self.seq_len), rest])
        return pieces[sizes > 0], sizes[sizes > 0]

    def window(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens and targets of a window, (T,) each; padding has no targets."""
        tokens = np.full(self.seq_len, self.shards.tokenizer.eos_id)
        targets = np.full(self.seq_len, NO_TARGET)
        done = 0
        for piece in range(self.firsts[number], self.firsts[number + 1]):
            start = int(self.pieces[piece])
            size = int(self.sizes[piece])
            block = self.shards.read(start - 1, size + 1)
            tokens[done : done + size] = block[:-1]
            targets[done : done + size] = block[1:]
            done += size
        return tokens, targets

    def n_targets(self, step: int) -> int:
        """Return the number of targets of the step, over all micro-steps and ranks."""
        return int(self.targets_in[self.windows(step)].sum())

    def describe(self) -> str:
        """Return how the windows were made, for a person."""
        return (
            f"{self.n_windows:,} windows packed best-fit: {self.padded_share:.2%} padding, "
            f"{self.cut_share:.2%} of the tokens in documents that had to be cut"
        )


def documents(shards: Iterable[np.ndarray], eos_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Return start and length of each document in the stream, its end included, (documents,) each.

    The first token of the stream is no target, so the first document starts at 1.
    """
    ends = []
    before = 0
    for shard in shards:
        ends.append(before + 1 + np.flatnonzero(np.asarray(shard) == eos_id))
        before += len(shard)
    stops = np.concatenate(ends)
    starts = np.concatenate([[1], stops[:-1]])
    return starts, stops - starts


def best_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """Return the bin of each size, (n,).

    The largest goes first; each goes into the bin with the least room that holds it, or a new one.
    """
    bins = np.empty(len(sizes), dtype=np.int64)
    bins_with_room: defaultdict[int, list[int]] = defaultdict(list)
    n_bins = 0

    # Sizes that are equal are placed together: there are far fewer sizes than documents.
    order = np.argsort(-sizes, kind="stable")
    changes = np.flatnonzero(np.diff(sizes[order])) + 1
    for places in np.split(order, changes):
        size = int(sizes[places[0]]) if len(places) else 0
        waiting = places.tolist()[::-1]

        for room in sorted(bins_with_room):
            while room >= size and waiting and bins_with_room[room]:
                number = bins_with_room[room].pop()
                left = _fill(bins, number, room, size, waiting)
                bins_with_room[left].append(number)
        while waiting:
            left = _fill(bins, n_bins, capacity, size, waiting)
            bins_with_room[left].append(n_bins)
            n_bins += 1
    return bins


def _fill(bins: np.ndarray, number: int, room: int, size: int, waiting: list[int]) -> int:
    """Put as many of the waiting into the bin as it holds; return the room that is left."""
    while waiting and room >= size:
        bins[waiting.pop()] = number
        room -= size
    return room


def _count_up(counts: np.ndarray) -> np.ndarray:
    """Return 0 ... n - 1 for each count n: [2, 0, 3] gives [0, 1, 0, 1, 2]."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
