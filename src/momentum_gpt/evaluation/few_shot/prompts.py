"""What stands before a query: as many demonstrations as fit the context.

A prompt is the end of a document, then each demonstration (prompt, answer) and a separator, then
the query's prompt. Tokens are made part by part, so that no token spans the query and its answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from momentum_gpt.core.config import IclConfig
from momentum_gpt.data import Tokenizer
from momentum_gpt.evaluation.few_shot.queries import Queries, choose_queries
from momentum_gpt.evaluation.few_shot.tasks import (
    Example,
    IclTask,
    draw_demonstrations,
    flipped,
    load_examples,
    load_task,
)


class Setting(NamedTuple):
    """One way to ask all queries."""

    k: int
    """Demonstrations."""
    k_asked: int
    """Demonstrations that were asked for."""
    seed: int
    """Draw of the demonstrations."""


@dataclass
class Prompts:
    """A task made ready for a model: its queries, and the demonstrations that fit before them."""

    task: IclTask
    train: list[Example]
    """Examples that demonstrations are drawn from."""
    queries: Queries
    tokenizer: Tokenizer
    config: IclConfig
    seq_len: int
    """The model's context, tokens."""

    @cached_property
    def settings(self) -> list[Setting]:
        """Each number of demonstrations that fits, with each seed; k = 0 has only one."""
        found = []
        for k, k_asked in self._numbers():
            for seed in range(self.config.seeds if k else 1):
                found.append(Setting(k, k_asked, seed))
        return found

    def prefix(self, setting: Setting, flip: bool = False) -> list[int]:
        """Return the tokens before a query: the end of a document, and the demonstrations.

        Args:
            setting: how many demonstrations, and which.
            flip: show each with a wrong answer.
        """
        tokens = [self.tokenizer.eos_id]
        for example in self._drawn(setting.k, setting.seed):
            tokens += self._shown(flipped(example) if flip else example)
        return tokens

    def _numbers(self) -> list[tuple[int, int]]:
        """Return pairs (k that fits for every seed, the k that was asked for), each k once."""
        # The end-of-document token stands before the demonstrations.
        room = self.seq_len - self.queries.longest - 1
        most = []
        for seed in range(self.config.seeds):
            ends = np.cumsum(self._sizes(seed))
            most.append(int(np.searchsorted(ends, room, side="right")))

        # Several numbers that do not fit become the same k; the smallest of them is recorded.
        found: dict[int, int] = {}
        for k_asked in sorted(self.config.k):
            found.setdefault(min(k_asked, *most), k_asked)
        return list(found.items())

    def _sizes(self, seed: int) -> list[int]:
        """Return the tokens of each demonstration; of right and wrong answers the longer counts."""
        sizes = []
        for example in self._drawn(max(self.config.k), seed):
            size = len(self._shown(example))
            if self.config.flipped:
                size = max(size, len(self._shown(flipped(example))))
            sizes.append(size)
        return sizes

    def _drawn(self, k: int, seed: int) -> list[Example]:
        return draw_demonstrations(self.train, k, self.task.name, seed)

    def _shown(self, example: Example) -> list[int]:
        """Return the tokens of a demonstration and the separator after it."""
        prompt = self.tokenizer.encode(example.prompt)
        answer = self.tokenizer.encode(example.candidates[example.gold])
        return prompt + answer + self._separator

    @cached_property
    def _separator(self) -> list[int]:
        if self.config.separator == "eos":
            return [self.tokenizer.eos_id]
        return self.tokenizer.encode(self.config.separator)


def prepare_task(name: str, tokenizer: Tokenizer, config: IclConfig, seq_len: int) -> Prompts:
    """Load a task and return its prompts for a model with a context of seq_len tokens.

    Raises:
        UserError: the task cannot be loaded, or none of its queries fits the context.
    """
    task = load_task(name)
    train, test = load_examples(task, config.data)
    queries = choose_queries(task, test, tokenizer, config, seq_len)
    return Prompts(task, train, queries, tokenizer, config, seq_len)
