"""Few-shot tasks: a YAML file in conf/icl/ each, and a function where fields are not enough.

Examples come from the hub, by name, or from a local folder. Templates and verbalizers are those of
Dai et al. (arXiv 2212.10559, table 8, and their released code where it differs).
"""

from __future__ import annotations

import functools
import hashlib
import json
import string
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import conf_folder, sha256_of_file

TASKS_FOLDER = conf_folder() / "icl"

NEUTRALS = ("N/A", "", "[MASK]")
"""Texts that replace every field in a prompt without content (Zhao et al., "Calibrate Before Use",
2021)."""


class Example(NamedTuple):
    """A query, or a demonstration."""

    prompt: str
    candidates: tuple[str, ...]
    """The possible answers, each with the space before it: it follows the prompt immediately."""
    gold: int
    """Number of the right candidate."""
    fields: tuple[str, ...] = ()
    """The texts of the row's fields that the template has, in its order, as they stand there."""


@dataclass(eq=False)
class IclTask:
    """A few-shot task."""

    dataset: str
    """Name of the data set on the hub, a local .jsonl file, or a folder with SPLIT.jsonl files."""
    test_split: str
    """Split that queries are drawn from."""
    template: str
    """The prompt; {field} is replaced by the row's field."""
    config: str | None = None
    """Configuration of the hub's data set. null: its default."""
    train_split: str = "train"
    """Split that demonstrations are drawn from."""
    folder: str | None = None
    """Folder of the task in a local collection of tasks. null: the task's own name."""
    verbalizers: list[str] = field(default_factory=list)
    """Texts that stand for the labels 0, 1, ...; none: each row has candidates of its own."""
    label: str = "label"
    """Field with the label; rows whose label is below 0 are left out."""
    rows: str | None = None
    """Function of ROWS that reads an example from a row. null: by template and verbalizers."""
    name: str = ""
    """Name of the task: that of its file."""


def arc(row: dict[str, Any], task: IclTask) -> Example | None:
    """Return a question with four answers, whose key is a letter or, in a few, a number."""
    texts = row["choices"]["text"]
    labels = row["choices"]["label"]
    if len(texts) != 4:
        return None

    candidates = tuple(f" {text}" for text in texts)
    gold = labels.index(row["answerKey"])
    return Example(task.template.format(**row), candidates, gold, fields_of(row, task))


def piqa(row: dict[str, Any], task: IclTask) -> Example | None:
    """Return a goal with its two solutions."""
    candidates = (f" {row['sol1']}", f" {row['sol2']}")
    return Example(task.template.format(**row), candidates, row["label"], fields_of(row, task))


def fields_of(row: dict[str, Any], task: IclTask) -> tuple[str, ...]:
    """Return the texts of the fields that the template has, in its order."""
    names = [name for _, name, _, _ in string.Formatter().parse(task.template) if name]
    return tuple(row[name] for name in names)


ROWS: dict[str, Callable[[dict[str, Any], IclTask], Example | None]] = {"arc": arc, "piqa": piqa}
"""Functions that read an example from a row, or None from a row to leave out."""


def task_names() -> list[str]:
    """Return the names of the tasks in conf/icl/."""
    return sorted(path.stem for path in TASKS_FOLDER.glob("*.yaml"))


@functools.cache
def load_task(given: str) -> IclTask:
    """Return the task of conf/icl/GIVEN.yaml, or of a YAML file anywhere.

    Raises:
        UserError: there is no such task, or the file does not define one.
    """
    is_file = given.endswith((".yaml", ".yml"))
    path = Path(given) if is_file else TASKS_FOLDER / f"{given}.yaml"
    if not path.is_file():
        raise UserError(
            f"evaluation.icl.tasks: {given!r} is none of {', '.join(task_names())}, "
            "and no .yaml file with a task"
        )

    schema = OmegaConf.structured(IclTask)
    try:
        task = OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.load(path)))
    except OmegaConfBaseException as error:
        raise UserError(f"{path} is not a task: {str(error).splitlines()[0]}") from None

    assert isinstance(task, IclTask)
    task.name = path.stem
    is_unknown = task.rows is not None and task.rows not in ROWS
    if is_unknown or (task.rows is None) == (not task.verbalizers):
        raise UserError(f"{path} must have verbalizers, or rows as one of {', '.join(ROWS)}")
    return task


