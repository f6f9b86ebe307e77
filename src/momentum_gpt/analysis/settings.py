"""What a model is shown before the queries of a task, and what is shown instead for comparison.

Queries and demonstrations are those of the few-shot evaluation. The nulls say what a likeness of
in-context learning and finetuning would be if it meant nothing: demonstrations with shuffled or
wrong answers, others (another seed), the same in another order, and a model that was never trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from momentum_gpt.core.errors import UserError
from momentum_gpt.evaluation.few_shot.prompts import Prompts, Setting
from momentum_gpt.evaluation.few_shot.queries import Queries, encode_query, size_of
from momentum_gpt.evaluation.few_shot.rows import Example
from momentum_gpt.evaluation.few_shot.tasks import draw_demonstrations, flipped
from momentum_gpt.models import GPT
from momentum_gpt.models.gpt import init_weights


class Demonstration(NamedTuple):
    """The tokens of a demonstration."""

    prompt: list[int]
    answer: list[int]

    @property
    def tokens(self) -> list[int]:
        return self.prompt + self.answer


@dataclass(frozen=True)
class Demonstrations:
    """What stands before each query of a task; there may be no demonstrations."""

    examples: list[Example]
    """The examples that are demonstrated, in their order."""
    shown: list[Demonstration]
    """Their tokens."""
    beginning: list[int]
    """Tokens before them: the end of a document, and the task's description."""
    separator: list[int]
    """Tokens after each."""

    @property
    def prefix(self) -> list[int]:
        """All tokens before a query."""
        tokens = list(self.beginning)
        for demonstration in self.shown:
            tokens += demonstration.tokens + self.separator
        return tokens

    @property
    def places(self) -> list[int]:
        """The places in `prefix` of the demonstrations' tokens, without the separators."""
        found: list[int] = []
        start = len(self.beginning)
        for demonstration in self.shown:
            end = start + len(demonstration.tokens)
            found += range(start, end)
            start = end + len(self.separator)
        return found

    @property
    def owners(self) -> list[int]:
        """The number of the demonstration that the token at each of `places` belongs to."""
        owners: list[int] = []
        for number, demonstration in enumerate(self.shown):
            owners += [number] * len(demonstration.tokens)
        return owners


def drawn(prompts: Prompts, setting: Setting) -> Demonstrations:
    """Return the demonstrations that the evaluation shows in a setting.

    Args:
        prompts: the task.
        setting: how many, and which draw: one of `prompts.settings`, or another seed.

    Raises:
        UserError: this kind of task cannot be analysed.
    """
    check_task(prompts)
    return demonstrations_of(prompts, prompts.demonstrations(setting, ""))


def none_of(prompts: Prompts) -> Demonstrations:
    """Return what stands before each query without demonstrations."""
    check_task(prompts)
    return demonstrations_of(prompts, [])


def demonstrations_of(prompts: Prompts, examples: Sequence[Example]) -> Demonstrations:
    """Return the demonstrations that show these examples, in their order."""
    shown = []
    for example in examples:
        prompt, answer = map(prompts.tokenizer.encode, example.shown)
        shown.append(Demonstration(prompt, answer))
    return Demonstrations(list(examples), shown, prompts.beginning(), prompts.separator)


def shuffled_answers(prompts: Prompts, shown: Demonstrations, seed: int) -> Demonstrations:
    """Return the demonstrations with their answers in a random order, which tells nothing of them.

    A demonstration may keep its answer by chance, as about half of them do where there are two. At
    least one gets another one, unless all answers are the same.
    """
    generator = np.random.default_rng(seed)
    answers = [example.gold[0] for example in shown.examples]
    shuffled = list(answers)
    while shuffled == answers and len(set(answers)) > 1:
        shuffled = [answers[i] for i in generator.permutation(len(answers))]

    examples = []
    for example, answer in zip(shown.examples, shuffled, strict=True):
        # Where each example has candidates of its own, another one may have had more of them.
        examples.append(example._replace(gold=(answer % len(example.candidates),)))
    return demonstrations_of(prompts, examples)


