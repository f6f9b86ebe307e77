"""The queries of a few-shot task, encoded: the same for every number of demonstrations and seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from momentum_gpt.core.config import IclConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import Tokenizer
from momentum_gpt.evaluation.few_shot.greedy import Opening
from momentum_gpt.evaluation.few_shot.rows import Example, IclTask
from momentum_gpt.evaluation.few_shot.shared_prefix import Request, Row, requests_of
from momentum_gpt.evaluation.few_shot.tasks import description_of, neutral_prompts

QUERIES = 2000
"""Queries of a task, where nothing says how many; as in Dai et al.'s code."""


class Query(NamedTuple):
    """An example to ask, and its tokens."""

    example: Example
    rows: list[Row]

    @property
    def scored(self) -> list[list[int]]:
        """Tokens that are scored, candidate by candidate."""
        found = []
        for _, answers in self.rows:
            found += answers
        return found


@dataclass
class Queries:
    """Queries that fit the context."""

    task: IclTask
    asked: list[Query] = field(default_factory=list)
    neutral: list[list[int]] = field(default_factory=list)
    """Tokens of prompts without content."""
    left_out: int = 0
    """Queries that do not fit the context."""

    @property
    def numbers(self) -> list[int]:
        """The number of each query's row in the test split."""
        return [query.example.number for query in self.asked]

    @cached_property
    def groups(self) -> dict[str, list[int]]:
        """The places of each part's queries; a task without parts is one part, with the name ""."""
        places: dict[str, list[int]] = {}
        for place, query in enumerate(self.asked):
            places.setdefault(query.example.group, []).append(place)
        return dict(sorted(places.items()))

    def longest(self, group: str) -> int:
        """Return the most tokens that a prompt of the group, or one without content, may need."""
        rows = self.rows(group)
        candidates = self.asked[self.groups[group][0]].scored
        rows += [(prompt, candidates) for prompt in self.neutral]
        return max(size_of(row, self.task) for row in rows)

    def requests(self, group: str) -> list[Request]:
        """Return what is scored of a group; places count the candidates, query by query."""
        return requests_of(self.rows(group))

    def openings(self, group: str) -> list[Opening]:
        """Return the prompts of a group that the model continues."""
        room = self.task.max_new_tokens
        rows = enumerate(self.rows(group))
        return [Opening(prompt, room, place) for place, (prompt, _) in rows]

    @property
    def calibration(self) -> list[Row]:
        """The candidates after each prompt without content.

        There are none where each query has candidates of its own, as these have no bias in common.
        """
        if not self.task.verbalizers:
            return []
        return [(prompt, self.asked[0].scored) for prompt in self.neutral]

    @property
    def contentless(self) -> list[Request]:
        """The candidates after a prompt without content: once, where all queries have the same."""
        if not self.neutral:
            return []
        queries = self.asked[:1] if self.task.verbalizers else self.asked
        return requests_of([(self.neutral[0], query.scored) for query in queries])

    @property
    def n_tokens(self) -> int:
        """Tokens that it takes to go through all queries once, their prefixes aside."""
        total = 0
        for group in self.groups:
            is_written = self.task.asking == "write"
            parts = self.openings(group) if is_written else self.requests(group)
            total += sum(part.n_tokens for part in parts)
        return total

    def rows(self, group: str) -> list[Row]:
        """Return what is read and scored of a group, query by query."""
        rows: list[Row] = []
        for place in self.groups[group]:
            rows += self.asked[place].rows
        return rows


def size_of(row: Row, task: IclTask) -> int:
    """Return the most tokens that a row may need, with what is scored or written after it."""
    prompt, answers = row
    following = task.max_new_tokens if task.asking == "write" else max(map(len, answers))
    return len(prompt) + following


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
    if task.asking == "choose":
        for text in neutral_prompts(task):
            # A template of fields alone leaves nothing of an empty text, and a row needs a token.
            if ids := tokenizer.encode(text):
                queries.neutral.append(ids)

    for place in sorted(drawn.tolist()):
        query = encode_query(test[place], tokenizer)
        description = tokenizer.encode(description_of(task, query.example.group))
        # The end-of-document token stands before the prompt.
        room = seq_len - 1 - len(description)
        if max(size_of(row, task) for row in query.rows) > room:
            queries.left_out += 1
        else:
            queries.asked.append(query)

    if not queries.asked:
        raise UserError(
            f"task {task.name}: none of {len(drawn)} queries fits the model's context of "
            f"{seq_len} tokens: take a model with a longer context, or another task"
        )
    return queries


def encode_query(example: Example, tokenizer: Tokenizer) -> Query:
    """Return the example with its tokens, made part by part."""
    rows = []
    for text, scored in example.rows:
        rows.append((tokenizer.encode(text), [tokenizer.encode(answer) for answer in scored]))
    return Query(example, rows)
