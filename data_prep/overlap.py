"""Overlaps of training documents with evaluation sets: 13 equal words in a row.

The rule is that of GPT-3's paper (arXiv 2005.14165). Words are runs of letters and digits in lower
case, so that punctuation and spaces do not hide an overlap. An item with fewer than 13 words is
looked for as a whole, if it has at least 8. What is compared are 64-bit hashes of words in a row.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from data_prep.settings import DecontaminateConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import replacing
from momentum_gpt.core.terminal import progress_bar
from momentum_gpt.evaluation.few_shot.tasks import load_examples, load_task, task_names

WORD = re.compile(r"[^\W_]+")

BASE = np.uint64(0x9E3779B97F4A7C15)
"""The hash of words in a row is the sum of their hashes times powers of BASE, modulo 2^64.

It is odd, so that no power of it is zero.
"""


def words_of(text: str) -> list[str]:
    """Return the words of a text."""
    return WORD.findall(text.lower())


def hashes_in_a_row(text: str, n: int) -> np.ndarray:
    """Return a hash of each n words in a row.

    Returns:
        (words - n + 1,) uint64; empty if the text has fewer than n words.
    """
    hashes = [xxhash.xxh64_intdigest(word.encode()) for word in words_of(text)]
    words = np.array(hashes, dtype=np.uint64)
    if len(words) < n:
        return words[:0]

    powers = np.cumprod(np.full(n, BASE, dtype=np.uint64))  # (n,)
    count = len(words) - n + 1
    total = np.zeros(count, dtype=np.uint64)
    # Overflow is meant: arithmetic modulo 2^64.
    for place in range(n):
        total += powers[place] * words[place : place + count]
    return total


def evaluation_files(sets: list[str]) -> list[str]:
    """Return the files of those sets that are files or folders, sorted."""
    found = []
    for given in map(Path, sets):
        candidates = given.rglob("*.jsonl") if given.is_dir() else [given]
        found += [str(path) for path in candidates if path.is_file()]
    return sorted(found)


def evaluation_texts(config: DecontaminateConfig) -> Iterator[tuple[str, str]]:
    """Yield (set, text) for every text of the evaluation sets.

    The texts of a task are its examples with each candidate answer; those of a file are all
    strings in each of its records.

    Raises:
        UserError: there is no such task or file, or a line is not JSON.
    """
    # A task has precedence over a file of the same name.
    names = task_names() if config.sets == ["known"] else config.sets
    for given in names:
        if given in task_names():
            for text in _texts_of_task(given, config.data):
                yield given, text
        else:
            yield from _texts_of_files(given)


def _texts_of_task(name: str, data: str | None) -> Iterator[str]:
    _, examples = load_examples(load_task(name), data)
    for example in examples:
        for candidate in example.candidates:
            yield f"{example.prompt}{candidate}"


def _texts_of_files(given: str) -> Iterator[tuple[str, str]]:
    files = evaluation_files([given])
    if not files:
        raise UserError(
            f"decontaminate.sets: {given!r} is no few-shot task, no .jsonl file and no folder "
            f"with such files: the tasks are {', '.join(task_names())}"
        )
    for file in map(Path, files):
        in_folder = Path(given).is_dir()
        name = str(file.relative_to(given).with_suffix("")) if in_folder else file.stem
        lines = file.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{file}, line {number} is not JSON ({error}): correct or remove the line"
                ) from None
            for text in _strings(record):
                yield name, text


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings in a JSON value, except for keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


@dataclass(frozen=True)
class HashTable:
    """The hashes of the items that are looked for with one number of words."""

    words: int
    hashes: np.ndarray
    """(items,) uint64, sorted."""
    sets: np.ndarray
    """(items,), the number of the evaluation set that each hash comes from."""

    def sets_in(self, text: str) -> set[int]:
        """Return the numbers of the evaluation sets that the text overlaps with."""
        rows = hashes_in_a_row(text, self.words)
        places = np.searchsorted(self.hashes, rows)
        # A hash above all of the table has no place in it; any other place is as wrong.
        places[places == len(self.hashes)] = 0
        found = places[self.hashes[places] == rows]
        return set(self.sets[found].tolist())


def write_index(config: DecontaminateConfig, path: Path) -> dict[str, int]:
    """Write the hashes of the evaluation sets to an .npz file.

    Returns:
        The number of texts that are looked for, by set.
    """
    by_length: dict[int, dict[int, int]] = {}
    names: list[str] = []
    texts: Counter[str] = Counter()
    with progress_bar("evaluation sets, texts", None) as advance:
        for name, text in evaluation_texts(config):
            advance(1)
            if name not in texts:
                names.append(name)
            n_words = min(config.words, len(words_of(text)))
            looked_for = n_words >= config.least_words
            texts[name] += looked_for
            if looked_for:
                known = by_length.setdefault(n_words, {})
                # A row that several sets have counts for the first of them.
                for value in hashes_in_a_row(text, n_words).tolist():
                    known.setdefault(value, len(names) - 1)

    arrays: dict[str, np.ndarray] = {"names": np.array(names)}
    for length, known in by_length.items():
        order = sorted(known)
        arrays[f"hashes{length}"] = np.array(order, dtype=np.uint64)
        arrays[f"sets{length}"] = np.array([known[value] for value in order])
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return dict(texts)


def read_index(path: Path) -> tuple[list[str], list[HashTable]]:
    """Return the names of the evaluation sets, and their tables by increasing number of words."""
    index = np.load(path)
    prefix = "hashes"
    keys = [key for key in index if key.startswith(prefix)]
    lengths = sorted(int(key.removeprefix(prefix)) for key in keys)
    tables = []
    for length in lengths:
        tables.append(HashTable(length, index[f"hashes{length}"], index[f"sets{length}"]))
    return index["names"].tolist(), tables
