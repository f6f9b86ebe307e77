"""Which training documents hold text of an evaluation set: an overlap of 13 words, as in GPT-3's paper (arXiv 2005.14165).

Words are runs of letters and digits, lower case, so that punctuation and spaces do not hide an overlap. An item shorter than
13 words is looked for as a whole, if it has at least 8. What is compared are 64-bit hashes of words in a row.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from datatrove.pipeline.base import PipelineStep

from data_prep.executors import Meter
from data_prep.steps import replacing, write_json
from momentum_gpt.core.errors import UserError
from momentum_gpt.evaluation.few_shot.tasks import load_examples, load_task, task_names

WORD = re.compile(r"[^\W_]+")
BASE = np.uint64(0x9E3779B97F4A7C15)
"""Odd: a word's hash times its powers, summed modulo 2^64, is the hash of words in a row."""


@dataclass
class DecontaminateConfig:
    sets: list[str] = field(default_factory=list)
    """Evaluation sets: .jsonl files, folders with such files, few-shot tasks of conf/icl/ by name, or [known], all of those."""
    data: str | None = None
    """Where the few-shot tasks are, as in evaluation.icl.data. null: the hub."""
    drop: bool = True
    """Leave out the training documents that hold some of it; false: only report them."""
    words: int = 13
    """In a row that are an overlap."""
    least_words: int = 8
    """Shorter items are not looked for."""


def hashes_in_a_row(text: str, n: int) -> np.ndarray:
    """A hash of each n words in a row, (words - n + 1,) uint64; none if there are fewer."""
    words = np.array(
        [xxhash.xxh64_intdigest(word.encode()) for word in WORD.findall(text.lower())],
        dtype=np.uint64,
    )
    if len(words) < n:
        return words[:0]
    powers = np.cumprod(np.full(n, BASE, dtype=np.uint64))
    total = np.zeros(len(words) - n + 1, dtype=np.uint64)
    for place in range(n):
        total += powers[place] * words[place : place + len(total)]
    return total


def evaluation_files(sets: list[str]) -> list[str]:
    """The files of the sets that are files or folders."""
    found = (path.rglob("*.jsonl") if path.is_dir() else [path] for path in map(Path, sets))
    return sorted(str(file) for files in found for file in files if file.is_file())


def evaluation_texts(config: DecontaminateConfig) -> Iterator[tuple[str, str]]:
    """(set, text) of every text: of a task's examples, or of every row of a file, with what is inside its fields.

    Raises:
        UserError: no such task or file, or a line that is not JSON.
    """
    for given in task_names() if config.sets == ["known"] else config.sets:
        if given in task_names():
            for example in load_examples(load_task(given), config.data)[1]:
                yield from (
                    (given, f"{example.prompt}{candidate}") for candidate in example.candidates
                )
            continue
        if not (files := evaluation_files([given])):
            raise UserError(
                f"decontaminate.sets: {given!r} is no task of ours, no .jsonl file and no folder with some"
            )
        for file in map(Path, files):
            name = (
                str(file.relative_to(given).with_suffix("")) if Path(given).is_dir() else file.stem
            )
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(
                        f"{file}, line {number} is not JSON ({error}): mend or remove the line"
                    ) from None
                yield from ((name, text) for text in _strings(record))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def write_index(config: DecontaminateConfig, folder: Path) -> dict[str, int]:
    """Hash the evaluation sets into `folder/index.npz`; returns the number of texts that are looked for, by set."""
    by_length: dict[int, dict[int, int]] = {}
    names: list[str] = []
    texts: Counter[str] = Counter()
    for name, text in evaluation_texts(config):
        if name not in texts:
            names.append(name)
        n_words = min(config.words, len(WORD.findall(text)))
        texts[name] += n_words >= config.least_words
        if n_words >= config.least_words:
            known = by_length.setdefault(n_words, {})
            for value in hashes_in_a_row(text, n_words).tolist():
                known.setdefault(value, len(names) - 1)
    arrays: dict[str, np.ndarray] = {"names": np.array(names)}
    for length, known in by_length.items():
        order = sorted(known)
        arrays[f"hashes{length}"] = np.array(order, dtype=np.uint64)
        arrays[f"sets{length}"] = np.array([known[value] for value in order])
    with replacing(folder / "index.npz") as path, path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return dict(texts)


class FindContamination(PipelineStep):
    """The numbers of this rank's training documents that hold text of an evaluation set, and how many hold which."""

    type, name = "filter", "overlap with evaluation sets"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        index = np.load(self.folder / "index.npz")
        names = index["names"].tolist()
        lengths = sorted(
            int(key.removeprefix("hashes")) for key in index if key.startswith("hashes")
        )
        tables = [(length, index[f"hashes{length}"], index[f"sets{length}"]) for length in lengths]
        meter, numbers = Meter(self.folder / "progress", rank), []
        counts: Counter[str] = Counter()
        examples: dict[str, str] = {}
        for number, document in enumerate(data):
            meter.add(len(document.text))
            if document.metadata["split"] != "train":
                continue
            found = {names[place] for table in tables for place in _hits(document.text, *table)}
            if found:
                numbers.append(number)
                counts.update(found)
                for name in found:
                    examples.setdefault(name, " ".join(document.text.split())[:160])
        meter.close()
        with (
            replacing(self.folder / "documents" / f"{rank:05d}.npy") as path,
            path.open("wb") as file,
        ):
            np.save(file, np.array(numbers, dtype=np.int64))
        report = {"documents": len(numbers), "by_set": counts, "examples": examples}
        write_json(self.folder / "reports" / f"{rank:05d}.json", report)


def _hits(text: str, length: int, hashes: np.ndarray, sets: np.ndarray) -> set[int]:
    rows = hashes_in_a_row(text, length)
    places = np.searchsorted(hashes, rows)
    places[places == len(hashes)] = 0
    return set(sets[places[hashes[places] == rows]].tolist())