@functools.cache
def load_examples(task: IclTask, data: str | None) -> tuple[list[Example], list[Example]]:
    """Return the examples to demonstrate with, and those to ask, which are never demonstrated.

    Args:
        task: the task.
        data: folder with a folder of SPLIT.jsonl files for each task. None: what `task.dataset`
            names.

    Raises:
        UserError: the data set cannot be loaded, or a row does not fit the task.
    """
    train = _examples(task, task.train_split, data)
    test = _examples(task, task.test_split, data)
    # Data sets repeat themselves: a query among the demonstrations would show its own answer.
    asked = {example.prompt for example in test}
    return [example for example in train if example.prompt not in asked], test


def task_fingerprint(task: IclTask, data: str | None) -> str:
    """Return a hash of the task and its examples: of their files, or of the hub's name for them."""
    place = Path(_place(task, data))
    hashes = {}
    for path in [place] if place.is_file() else sorted(place.rglob("*")):
        if path.is_file():
            hashes[str(path.relative_to(place))] = sha256_of_file(path)

    definition = asdict(task)
    # A data set of the hub has no files here, and the task holds its name.
    if hashes:
        definition["dataset"] = hashes
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()


def neutral_prompts(task: IclTask) -> list[str]:
    """Return the template without content, in three ways."""
    parsed = string.Formatter().parse(task.template)
    names = {name for _, name, _, _ in parsed if name}
    return [task.template.format(**dict.fromkeys(names, text)) for text in NEUTRALS]


def draw_demonstrations(train: list[Example], n: int, task: str, seed: int) -> list[Example]:
    """Return n examples in a random order, a function of the task's name and the seed.

    They are the same for every model and every query, and fewer are the first of more.
    """
    # Python's own hash of a text differs from process to process.
    digest = hashlib.sha256(f"{task} {seed}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    order = generator.permutation(len(train))
    return [train[i] for i in order[:n]]


def flipped(example: Example) -> Example:
    """Return the example with a wrong answer: the next candidate."""
    return example._replace(gold=(example.gold + 1) % len(example.candidates))


def _place(task: IclTask, data: str | None) -> str:
    """Return the name that `datasets` loads: a file, a folder, or a name on the hub."""
    return str(Path(data) / (task.folder or task.name)) if data else task.dataset


def _examples(task: IclTask, split: str, data: str | None) -> list[Example]:
    import datasets

    datasets.disable_progress_bars()
    place = _place(task, data)
    try:
        if place.endswith(".jsonl"):
            rows = datasets.load_dataset("json", data_files=place, split="train")
        else:
            rows = datasets.load_dataset(place, None if data else task.config, split=split)
    except Exception as error:  # whatever the hub, the network or a reader says is for the user
        reason = " ".join(str(error).split())
        raise UserError(
            f"task {task.name}: {place!r}, split {split!r} cannot be loaded: {reason}; "
            "or set evaluation.icl.data=DIR"
        ) from None

    read = ROWS[task.rows] if task.rows else _labelled
    try:
        found = [read(row, task) for row in rows]
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"task {task.name}: a row of {place!r} does not fit the task ({error!r})"
        ) from None
    return [example for example in found if example is not None]


def _labelled(row: dict[str, Any], task: IclTask) -> Example | None:
    """Return an example with the task's verbalizers; None for a row whose label is below 0."""
    label = row[task.label]
    if label < 0:
        return None
    if label >= len(task.verbalizers):
        raise ValueError(f"label {label}, but {len(task.verbalizers)} verbalizers")
    prompt = task.template.format(**row)
    return Example(prompt, tuple(task.verbalizers), label, fields_of(row, task))
