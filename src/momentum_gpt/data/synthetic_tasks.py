"""Synthetic tasks: sequences drawn from a seed, without files. Only the context tells the answers.

recall: multi-query associative recall (Arora et al., "Zoology", arXiv 2312.04927). Key-value pairs,
all different, are followed by pairs drawn from among them up to the end of the sequence. From the
second showing of a key on, the model must name its value, in brackets here:

    k3 v7 k1 v2 k9 v4 ... k9 [v4] k3 [v7] k9 [v4] k1 [v2] ...

In the paper each key is asked for once, with blanks between; here no place is wasted, so that a
laptop learns the task in minutes.

induction: a random sequence is shown twice; the second showing must be predicted from its second
token on.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from momentum_gpt.core.batch_plan import BatchPlan
from momentum_gpt.core.config import TaskConfig
from momentum_gpt.core.errors import UserError

NO_TARGET = -100
"""A target that the loss leaves out."""

BLANK = 0
"""The token that fills up a sequence."""

HELD_OUT = 20231208
"""Seed of the held-out sequences: fixed, so that every model is measured on the same ones."""


class SyntheticTask:
    """`draw(seed, number, n)` returns tokens and targets, (n, T) each, int64: a pure function.

    Raises:
        UserError: the sequences are too short for the task.
    """

    def __init__(self, config: TaskConfig, seq_len: int) -> None:
        self.config = config
        self.seq_len = seq_len
        if config.kind == "recall":
            needs, what = 2 * config.n_pairs + 2, f"task.n_pairs={config.n_pairs} pairs and a query"
        else:
            needs, what = 4, "a sequence and its copy"
        if seq_len < needs:
            raise UserError(f"model.seq_len={seq_len} does not hold {what}: use at least {needs}")

    @property
    def vocab_size(self) -> int:
        """Number of tokens: a blank, the keys and the values."""
        return 1 + self.config.n_keys + self.config.n_values

    @property
    def n_answers(self) -> int:
        """Number of targets of each sequence."""
        given = self.config.n_pairs if self.config.kind == "recall" else 1
        return self.seq_len // 2 - given

    def fingerprint(self) -> str:
        """Return a hash of everything that the sequences depend on, apart from the seed."""
        options = sorted(asdict(self.config).items())
        return hashlib.sha256(f"{options} {self.seq_len}".encode()).hexdigest()

    def draw(self, seed: int, number: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens and targets, (n, T) each, of the batch with that number."""
        generator = np.random.default_rng([seed, number])
        if self.config.kind == "recall":
            return self._recall(generator, n)
        return self._induction(generator, n)

    def held_out(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens and targets, (1, T) each, of a sequence that no run trains on."""
        return self.draw(HELD_OUT, 2**40 + number, 1)

    def _recall(self, generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        pairs = self.config.n_pairs
        queries = self.seq_len // 2 - pairs
        keys = 1 + _distinct(generator, n, self.config.n_keys, pairs)  # (n, pairs)
        values = 1 + self.config.n_keys + _distinct(generator, n, self.config.n_values, pairs)

        # Every pair once, then pairs drawn at random: (n, pairs + queries).
        once = np.tile(np.arange(pairs), (n, 1))
        order = np.concatenate([once, generator.integers(0, pairs, (n, queries))], axis=1)

        end = 2 * (pairs + queries)
        tokens = np.full((n, self.seq_len), BLANK)
        tokens[:, 0:end:2] = np.take_along_axis(keys, order, axis=1)
        tokens[:, 1:end:2] = np.take_along_axis(values, order, axis=1)

        # A value is asked for at the place of its key.
        targets = np.full((n, self.seq_len), NO_TARGET)
        targets[:, 2 * pairs : end : 2] = tokens[:, 2 * pairs + 1 : end : 2]
        return tokens, targets

    def _induction(self, generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        half = self.seq_len // 2
        once = generator.integers(1, self.vocab_size, (n, half))
        tokens = np.full((n, self.seq_len), BLANK)
        tokens[:, :half] = once
        tokens[:, half : 2 * half] = once
        targets = np.full((n, self.seq_len), NO_TARGET)
        targets[:, half : 2 * half - 1] = once[:, 1:]
        return tokens, targets


def _distinct(generator: np.random.Generator, n: int, size: int, count: int) -> np.ndarray:
    """Return n rows of `count` different numbers below `size`, (n, count)."""
    return generator.random((n, size)).argsort(axis=1)[:, :count]


class SyntheticBatches:
    """`batches(step, micro_step, rank)` returns tokens and targets, (B, T) each, of a task."""

    def __init__(self, task: SyntheticTask, seed: int, plan: BatchPlan) -> None:
        self.task = task
        self.seed = seed
        self.plan = plan

    def __call__(self, step: int, micro_step: int, rank: int) -> tuple[Tensor, Tensor]:
        tokens, targets = self.task.draw(self.seed, step, self.plan.global_batch_size)
        size = self.plan.micro_batch_size
        first = (micro_step * self.plan.world_size + rank) * size
        rows = slice(first, first + size)
        return torch.from_numpy(tokens[rows]), torch.from_numpy(targets[rows])

    def n_targets(self, step: int) -> int:
        """Return the number of targets of the step, over all micro-steps and ranks."""
        return self.plan.global_batch_size * self.task.n_answers

    def order_hash(self, previous: str, step: int) -> str:
        """Return a hash of what all steps up to this one drew; see `Batches.order_hash`."""
        return hashlib.sha256(f"{previous} {self.seed} {step}".encode()).hexdigest()

    def fingerprints(self) -> dict[str, str]:
        """Return the task's hash under the names that a manifest has for tokens and tokenizer."""
        fingerprint = self.task.fingerprint()
        return {"data_sha256": fingerprint, "tokenizer_sha256": fingerprint}
