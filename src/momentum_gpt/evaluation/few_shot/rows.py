"""The language of task files: what a task says, and the example that it reads from a row.

There are four kinds of tasks, by how a query is answered:

    verbalizers     one of a few texts, the same for all rows
    candidates      one of the row's own texts; with a `continuation`, the candidate fills a gap,
                    and what is scored is the text after it
    continuation    a single text, which the model has to foresee
    answers         whatever the model writes, compared with the row's answers
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from momentum_gpt.evaluation.few_shot.templates import (
    check_template,
    filled,
    filtered,
    names_in,
    render,
    text_of,
    texts_of,
    value_of,
)

SCORES = {
    "choose": ("per_token", "sum", "per_char", "per_byte", "pmi"),
    "gap": ("sum",),
    "foresee": ("greedy",),
    "write": ("exact", "contains"),
}
"""What the accuracy of a task may count, by its way of asking; the first is what it counts if the
task does not say."""


class Example(NamedTuple):
    """A query, or a demonstration."""

    prompt: str
    candidates: tuple[str, ...]
    """The possible answers, each with the space before it: it follows the prompt immediately."""
    gold: tuple[int, ...]
    """Numbers of the right candidates; as a demonstration the first is shown."""
    continuation: str = ""
    """What is scored after the prompt and a candidate. "": the candidate itself is scored."""
    number: int = 0
    """Number of the row in its split, from 0."""
    fields: tuple[str, ...] = ()
    """The fields of the row that the template uses, in their order, as they stand in the row."""
    group: str = ""
    """What the row has in the field `by` of the task."""

    @property
    def asks(self) -> str:
        """All of the query but its candidates."""
        return self.prompt + self.continuation

    @property
    def rows(self) -> list[tuple[str, tuple[str, ...]]]:
        """Texts to read, and the texts that are scored after each, in the candidates' order."""
        if not self.continuation:
            return [(self.prompt, self.candidates)]
        return [(self.prompt + text, (self.continuation,)) for text in self.candidates]

    @property
    def shown(self) -> tuple[str, str]:
        """The two parts of a demonstration: what is read, and what follows it."""
        text = self.candidates[self.gold[0]]
        if self.continuation:
            return self.prompt + text, self.continuation
        return self.prompt, text


@dataclass(eq=False)
class IclTask:
    """A few-shot task."""

    dataset: str
    """Name of the data set on the hub, a local .jsonl file, or a folder with SPLIT.jsonl files."""
    test_split: str
    """Split that queries are drawn from."""
    template: str
    """The prompt; {field} is replaced by the row's field, see `templates.py`."""
    config: str | None = None
    """Configuration of the hub's data set. null: its default."""
    revision: str | None = None
    """Revision of the hub's data set. null: the newest."""
    train_split: str | None = "train"
    """Split that demonstrations are drawn from. null: there is none, and k is 0."""
    folder: str | None = None
    """Folder of the task in a local collection of tasks. null: the task's own name."""
    description: str = ""
    """Text before the demonstrations; it may have the field `by`."""
    clean: str = ""
    """Filters for the whole prompt."""
    replace: dict[str, dict[str, str]] = field(default_factory=dict)
    """Texts that stand for the values of a field: {field: {value: text}}."""
    by: str | None = None
    """Field that divides the task, such as its subjects.

    Demonstrations are of the query's own part, and each part's accuracy is recorded.
    """
    verbalizers: list[str] = field(default_factory=list)
    """Answers that all rows have in common."""
    candidates: list[str] = field(default_factory=list)
    """Fields with the row's own answers, one or a list in each."""
    candidate: str = " {}"
    """How a text of `candidates` or `answers` follows the prompt; {} is replaced by it."""
    continuation: str | None = None
    """Template of what follows. Alone, it is scored itself; with `candidates`, after each."""
    answers: list[str] = field(default_factory=list)
    """Fields with the right answers, one or a list in each; the model writes its own."""
    label: str = "label"
    """Field with the right candidate, or a list of all right ones.

    It holds a number from 0, a letter from A, or a name of `labels`. Rows where it is negative or
    empty are left out, and counted.
    """
    labels: Any = None
    """Names of the candidates in `label`: a list, or the row's field that has it. null: none."""
    score: str | None = None
    """What counts as the accuracy.

    per_token | sum | per_char | per_byte | pmi; for answers that the model writes, exact |
    contains. null: the first of them.
    """
    stop: list[str] = field(default_factory=lambda: ["\n"])
    """Texts that end an answer that the model writes."""
    max_new_tokens: int = 32
    """Tokens of such an answer, at most."""
    name: str = ""
    """Name of the task: that of its file."""

    @property
    def asking(self) -> str:
        """How a query is asked: choose | gap | foresee | write."""
        if self.answers:
            return "write"
        if self.continuation is None:
            return "choose"
        return "gap" if self.candidates else "foresee"

    @property
    def headline(self) -> str:
        """The score that counts as the accuracy."""
        return self.score or SCORES[self.asking][0]

    def check(self) -> None:
        """Raise a ValueError if the options do not go together."""
        kinds = [self.verbalizers, self.candidates, self.answers]
        n_kinds = sum(map(bool, kinds))
        alone = self.continuation is not None and not self.candidates
        if n_kinds + alone != 1:
            raise ValueError("it must have one of verbalizers, candidates, answers, continuation")

        for text in (self.template, self.description, self.candidate, self.continuation or ""):
            check_template(text)
        check_template(f"{{:{self.clean}}}")

        known = SCORES[self.asking]
        if self.headline not in known:
            raise ValueError(f"score {self.score!r} is none of {', '.join(known)}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens {self.max_new_tokens} must be at least 1")