def wrong_answers(prompts: Prompts, shown: Demonstrations) -> Demonstrations:
    """Return the demonstrations with a wrong answer each: the next one after the right one."""
    return demonstrations_of(prompts, [flipped(example) for example in shown.examples])


def shared_tokens(shown: Demonstrations, other: Demonstrations) -> tuple[list[int], list[int]]:
    """Return which tokens of either stand at the same place of the same demonstration.

    Answers may have more tokens than others, so that those after a shuffled answer are shifted.

    Args:
        shown, other: the same demonstrations with other answers.

    Returns:
        Numbers of the tokens among all of `shown`, and among all of `other`.
    """
    own: list[int] = []
    of_other: list[int] = []
    start = start_of_other = 0
    for first, second in zip(shown.shown, other.shown, strict=True):
        n = min(len(first.tokens), len(second.tokens))
        own += range(start, start + n)
        of_other += range(start_of_other, start_of_other + n)
        start += len(first.tokens)
        start_of_other += len(second.tokens)
    return own, of_other


def in_other_order(prompts: Prompts, shown: Demonstrations, seed: int) -> Demonstrations:
    """Return the same demonstrations in a random order."""
    order = np.random.default_rng(seed).permutation(len(shown.examples))
    return demonstrations_of(prompts, [shown.examples[i] for i in order])


def in_random_order(queries: Queries) -> Queries:
    """Return the queries in a random order, the same one for every model.

    A test split may be sorted by its answers. The first queries are then a sample of all, as in the
    code of Dai et al., which shuffles the split before it takes the first 100.
    """
    order = np.random.default_rng(0).permutation(len(queries.asked))
    return replace(queries, asked=[queries.asked[place] for place in order])


def held_out(prompts: Prompts, setting: Setting, n: int) -> Queries:
    """Return n queries of the training split that are no demonstrations.

    They are the examples that the draw of demonstrations would take next. Fewer are returned if
    there are no more, or if some do not fit the context after the demonstrations.

    Raises:
        UserError: there is none.
    """
    train = prompts.examples.train
    following = draw_demonstrations(train, setting.k + n, prompts.task.name, setting.seed)
    room = prompts.seq_len - len(prompts.prefix(setting))

    queries = Queries(prompts.task)
    for example in following[setting.k :]:
        query = encode_query(example, prompts.tokenizer)
        if size_of(query.rows[0], prompts.task) <= room:
            queries.asked.append(query)
        else:
            queries.left_out += 1
    if not queries.asked:
        raise UserError(
            f"task {prompts.task.name}: no example is left to choose a learning rate on after "
            f"{setting.k} demonstrations of {len(train)} examples: show fewer"
        )
    return queries


def untrained(model: GPT, seed: int) -> GPT:
    """Return a model of the same shape and variant with initial weights drawn from a seed."""
    weight = model.token_embedding.weight
    fresh = GPT(model.config, model.attention, model.document_end)
    init_weights(fresh, seed)
    return fresh.to(weight.device, weight.dtype).eval()


def check_task(prompts: Prompts) -> None:
    """Raise a UserError unless each query has answers to choose from, and one is right.

    All queries must have the same demonstrations.
    """
    task = prompts.task
    remedy = "analyse another task"
    if task.asking != "choose":
        raise UserError(f"task {task.name} has no answers to choose from: {remedy}")
    if task.by is not None:
        raise UserError(f"task {task.name} has parts with demonstrations of their own: {remedy}")
    if task.headline == "pmi":
        raise UserError(f"task {task.name} is scored by pmi, which needs other passes: {remedy}")
    if any(len(query.example.gold) > 1 for query in prompts.queries.asked):
        raise UserError(f"task {task.name} has queries with several right answers: {remedy}")
