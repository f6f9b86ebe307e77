"""Overlaps of training documents with evaluation sets: 13 equal words in a row.

The rule is that of GPT-3's paper (arXiv 2005.14165). Every field of an item is looked for alone,
without the template: as any 13 words in a row, or as a whole if it has 8 to 12. What is compared
are 64-bit hashes of words in a row.

Words are runs of letters and digits, so that punctuation and spaces hide nothing, and:

- Text is normalised by NFKC, which is NFC with full-width letters, ligatures and the like as the
  usual ones, and case folded. Characters without a width are dropped.
- Apostrophes of all kinds separate words, and so does the place before "n't": "don't" reads as
  "do n't" and "film's" as "film 's", which is how the sentences of SST are cut. "cannot" is
  "can not" for the same reason. SST's names for brackets are no words. HTML's entities are the
  characters they stand for.
- In scripts without spaces each character is a word here, and 2 or 4 of them count as one in the
  length of an item: see CHARACTERS_PER_WORD.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import regex
import xxhash

from data_prep.settings import DecontaminateConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import replacing
from momentum_gpt.core.terminal import progress_bar
from momentum_gpt.data.text_files import json_rows
from momentum_gpt.data.texts import kind_of
from momentum_gpt.evaluation.few_shot.tasks import load_examples, load_task, task_names

ENTITY = re.compile(r"&?(#\d{2,5}|\b(?:quot|apos|amp|lt|gt|nbsp))\s*;", re.IGNORECASE)
"""HTML's entities: AG News has lost their ampersands, and in Subj a space is before the end."""

APOSTROPHE = re.compile("[`\u00b4\u02b9\u02bc\u02c8\u2018\u2019\u201b\u2032\uff07]")
"""What is written for an apostrophe."""

WITHOUT_WIDTH = regex.compile(r"\p{Cf}+")
"""Soft hyphens, zero-width spaces and joiners, marks of the direction of writing."""

BRACKET = re.compile("-[lr][rsc]b-")
"""Names of brackets in treebanks."""

NOT = re.compile(r"(n)\s*'\s*(?=t\b)|(?<=\bcan)(?=not\b)")
"""Where "n't" and "cannot" are cut."""

CHARACTERS_PER_WORD = {
    r"[\p{Han}\p{Bopomofo}\p{Hiragana}\p{Katakana}ー]": 2,
    r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]": 4,
}
"""Scripts without spaces, and how many of their characters say about as much as a word.

A character is one with its marks. The first article of the Universal Declaration of Human Rights
has 30 words in English; for each of them it has 1.3 characters in Chinese, 2.6 in Japanese and
3.4 in Thai.
"""

SPACELESS = regex.compile("|".join(rf"{script}\p{{M}}*" for script in CHARACTERS_PER_WORD))

WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")

BASE = np.uint64(0x9E3779B97F4A7C15)
"""The hash of words in a row is the sum of their hashes times powers of BASE, modulo 2^64.

It is odd, so that no power of it is zero.
"""


def words_of(text: str) -> list[str]:
    """Return the words of a text as they are compared: characters where no spaces are written."""
    text = ENTITY.sub(lambda entity: html.unescape(f"&{entity[1].lower()};"), text)
    # Before NFKC, which makes a space and an accent of some of them.
    text = APOSTROPHE.sub("'", text)
    text = unicodedata.normalize("NFKC", text).casefold()
    text = WITHOUT_WIDTH.sub("", text)
    text = BRACKET.sub(" ", text)
    text = NOT.sub(r" \1 ", text)
    text = SPACELESS.sub(r" \g<0> ", text)
    return WORD.findall(text)


def characters_per_word(words: list[str]) -> int:
    """Return how many of what `words_of` returned count as a word, on average: 1, 2, 3 or 4."""
    size = 0.0
    for word in words:
        of_script = [n for script, n in CHARACTERS_PER_WORD.items() if regex.match(script, word)]
        size += 1 / (of_script[0] if of_script else 1)
    return round(len(words) / size) if words else 1


def hashes_of(words: list[str]) -> np.ndarray:
    """Return a hash of each word: (words,) uint64."""
    hashes = [xxhash.xxh64_intdigest(word.encode()) for word in words]
    return np.array(hashes, dtype=np.uint64)


def in_a_row(hashes: np.ndarray, n: int) -> np.ndarray:
    """Return a hash of each n words in a row.

    Args:
        hashes: (words,) uint64, of the words.
        n: number of words.

    Returns:
        (words - n + 1,) uint64; empty if there are fewer than n words.
    """
    if len(hashes) < n:
        return hashes[:0]

    powers = np.cumprod(np.full(n, BASE, dtype=np.uint64))  # (n,)
    count = len(hashes) - n + 1
    total = np.zeros(count, dtype=np.uint64)
    # Overflow is meant: arithmetic modulo 2^64.
    for place in range(n):
        total += powers[place] * hashes[place : place + count]
    return total


class Item(NamedTuple):
    """A row of an evaluation set."""

    texts: tuple[str, ...]
    """The texts that are looked for, each alone."""
    joined: str = ""
    """A text that is looked for if each of them is too short for that."""