def read_row(row: dict[str, Any], number: int, task: IclTask) -> Example | None:
    """Return the example of a row; None of a row without a label.

    Args:
        row: fields by name.
        number: the row's number in its split.
        task: what the example is read by.

    Raises:
        ValueError: the row does not fit the task.
    """

    def find(name: str) -> str:
        text = text_of(row, name)
        texts = task.replace.get(name, {text: text})
        if text not in texts:
            raise ValueError(f"its {name} is {text!r}, none of {', '.join(texts)}")
        return texts[text]

    candidates = _candidates(row, task, find)
    is_choice = task.asking in ("choose", "gap")
    gold = _gold(row, task, len(candidates)) if is_choice else tuple(range(len(candidates)))
    if gold is None:
        return None

    prompt = filtered(render(task.template, find), task.clean)
    if not prompt or not all(candidates):
        raise ValueError("its prompt or a candidate is empty")
    return Example(
        prompt=prompt,
        candidates=candidates,
        gold=gold,
        continuation=render(task.continuation or "", find) if task.asking == "gap" else "",
        number=number,
        fields=tuple(text_of(row, name) for name in names_in(task.template)),
        group=find(task.by) if task.by else "",
    )


def _candidates(row: dict[str, Any], task: IclTask, find: Callable[[str], str]) -> tuple[str, ...]:
    if task.verbalizers:
        return tuple(task.verbalizers)
    if task.asking == "foresee":
        assert task.continuation is not None
        return (render(task.continuation, find),)

    texts: list[str] = []
    for name in task.candidates or task.answers:
        texts += texts_of(row, name)
    if not texts:
        raise ValueError(f"its fields {', '.join(task.candidates or task.answers)} are empty")
    return tuple(filled(task.candidate, text) for text in texts)


def _gold(row: dict[str, Any], task: IclTask, n: int) -> tuple[int, ...] | None:
    """Return the numbers of the right ones of n candidates; None where the row has no label."""
    given = value_of(row, task.label)
    labels = given if isinstance(given, list) else [given]
    if not labels or labels[0] == "" or is_negative(labels[0]):
        return None

    names = value_of(row, task.labels) if isinstance(task.labels, str) else task.labels
    gold = tuple(number_of(label, names) for label in labels)
    if not all(0 <= one < n for one in gold):
        raise ValueError(f"its {task.label} is {given!r}, but it has {n} candidates")
    if len(set(gold)) == n:
        raise ValueError(f"its {task.label} is {given!r}: none of {n} candidates is wrong")
    return gold


def is_negative(label: Any) -> bool:
    """Return whether a label is a number below 0, which stands for no label."""
    return isinstance(label, int) and label < 0


def number_of(label: Any, names: Sequence[Any] | None) -> int:
    """Return the number of the candidate that a label stands for.

    Args:
        label: a name, a number from 0 or a letter from A.
        names: the candidates' names, where they have some.

    Raises:
        ValueError: it stands for none.
    """
    text = str(label).strip()
    if names is not None:
        known = [str(name).strip() for name in names]
        if text not in known:
            raise ValueError(f"label {label!r} is none of {', '.join(known)}")
        return known.index(text)

    if isinstance(label, int):  # true and false, too
        return int(label)
    if text.isdecimal():
        return int(text)
    if len(text) == 1 and text.isascii() and text.isalpha():
        return ord(text.upper()) - ord("A")
    raise ValueError(f"label {label!r} is no number and no letter: name the labels in `labels`")
