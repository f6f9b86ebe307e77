"""The batches of a run as a pure function of (seed, step, slot): no index to build, no state to save.

The token stream is cut into windows of seq_len + 1 tokens, each starting seq_len after the last. Slot s of step t is
sample number t * global_batch_size + s; the samples of an epoch visit every window once, in an order drawn by a keyed
permutation. The world size plays no part: it only decides which rank reads which slot.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from momentum_gpt.core.config import BatchPlan
from momentum_gpt.core.errors import UserError
from momentum_gpt.data.shards import TokenShards

ROUNDS = 6
"""Of the Feistel network; four already make a pseudo-random permutation of a good round function."""


class Permutation:
    """A bijection of {0, ..., size - 1} drawn by a key, computed point by point: O(1) memory and time each.

    A Feistel network on the smallest even number of bits that holds `size`, walked along its cycle until the point falls
    inside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
    """

    def __init__(self, size: int, key: str) -> None:
        self.size = size
        self.half_bits = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
        digest = hashlib.shake_256(key.encode()).digest(8 * ROUNDS)
        self.round_keys = np.frombuffer(digest, dtype="<u8")

    def __call__(self, points: np.ndarray) -> np.ndarray:
        points = self._feistel(points.astype(np.uint64))
        while (outside := points >= self.size).any():
            points[outside] = self._feistel(points[outside])
        return points.astype(np.int64)

    def _feistel(self, points: np.ndarray) -> np.ndarray:
        mask = (np.uint64(1) << self.half_bits) - np.uint64(1)
        left, right = points >> self.half_bits, points & mask
        for key in self.round_keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        return (left << self.half_bits) | right


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014): every bit of x moves every bit of the result."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Batches:
    """`batches(step, micro_step, rank)` -> tokens, targets, (B, T) each: windows of the concatenated stream.

    Raises:
        UserError: the split is shorter than one window.
    """

    def __init__(self, shards: TokenShards, seq_len: int, seed: int, plan: BatchPlan) -> None:
        self.shards, self.seq_len, self.seed, self.plan = shards, seq_len, seed, plan
        self.n_windows = self._arrange()
        if self.n_windows < 1:
            raise UserError(
                f"the {shards.split} split of {str(shards.folder)!r} has {len(shards)} tokens, fewer than one window of "
                f"model.seq_len + 1 = {seq_len + 1}: take more text or a smaller model.seq_len"
            )
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))

    def _arrange(self) -> int:
        """Lay the stream out in windows; returns their number."""
        return (len(self.shards) - 1) // self.seq_len

    def __call__(self, step: int, micro_step: int, rank: int) -> tuple[Tensor, Tensor]:
        size = self.plan.micro_batch_size
        first = (micro_step * self.plan.world_size + rank) * size
        rows = [self.window(int(w)) for w in self.windows(step)[first : first + size]]
        tokens, targets = (
            torch.from_numpy(np.stack(half)) for half in zip(*rows, strict=True)
        )  # (B, T)
        return tokens, targets

    def window(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets of a window, (T,) each."""
        block = self.shards.read(number * self.seq_len, self.seq_len + 1)
        return block[:-1], block[1:]

    def windows(self, step: int) -> np.ndarray:
        """Which window each slot of the step reads, (global_batch_size,)."""
        known, order = self._order
        if known == step:
            return order
        samples = step * self.plan.global_batch_size + np.arange(self.plan.global_batch_size)
        epochs, places = np.divmod(samples, self.n_windows)
        windows = np.empty_like(places)
        for epoch in np.unique(epochs):
            inside = epochs == epoch
            windows[inside] = Permutation(self.n_windows, f"{self.seed} {epoch}")(places[inside])
        self._order = step, windows
        return windows

    def order_hash(self, previous: str, step: int) -> str:
        """A hash of the windows of all steps up to this one, from that of the steps before."""
        return hashlib.sha256(
            previous.encode() + self.windows(step).astype("<i8").tobytes()
        ).hexdigest()

    def describe(self) -> str:
        return f"{self.n_windows:,} windows of the concatenated stream"