def evaluation_files(sets: list[str]) -> list[str]:
    """Return the files of those sets that are files or folders, sorted."""
    found = []
    for given in map(Path, sets):
        if given.is_dir():
            below = [path for path in given.rglob("*") if kind_of(str(path)) == ".jsonl"]
        else:
            below = [given]
        found += [str(path) for path in below if path.is_file()]
    return sorted(found)


def named_sets(config: DecontaminateConfig) -> list[str]:
    """Return the sets, where [known] stands for the tasks of conf/icl/.

    With a folder of tasks they are those that are in the folder.

    Raises:
        UserError: none is.
    """
    if config.sets != ["known"]:
        return config.sets

    names = task_names()
    if config.data is None:
        return names
    data = Path(config.data)
    there = [name for name in names if (data / (load_task(name).folder or name)).exists()]
    if not there:
        raise UserError(
            f"decontaminate.data={config.data!r} holds none of the tasks {', '.join(names)}: "
            "it must have a folder for each task that is looked for"
        )
    return there


def evaluation_items(config: DecontaminateConfig) -> Iterator[tuple[str, Item]]:
    """Yield (set, item) for every item of the evaluation sets.

    The texts of a task's item are the fields that its template has and the row's own answers, if
    it has some; joined, they are the fields and the right answer. The texts of a file's record
    are all strings in it.

    Raises:
        UserError: there is no such task or file, or it cannot be read to its end.
    """
    # A task has precedence over a file of the same name.
    for given in named_sets(config):
        if given in task_names():
            for item in _items_of_task(given, config.data):
                yield given, item
        else:
            yield from _items_of_files(given)


def _items_of_task(name: str, data: str | None) -> Iterator[Item]:
    task = load_task(name)
    _, examples = load_examples(task, data)
    for example in examples:
        if task.verbalizers:
            yield Item(example.fields)
        elif example.continuation:  # of a text with a gap, the whole text
            yield Item((*example.fields, "".join(example.shown)))
        else:
            answer = example.candidates[example.gold[0]]
            joined = " ".join([*example.fields, answer])
            yield Item((*example.fields, *example.candidates), joined)


def _items_of_files(given: str) -> Iterator[tuple[str, Item]]:
    files = evaluation_files([given])
    if not files:
        raise UserError(
            f"decontaminate.sets: {given!r} is no few-shot task, no .jsonl file and no folder "
            f"with such files: the tasks are {', '.join(task_names())}"
        )
    for file in map(Path, files):
        name = str(file.relative_to(given)) if Path(given).is_dir() else file.name
        name = re.sub(r"\.jsonl(\.\w+)?$", "", name)
        for _, record in json_rows(str(file)):
            yield name, Item(tuple(_strings(record)))


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


@dataclass
class SetSize:
    """How much of an evaluation set is looked for."""

    items: int = 0
    """Number of its items."""
    too_short: int = 0
    """Number of items of which no text is long enough."""
    texts: int = 0
    """Number of texts that are looked for."""


@dataclass(frozen=True)
class HashTable:
    """The hashes of the texts that are looked for with one number of words."""

    words: int
    hashes: np.ndarray
    """(rows,) uint64, sorted; once for each set that has the row."""
    sets: np.ndarray
    """(rows,), the number of the evaluation set that each hash comes from."""

    def sets_in(self, hashes: np.ndarray) -> set[int]:
        """Return the numbers of the evaluation sets that have words in a row of these.

        Args:
            hashes: (words,) uint64, of the words of a text.
        """
        rows = in_a_row(hashes, self.words)
        starts = np.searchsorted(self.hashes, rows)
        ends = np.searchsorted(self.hashes, rows, side="right")
        found: set[int] = set()
        for row in np.flatnonzero(starts < ends):
            found.update(self.sets[starts[row] : ends[row]].tolist())
        return found


def write_index(config: DecontaminateConfig, path: Path) -> dict[str, SetSize]:
    """Write the hashes of the evaluation sets to an .npz file.

    Returns:
        How much is looked for, by set.
    """
    by_length: dict[int, set[tuple[int, int]]] = {}
    sizes: dict[str, SetSize] = {}
    with progress_bar("evaluation sets, items", None) as advance:
        for name, item in evaluation_items(config):
            advance(1)
            size = sizes.setdefault(name, SetSize())
            number = list(sizes).index(name)
            texts = _looked_for(item, config)
            size.items += 1
            size.too_short += not texts
            size.texts += len(texts)
            for words, length in texts:
                rows = in_a_row(hashes_of(words), length).tolist()
                by_length.setdefault(length, set()).update((row, number) for row in rows)

    arrays: dict[str, np.ndarray] = {"names": np.array(list(sizes))}
    for length, known in by_length.items():
        rows, numbers = zip(*sorted(known), strict=True)
        arrays[f"hashes{length}"] = np.array(rows, dtype=np.uint64)
        arrays[f"sets{length}"] = np.array(numbers)
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return sizes


def _looked_for(item: Item, config: DecontaminateConfig) -> list[tuple[list[str], int]]:
    """Return the words of each text that is long enough, and how many in a row are an overlap."""
    for texts in (item.texts, (item.joined,)):
        found = []
        for text in texts:
            words = words_of(text)
            per_word = characters_per_word(words)
            # As the text stands, names of brackets are words, too.
            count = max(len(words), len(WORD.findall(text)))
            if count >= config.least_words * per_word:
                found.append((words, min(len(words), config.words * per_word)))
        if found:
            return found
    return []


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
