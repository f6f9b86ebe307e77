"""What stands before a query: as many demonstrations as fit the context.

A prompt is the end of a document, the task's description, then each demonstration (prompt, answer)
and a separator, then the query's prompt. Tokens are made part by part, so that no token spans the
query and its answer.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from momentum_gpt.core.config import IclConfig
from momentum_gpt.data import Tokenizer
from momentum_gpt.evaluation.few_shot.notes import notes_on
from momentum_gpt.evaluation.few_shot.queries import Queries, choose_queries
from momentum_gpt.evaluation.few_shot.rows import Example, IclTask
from momentum_gpt.evaluation.few_shot.tasks import (
    Examples,
    description_of,
    draw_demonstrations,
    flipped,
    load_task,
    read_examples,
)


class Setting(NamedTuple):
    """One way to ask all queries."""

    k: int
    """Demonstrations."""
    asked: tuple[int, ...]
    """The numbers of demonstrations that were asked for; several, if only k of each fit."""
    seed: int
    """Draw of the demonstrations."""


@dataclass
class Prompts:
    """A task made ready for a model: its queries, and the demonstrations that fit before them."""

    task: IclTask
    examples: Examples
    """What demonstrations are drawn from, and what was left out."""
    queries: Queries
    tokenizer: Tokenizer
    config: IclConfig
    seq_len: int
    """The model's context, tokens."""

    @cached_property
    def settings(self) -> list[Setting]:
        """Each number of demonstrations that fits, with each seed; k = 0 has only one."""
        # Several numbers that do not fit are the same k: it is measured once.
        asked: dict[int, list[int]] = defaultdict(list)
        for k_asked in sorted(set(self.config.k)):
            asked[min(k_asked, self.most)].append(k_asked)

        found = []
        for k, numbers in asked.items():
            for seed in range(self.config.seeds if k else 1):
                found.append(Setting(k, tuple(numbers), seed))
        return found

    @cached_property
    def most(self) -> int:
        """The demonstrations that fit before each query, whatever the seed, and exist."""
        numbers = []
        for group in self.queries.groups:
            room = self.seq_len - self.queries.longest(group) - len(self.beginning(group))
            for seed in range(self.config.seeds):
                ends = np.cumsum(self._sizes(group, seed))
                numbers.append(int(np.searchsorted(ends, room, side="right")))
        return min(numbers)

    @property
    def can_flip(self) -> bool:
        """Whether to measure with wrong answers: it was asked for, and the task has some."""
        return self.config.flipped and self.task.asking in ("choose", "gap")

    def rounds(self, setting: Setting) -> int:
        """Return how often the queries are asked; without demonstrations no answer is wrong."""
        return 2 if self.can_flip and setting.k else 1

    def prefix(self, setting: Setting, group: str = "", flip: bool = False) -> list[int]:
        """Return the tokens before a query: the end of a document, and the demonstrations.

        Args:
            setting: how many demonstrations, and which.
            group: the part of the task that the query belongs to.
            flip: show each with a wrong answer.
        """
        tokens = self.beginning(group)
        for example in self.demonstrations(setting, group):
            tokens += self._shown(flipped(example) if flip else example)
        return tokens

    def demonstrations(self, setting: Setting, group: str) -> list[Example]:
        """Return the examples that are shown before the queries of a part of the task."""
        return self._drawn(setting.k, group, setting.seed)

    def all_demonstrations(self, setting: Setting) -> list[Example]:
        """Return the examples that are shown, part by part of the task."""
        found = []
        for group in self.queries.groups:
            found += self.demonstrations(setting, group)
        return found

    def prefix_tokens(self, setting: Setting) -> int:
        """Return the tokens of all prefixes, those with wrong answers included."""
        total = 0
        for group in self.queries.groups:
            total += len(self.prefix(setting, group))
            if self.rounds(setting) == 2:
                total += len(self.prefix(setting, group, flip=True))
        return total

    @property
    def notes(self) -> list[str]:
        """What is less than what was asked for, in sentences."""
        pairs = []
        for setting in self.settings:
            pairs += [(setting.k, k_asked) for k_asked in setting.asked]
        return notes_on(self.task.name, pairs, self.queries.left_out, self.examples.left_out)

    def content_sha256(self, setting: Setting) -> str:
        """Return a hash of all that the model is asked, and of what counts as right."""
        asked = [query.example for query in self.queries.asked]
        content: dict[str, Any] = {
            "template": self.task.template,
            "description": self.task.description,
            "separator": self.config.separator,
            "queries": [(example.rows, example.gold, example.group) for example in asked],
            "demonstrations": [example.shown for example in self.all_demonstrations(setting)],
        }
        if self.task.asking == "write":
            content["stop"] = [*self.task.stop, self.task.max_new_tokens]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def beginning(self, group: str = "") -> list[int]:
        """Return the tokens before the demonstrations: a document's end, and the description."""
        description = self.tokenizer.encode(description_of(self.task, group))
        return [self.tokenizer.eos_id, *description]

    def _sizes(self, group: str, seed: int) -> list[int]:
        """Return the tokens of each demonstration; of right and wrong answers the longer counts."""
        sizes = []
        for example in self._drawn(max(self.config.k), group, seed):
            size = len(self._shown(example))
            if self.can_flip:
                size = max(size, len(self._shown(flipped(example))))
            sizes.append(size)
        return sizes

    def _drawn(self, n: int, group: str, seed: int) -> list[Example]:
        name = f"{self.task.name} {group}" if group else self.task.name
        return draw_demonstrations(self._train.get(group, []), n, name, seed)

    @cached_property
    def _train(self) -> dict[str, list[Example]]:
        """What each part of the task draws from."""
        found: dict[str, list[Example]] = defaultdict(list)
        for example in self.examples.train:
            found[example.group].append(example)
        return found

    def _shown(self, example: Example) -> list[int]:
        """Return the tokens of a demonstration and the separator after it."""
        prompt, answer = map(self.tokenizer.encode, example.shown)
        return prompt + answer + self.separator

    @cached_property
    def separator(self) -> list[int]:
        """The tokens after each demonstration."""
        if self.config.separator == "eos":
            return [self.tokenizer.eos_id]
        return self.tokenizer.encode(self.config.separator)


def prepare_task(name: str, tokenizer: Tokenizer, config: IclConfig, seq_len: int) -> Prompts:
    """Load a task and return its prompts for a model with a context of seq_len tokens.

    Raises:
        UserError: the task cannot be loaded, or none of its queries fits the context.
    """
    task = load_task(name)
    examples = read_examples(task, config.data)
    queries = choose_queries(task, examples.test, tokenizer, config, seq_len)
    return Prompts(task, examples, queries, tokenizer, config, seq_len)
