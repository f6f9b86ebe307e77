"""Few-shot tasks: a YAML in conf/icl/ each, and at most a function; examples from the hub by name, or from a local folder.

Templates and verbalizers are those of Dai et al. (arXiv 2212.10559, table 8, and their released code where it differs).
"""

from __future__ import annotations

import functools
import hashlib
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import conf_folder

TASKS_FOLDER = conf_folder() / "icl"

NEUTRALS = ("N/A", "", "[MASK]")
"""Stand in every field of a prompt without content (Zhao et al., "Calibrate Before Use", 2021)."""


class Example(NamedTuple):
    prompt: str
    candidates: tuple[str, ...]
    """Each with the space before it: the answer follows the prompt immediately."""
    gold: int


@dataclass(eq=False)
class IclTask:
    """A few-shot task."""

    dataset: str
    """Its name on the hub, or a local .jsonl, or a folder with SPLIT.jsonl files."""
    test_split: str
    template: str
    """The prompt; {field} is the row's field."""
    config: str | None = None
    """Of the hub's data set."""
    train_split: str = "train"
    folder: str | None = None
    """Its folder in a local collection of tasks. null: the task's own name."""
    verbalizers: list[str] = field(default_factory=list)
    """What stands for the labels 0, 1, ...; none: each row has candidates of its own."""
    label: str = "label"
    """The field with the label; rows whose label is below 0 are left out."""
    rows: str | None = None
    """A function of ROWS that reads an example from a row, where fields and verbalizers are not enough."""
    name: str = ""


def arc(row: dict[str, Any], task: IclTask) -> Example | None:
    """Questions with four answers; the key is a letter, or in a few a number."""
    texts, labels = row["choices"]["text"], row["choices"]["label"]
    if len(texts) != 4:
        return None
    return Example(
        task.template.format(**row),
        tuple(f" {text}" for text in texts),
        labels.index(row["answerKey"]),
    )


def piqa(row: dict[str, Any], task: IclTask) -> Example | None:
    return Example(
        task.template.format(**row), (f" {row['sol1']}", f" {row['sol2']}"), row["label"]
    )


ROWS: dict[str, Callable[[dict[str, Any], IclTask], Example | None]] = {"arc": arc, "piqa": piqa}


def task_names() -> list[str]:
    return sorted(path.stem for path in TASKS_FOLDER.glob("*.yaml"))


@functools.cache
def load_task(given: str) -> IclTask:
    """The task of conf/icl/GIVEN.yaml, or of a YAML file anywhere.

    Raises:
        UserError: no such task, or not one.
    """
    path = Path(given) if given.endswith((".yaml", ".yml")) else TASKS_FOLDER / f"{given}.yaml"
    if not path.is_file():
        raise UserError(
            f"evaluation.icl.tasks: {given!r} is none of {', '.join(task_names())}, and no .yaml file with a task"
        )
    try:
        task = OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(IclTask), OmegaConf.load(path))
        )
    except OmegaConfBaseException as error:
        raise UserError(f"{path} is not a task: {str(error).splitlines()[0]}") from None
    assert isinstance(task, IclTask)
    task.name = path.stem
    if (task.rows is None) == (not task.verbalizers) or (task.rows and task.rows not in ROWS):
        raise UserError(f"{path} must have verbalizers, or rows as one of {', '.join(ROWS)}")
    return task


@functools.cache
def load_examples(task: IclTask, data: str | None) -> tuple[list[Example], list[Example]]:
    """Examples to demonstrate with, and to ask for; none of the first is among the second.

    Args:
        data: a folder with a folder of SPLIT.jsonl files for each task. None: the hub, by the task's `dataset`.
    """
    train, test = (_examples(task, split, data) for split in (task.train_split, task.test_split))
    asked = {example.prompt for example in test}
    return [example for example in train if example.prompt not in asked], test


def _examples(task: IclTask, split: str, data: str | None) -> list[Example]:
    import datasets

    datasets.disable_progress_bars()
    place = str(Path(data) / (task.folder or task.name)) if data else task.dataset
    try:
        if place.endswith(".jsonl"):
            rows = datasets.load_dataset("json", data_files=place, split="train")
        else:
            rows = datasets.load_dataset(place, None if data else task.config, split=split)
    except (
        Exception
    ) as error:  # whatever the hub, the network or the reader says: it is for the user
        what = " ".join(str(error).split())
        raise UserError(
            f"task {task.name}: {place!r}, split {split!r} cannot be loaded: {what}; or set evaluation.icl.data=DIR"
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
    if row[task.label] < 0:
        return None
    if row[task.label] >= len(task.verbalizers):
        raise ValueError(f"label {row[task.label]}, but {len(task.verbalizers)} verbalizers")
    return Example(task.template.format(**row), tuple(task.verbalizers), row[task.label])


def neutral_prompts(task: IclTask) -> list[str]:
    """The template without content, in three ways."""
    fields = {name for _, name, _, _ in string.Formatter().parse(task.template) if name}
    return [task.template.format(**dict.fromkeys(fields, text)) for text in NEUTRALS]


def demonstrations(train: list[Example], n: int, task: str, seed: int) -> list[Example]:
    """n examples in a random order, drawn from the task's name and the seed: the same for every model and every query."""
    digest = hashlib.sha256(f"{task} {seed}".encode()).digest()
    order = np.random.default_rng(int.from_bytes(digest[:8], "little")).permutation(len(train))
    return [train[i] for i in order[:n]]


def flipped(example: Example) -> Example:
    """The same with a wrong answer: the next candidate."""
    return example._replace(gold=(example.gold + 1) % len(example.candidates))
