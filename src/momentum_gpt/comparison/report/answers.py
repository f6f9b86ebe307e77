"""What models have written, side by side: the answers to the same few-shot queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from momentum_gpt.comparison.runs import Run
from momentum_gpt.evaluation.records import FewShotRecord, read_few_shot

SHOWN = 5
"""Queries of each task, at most."""

Asked = tuple[str, int, int, str]
"""Task, demonstrations, draw, hash of the prompts: what was the same for all models."""


@dataclass(frozen=True)
class Written:
    """The answers of some runs to one query."""

    task: str
    k: int
    """Demonstrations in the prompt."""
    query: int
    """Number of the query's row in the test split."""
    answers: list[tuple[str, bool]]
    """The answer of each run, and whether it is right."""


def written_answers(runs: Sequence[Run]) -> list[Written]:
    """Return answers to the queries that all runs were asked alike, with the most demonstrations.

    The list is empty if a run's folder has none: only tasks whose answers are written have them.
    """
    if not runs:
        return []
    by_run = [_newest(run) for run in runs]
    common = [asked for asked in by_run[0] if all(asked in of_run for of_run in by_run)]
    longest: dict[str, Asked] = {}
    for asked in common:
        task, k, _, _ = asked
        if task not in longest or k > longest[task][1]:
            longest[task] = asked

    found = []
    for task, asked in longest.items():
        records = [of_run[asked] for of_run in by_run]
        for place, query in enumerate(records[0].queries[:SHOWN]):
            answers = [_answer(record, place) for record in records]
            found.append(Written(task, asked[1], query, answers))
    return found


def _answer(record: FewShotRecord, place: int) -> tuple[str, bool]:
    assert record.written is not None
    return record.written[place], bool(record.right[place])


def _newest(run: Run) -> dict[Asked, FewShotRecord]:
    """Return the records with written answers, by what was asked; of a query, the last one."""
    found = {}
    for _, record in read_few_shot(run.folder):
        if record.written:
            asked = (record.task, record.k, record.seed, record.content_sha256)
            found[asked] = record
    return found
