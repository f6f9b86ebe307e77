"""Synthetic tasks: sequences drawn from the seed, no files. Only the context can tell the answers.

recall: multi-query associative recall (Arora et al., "Zoology", arXiv 2312.04927). Key-value pairs, all different, then
pairs drawn from among them to the end of the sequence; from the second showing of a key on, the model must name its value:

    k3 v7 k1 v2 k9 v4 ... k9 [v4] k3 [v7] k9 [v4] k1 [v2] ...

There each key is asked for once, with blanks between; here no place is wasted, so that a laptop learns it in minutes.

induction: a random sequence shown twice; the second showing must be foreseen from its second token on.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from momentum_gpt.core.config import BatchPlan, TaskConfig
from momentum_gpt.core.errors import UserError

NO_TARGET = -100
"""What is no answer, in targets: the loss leaves it out."""

BLANK = 0

HELD_OUT = 20231208
"""Seed of the held-out sequences: fixed, so that every model and every step meets the same ones."""


class SyntheticTask:
    """`draw(seed, number, n)` -> tokens, targets, (n, T) each, int64; a pure function.

    Raises:
        UserError: the sequences are too short for the task.
    """

    def __init__(self, config: TaskConfig, seq_len: int) -> None:
        self.config, self.seq_len = config, seq_len
        if config.kind == "recall" and seq_len < 2 * config.n_pairs + 2:
            raise UserError(
                f"model.seq_len={seq_len} does not hold task.n_pairs={config.n_pairs} pairs and a query: take at least "
                f"{2 * config.n_pairs + 2}"
            )
        if config.kind == "induction" and seq_len < 4:
            raise UserError(
                f"model.seq_len={seq_len} does not hold a sequence and its copy: take at least 4"
            )

    @property
    def vocab_size(self) -> int:
        """A blank, the keys, the values."""
        return 1 + self.config.n_keys + self.config.n_values

    def fingerprint(self) -> str:
        return hashlib.sha256(
            f"{sorted(asdict(self.config).items())} {self.seq_len}".encode()
        ).hexdigest()

    def draw(self, seed: int, number: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng([seed, number])
        return (
            self._recall(generator, n)
            if self.config.kind == "recall"
            else self._induction(generator, n)
        )

    def held_out(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets, (1, T) each, of a sequence that no run trains on."""
        return self.draw(HELD_OUT, 2**40 + number, 1)

    def _recall(self, generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        pairs, queries = self.config.n_pairs, self.seq_len // 2 - self.config.n_pairs
        keys = 1 + _distinct(generator, n, self.config.n_keys, pairs)  # (n, pairs)
        values = 1 + self.config.n_keys + _distinct(generator, n, self.config.n_values, pairs)
        order = np.concatenate(
            [np.tile(np.arange(pairs), (n, 1)), generator.integers(0, pairs, (n, queries))], axis=1
        )
        tokens = np.full((n, self.seq_len), BLANK)
        end = 2 * (pairs + queries)
        tokens[:, 0:end:2] = np.take_along_axis(keys, order, axis=1)
        tokens[:, 1:end:2] = np.take_along_axis(values, order, axis=1)
        targets = np.full((n, self.seq_len), NO_TARGET)
        targets[:, 2 * pairs : end : 2] = tokens[:, 2 * pairs + 1 : end : 2]
        return tokens, targets

    def _induction(self, generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        half = self.seq_len // 2
        once = generator.integers(1, self.vocab_size, (n, half))
        tokens = np.full((n, self.seq_len), BLANK)
        tokens[:, :half], tokens[:, half : 2 * half] = once, once
        targets = np.full((n, self.seq_len), NO_TARGET)
        targets[:, half : 2 * half - 1] = once[:, 1:]
        return tokens, targets


def _distinct(generator: np.random.Generator, n: int, size: int, count: int) -> np.ndarray:
    """n rows of `count` different numbers below `size`, (n, count)."""
    return generator.random((n, size)).argsort(axis=1)[:, :count]


class SyntheticBatches:
    """`batches(step, micro_step, rank)` -> tokens, targets, (B, T) each, as `Batches` gives them of a corpus."""

    def __init__(self, task: SyntheticTask, seed: int, plan: BatchPlan) -> None:
        self.task, self.seed, self.plan = task, seed, plan

    def __call__(self, step: int, micro_step: int, rank: int) -> tuple[Tensor, Tensor]:
        tokens, targets = self.task.draw(self.seed, step, self.plan.global_batch_size)
        size = self.plan.micro_batch_size
        first = (micro_step * self.plan.world_size + rank) * size
        return torch.from_numpy(tokens[first : first + size]), torch.from_numpy(
            targets[first : first + size]
        )

    def order_hash(self, previous: str, step: int) -> str:
        """A hash of what all steps up to this one drew, from that of the steps before."""
        return hashlib.sha256(f"{previous} {self.seed} {step}".encode()).hexdigest()
