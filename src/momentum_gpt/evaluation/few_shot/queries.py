"""The queries of a few-shot task, encoded: the same for every number of demonstrations and seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from momentum_gpt.core.config import IclConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import Tokenizer
from momentum_gpt.evaluation.few_shot.shared_prefix import Request, requests_of
from momentum_gpt.evaluation.few_shot.tasks import Example, IclTask, neutral_prompts

QUERIES = 2000
"""Queries of a task, where nothing says how many; as in Dai et al.'s code."""


@dataclass
class Queries:
    """Queries that fit the context; entry i of each list belongs to query i."""

    task: IclTask
    numbers: list[int] = field(default_factory=list)
    """The query's number among the examples of the test split."""
    examples: list[Example] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    """Tokens of the query's prompt."""
    candidates: list[list[list[int]]] = field(default_factory=list)
    """Tokens of each candidate answer."""
    neutral: list[list[int]] = field(default_factory=list)
    """Tokens of prompts without content; not by query."""
    left_out: int = 0
    """Queries that do not fit the context."""

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt, with or without content, and its longest candidate."""
        prompts = [*self.prompts, *self.neutral]
        candidates = self.candidates + self.candidates[:1] * len(self.neutral)

        most = 0
        for prompt, answers in zip(prompts, candidates, strict=True):
            most = max(most, len(prompt) + max(map(len, answers)))
        return most

    @cached_property
    def requests(self) -> list[Request]:
        """A request for each query."""
        return requests_of(self.prompts, self.candidates)

    @cached_property
    def calibrated_requests(self) -> list[Request]:
        """A request for each query, then one for each prompt without content.

        The latter have the candidates of the first query. There are none where each query has
        candidates of its own, as these have no bias in common.
        """
        neutral = self.neutral if self.task.verbalizers else []
        candidates = self.candidates + self.candidates[:1] * len(neutral)
        return requests_of([*self.prompts, *neutral], candidates)

    @cached_property
    def contentless(self) -> list[Request]:
        """The candidates after a prompt without content: once, where all queries have the same."""
        candidates = self.candidates[:1] if self.task.verbalizers else self.candidates
        return requests_of(self.neutral[:1] * len(candidates), candidates)

    @property
    def gold(self) -> np.ndarray:
        """The right candidate of each query, (queries,)."""
        return np.array([example.gold for example in self.examples])


def choose_queries(
    task: IclTask, test: list[Example], tokenizer: Tokenizer, config: IclConfig, seq_len: int
) -> Queries:
    """Return queries drawn from the test split, in its order, that fit the context alone.

    Raises:
        UserError: none fits.
    """
    generator = np.random.default_rng(config.queries_seed)
    drawn = generator.permutation(len(test))[: config.queries or QUERIES]

    queries = Queries(task)
    for text in neutral_prompts(task):
        # A template of fields alone leaves nothing of an empty text, and a row needs a token.
        if ids := tokenizer.encode(text):
            queries.neutral.append(ids)

    for number in sorted(drawn.tolist()):
        prompt = tokenizer.encode(test[number].prompt)
        candidates = [tokenizer.encode(text) for text in test[number].candidates]
        # The end-of-document token stands before the prompt.
        if 1 + len(prompt) + max(map(len, candidates)) > seq_len:
            queries.left_out += 1
            continue
        queries.numbers.append(number)
        queries.examples.append(test[number])
        queries.prompts.append(prompt)
        queries.candidates.append(candidates)

    if not queries.numbers:
        raise UserError(
            f"task {task.name}: none of {len(drawn)} queries fits the model's context of "
            f"{seq_len} tokens: take a model with a longer context, or another task"
        )
    return queries
