"""The batches of a run as a pure function of (seed, step, slot): no index, no state to save.

The token stream is cut into windows of seq_len + 1 tokens, each starting seq_len after the last.
Slot s of step t is sample number t * global_batch_size + s. The samples of an epoch visit every
window once, in an order drawn by a keyed permutation. The world size plays no part: it only decides
which rank reads which slot.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from momentum_gpt.core.batch_plan import BatchPlan
from momentum_gpt.core.errors import UserError
from momentum_gpt.data.shards import TokenShards

ROUNDS = 6
"""Rounds of the Feistel network; four make a pseudo-random permutation of a good round function."""


class Permutation:
    """A bijection of {0, ..., size - 1} drawn by a key, computed point by point in O(1) memory.

    It is a Feistel network on the smallest even number of bits that holds `size`, applied again
    until the point falls inside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
    """

    def __init__(self, size: int, key: str) -> None:
        self.size = size
        bits = (size - 1).bit_length()
        self.half_bits = np.uint64(max(1, -(-bits // 2)))
        digest = hashlib.shake_256(key.encode()).digest(8 * ROUNDS)
        self.round_keys = np.frombuffer(digest, dtype="<u8")

    def __call__(self, points: np.ndarray) -> np.ndarray:
        points = self._feistel(points.astype(np.uint64))
        while (outside := points >= self.size).any():
            points[outside] = self._feistel(points[outside])
        return points.astype(np.int64)

    def _feistel(self, points: np.ndarray) -> np.ndarray:
        mask = (np.uint64(1) << self.half_bits) - np.uint64(1)
        left = points >> self.half_bits
        right = points & mask
        for key in self.round_keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        return (left << self.half_bits) | right


def _mix(x: np.ndarray) -> np.ndarray:
    """Return the finaliser of splitmix64: every bit of x moves every bit of the result.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Batches:
    """`batches(step, micro_step, rank)` returns tokens and targets, (B, T) each.

    Args:
        shards: the training split.
        seq_len: T.
        seed: of the order of the windows.
        plan: how the windows of a step are spread over micro-steps and ranks.

    Raises:
        UserError: the split is shorter than one window.
    """

    def __init__(self, shards: TokenShards, seq_len: int, seed: int, plan: BatchPlan) -> None:
        self.shards = shards
        self.seq_len = seq_len
        self.seed = seed
        self.plan = plan
        self.n_windows = self._arrange()
        if self.n_windows < 1:
            raise UserError(too_few_tokens(shards.name, len(shards), seq_len))
        # The windows of the step that was asked for last: every micro-step asks again.
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))

    def _arrange(self) -> int:
        """Lay the stream out in windows and return their number."""
        return (len(self.shards) - 1) // self.seq_len

    def __call__(self, step: int, micro_step: int, rank: int) -> tuple[Tensor, Tensor]:
        size = self.plan.micro_batch_size
        first = (micro_step * self.plan.world_size + rank) * size
        rows = [self.window(int(number)) for number in self.windows(step)[first : first + size]]
        tokens, targets = zip(*rows, strict=True)
        return torch.from_numpy(np.stack(tokens)), torch.from_numpy(np.stack(targets))  # (B, T)

    def window(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens and targets of a window, (T,) each."""
        block = self.shards.read(number * self.seq_len, self.seq_len + 1)
        return block[:-1], block[1:]

    def windows(self, step: int) -> np.ndarray:
        """Return the window that each slot of the step reads, (global_batch_size,)."""
        known, order = self._order
        if known == step:
            return order

        size = self.plan.global_batch_size
        samples = step * size + np.arange(size)
        epochs, places = np.divmod(samples, self.n_windows)

        # A step may lie across the end of an epoch.
        windows = np.empty_like(places)
        for epoch in np.unique(epochs):
            inside = epochs == epoch
            permutation = Permutation(self.n_windows, f"{self.seed} {epoch}")
            windows[inside] = permutation(places[inside])

        self._order = step, windows
        return windows

    def n_targets(self, step: int) -> int:
        """Return the number of targets of the step, over all micro-steps and ranks."""
        return self.plan.global_batch_size * self.seq_len

    def order_hash(self, previous: str, step: int) -> str:
        """Return a hash of the windows of all steps up to this one.

        Args:
            previous: the hash after the step before; "" before the first.
        """
        windows = self.windows(step).astype("<i8").tobytes()
        return hashlib.sha256(previous.encode() + windows).hexdigest()

    def fingerprints(self) -> dict[str, str]:
        """Return the hashes of the tokens and of the tokenizer, by their names in a manifest."""
        return {
            "data_sha256": self.shards.fingerprint(),
            "tokenizer_sha256": self.shards.tokenizer.sha256,
        }

    def describe(self) -> str:
        """Return how the windows were made, for a person."""
        return f"{self.n_windows:,} windows of the concatenated stream"


def too_few_tokens(name: str, n_tokens: int, seq_len: int) -> str:
    """Return what to say of a split that is shorter than one window."""
    return (
        f"{name} has {n_tokens} tokens, fewer than one window of model.seq_len + 1 = "
        f"{seq_len + 1}: prepare more text, or use a smaller model.seq_len"
    )
