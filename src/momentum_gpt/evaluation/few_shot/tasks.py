"""Few-shot tasks: a YAML file each, in conf/icl/ or anywhere, and their examples.

Examples come from the hub, by name, or from a local folder.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import conf_folder, sha256_of_file
from momentum_gpt.core.untrusted import read_plain_yaml
from momentum_gpt.data.text_files import check_packed
from momentum_gpt.evaluation.few_shot.rows import Example, IclTask, read_row
from momentum_gpt.evaluation.few_shot.templates import filled, filtered

TASKS_FOLDER = conf_folder() / "icl"

NEUTRALS = ("N/A", "", "[MASK]")
"""Texts that replace every field in a prompt without content (Zhao et al., "Calibrate Before Use",
2021)."""

LISTS = ("candidates", "answers", "stop")
"""Options of a task that take a list, or a single text instead of a list of one."""


class Examples(NamedTuple):
    """What a task has to show and to ask."""

    train: list[Example]
    """Examples to demonstrate with."""
    test: list[Example]
    """Examples to ask, which are never demonstrated."""
    left_out: dict[str, int]
    """Rows of the data set that are neither, by reason."""


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

    written = read_plain_yaml(path)
    try:
        for name in LISTS:
            if isinstance(written.get(name), str):
                written[name] = [written[name]]
        task = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(IclTask), written))
        assert isinstance(task, IclTask)
        task.check()
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{path} is not a task: {str(error).splitlines()[0]}") from None
    task.name = path.stem
    return task


def load_examples(task: IclTask, data: str | None) -> tuple[list[Example], list[Example]]:
    """Return the examples to demonstrate with, and those to ask; see `read_examples`."""
    found = read_examples(task, data)
    return found.train, found.test


@functools.cache
def read_examples(task: IclTask, data: str | None) -> Examples:
    """Return the examples of a task.

    Args:
        task: the task.
        data: folder with a folder of SPLIT.jsonl files for each task. None: what `task.dataset`
            names.

    Raises:
        UserError: the data set cannot be loaded, or a row does not fit the task.
    """
    left_out: Counter[str] = Counter()
    test = _examples(task, task.test_split, data, left_out)
    train = _examples(task, task.train_split, data, left_out) if task.train_split else []

    # Data sets repeat themselves: a query among the demonstrations would show its own answer.
    asked = {example.asks for example in test}
    shown = [example for example in train if example.asks not in asked]
    left_out[f"{task.train_split}: also asked"] = len(train) - len(shown)
    return Examples(shown, test, dict(+left_out))


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
    return [filtered(filled(task.template, text), task.clean) for text in NEUTRALS]


def description_of(task: IclTask, group: str) -> str:
    """Return the text before the demonstrations of a part of the task."""
    return filled(task.description, group)


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
    """Return the example with a wrong answer: the next candidate that is not right."""
    n = len(example.candidates)
    after = [(example.gold[0] + step) % n for step in range(1, n)]
    wrong = next(number for number in after if number not in example.gold)
    return example._replace(gold=(wrong,))


def _place(task: IclTask, data: str | None) -> str:
    """Return the name that `datasets` loads: a file, a folder, or a name on the hub."""
    return str(Path(data) / (task.folder or task.name)) if data else task.dataset


def _examples(task: IclTask, split: str, data: str | None, left_out: Counter[str]) -> list[Example]:
    """Return the examples of a split, and count the rows that have no label."""
    import datasets

    datasets.disable_progress_bars()
    place = _place(task, data)
    check_packed(place)
    file = Path(place) if place.endswith(".jsonl") else Path(place) / f"{split}.jsonl"
    try:
        if file.is_file():
            rows = datasets.load_dataset("json", data_files=str(file), split="train")
        else:
            config = None if data else task.config
            rows = datasets.load_dataset(place, config, split=split, revision=task.revision)
    except Exception as error:  # whatever the hub, the network or a reader says is for the user
        reason = " ".join(str(error).split())
        raise UserError(
            f"task {task.name}: {place!r}, split {split!r} cannot be loaded: {reason}; "
            "or set evaluation.icl.data=DIR"
        ) from None

    examples = []
    for number, row in enumerate(rows):
        try:
            example = read_row(row, number, task)
        except ValueError as error:
            raise UserError(
                f"task {task.name}: row {number} (from 0) of {place!r}, split {split!r}, does "
                f"not fit the task: {error}; correct or remove the row, or adapt the task"
            ) from None
        if example is None:
            left_out[f"{split}: no label"] += 1
        else:
            examples.append(example)
    return examples
