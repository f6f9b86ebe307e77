"""How many evaluation texts are found when a page holds them.

    python -m tests.data_prep.recall
        prints the table of all shipped tasks, by the number of words

The texts are read from the rows here, and their words are counted here, not by the code that is
measured.
"""

from __future__ import annotations

import html
import json
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_prep.overlap import hashes_of, read_index, words_of, write_index
from data_prep.settings import DecontaminateConfig
from tests.conftest import SHARED_DATA

FIELDS = {
    "agnews": ("agnews/test", ("text",)),
    "agnews_paper": ("agnews/test", ("text",)),
    "arc_easy": ("arc_easy/validation", ("question", "choices")),
    "cb": ("cb/validation", ("premise", "hypothesis")),
    "cb_paper": ("cb/validation", ("premise", "hypothesis")),
    "imdb": ("imdb/test", ("text",)),
    "mr": ("mr/validation", ("text",)),
    "piqa": ("piqa/validation", ("goal", "sol1", "sol2")),
    "sst2": ("sst2/validation", ("sentence",)),
    "sst5": ("sst5/validation", ("text",)),
    "subj": ("subj/test", ("text",)),
}
"""The file and the fields of each shipped task."""

LENGTHS = {"below 8": (1, 7), "8 to 12": (8, 12), "13 and more": (13, 10**9)}
"""Numbers of words, first and last."""


def natural(text: str) -> str:
    """Return the text as a web page writes it: sentences of treebanks put together again."""
    text = re.sub(r" (n't|'(s|re|ve|ll|d|m)\b)", r"\1", text)
    text = text.replace("can not", "cannot").replace("\\/", "/")
    text = re.sub(r" ?#39;", "'", text)
    text = re.sub(r"&#8217 ; ", "'", text)
    text = re.sub(r"(&#\d+) ;", r"\1;", text)
    text = text.replace("-lrb- ", "(").replace(" -rrb-", ")")
    text = text.replace("`` ", "\u201c").replace(" ''", "\u201d").replace("` ", "\u2018")
    text = re.sub(r" ([.,;:!?])", r"\1", text)
    text = html.unescape(text).replace("'", "\u2019")
    return text[:1].upper() + text[1:]


def shouted(text: str) -> str:
    """Return the text in capitals, with other white space and accents as characters."""
    words = text.upper().split()
    return unicodedata.normalize("NFD", "\u00a0\n ".join(words))


def without_punctuation(text: str) -> str:
    """Return the text with dashes instead of punctuation, except for apostrophes."""
    text = re.sub("-[lr]rb-", " ", text)
    return re.sub(r"[^\w\s'\u2019&#;`]", " \u2014 ", text)


CHANGES: dict[str, Callable[[str], str]] = {
    "verbatim": str,
    "natural": natural,
    "shouted": shouted,
    "no punctuation": without_punctuation,
}
"""Ways in which a page may write a text."""


def texts_of(task: str, every: int = 1) -> list[str]:
    """Return the texts of a task's fields, in every so-manieth row."""
    file, fields = FIELDS[task]
    lines = (SHARED_DATA / "icl" / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    if task == "arc_easy":  # questions with another number of answers are not asked
        rows = [row for row in rows if len(row["choices"]["text"]) == 4]

    texts: list[str] = []
    for row in rows[::every]:
        for field in fields:
            texts += _texts(row[field])
    return texts


def _texts(value: Any) -> list[str]:
    return value["text"] if isinstance(value, dict) else [value]


def count_words(text: str) -> int:
    """Return the number of runs of letters and digits."""
    return len(re.findall(r"[^\W_]+", text))


class Finder:
    """Looks for the texts of evaluation sets in pages."""

    def __init__(self, sets: list[str], data: Path | None = None, **options: int) -> None:
        config = DecontaminateConfig(sets, str(data) if data else None, **options)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index.npz"
            self.sizes = write_index(config, path)
            self.names, self.tables = read_index(path)

    def sets_in(self, page: str) -> set[str]:
        """Return the evaluation sets whose text the page holds."""
        hashes = hashes_of(words_of(page))
        found: set[int] = set()
        for table in self.tables:
            found |= table.sets_in(hashes)
        return {self.names[number] for number in found}


def pages(text: str) -> Iterator[str]:
    """Yield pages that hold the text: between paragraphs, and inside a line."""
    before = "A page on something else can say this"
    after = "not that it matters to anybody here"
    yield f"{before}.\n\n{text}\n\n{after}."
    yield f"{before} {text} {after}"


def missed(finder: Finder, task: str, texts: list[str], change: str) -> list[str]:
    """Return the texts that are not found in some page that holds them, changed in a way."""
    lost = []
    for text in texts:
        changed = CHANGES[change](text)
        if not all(task in finder.sets_in(page) for page in pages(changed)):
            lost.append(text)
    return lost


def main() -> None:
    """Print the table."""
    finder = Finder(list(FIELDS), SHARED_DATA / "icl")
    print(f"| task | words | texts | {' | '.join(CHANGES)} |")
    print("| --- | --- | ---: | " + " | ".join("---:" for _ in CHANGES) + " |")
    for task in FIELDS:
        texts = texts_of(task)
        for length, (first, last) in LENGTHS.items():
            chosen = [text for text in texts if first <= count_words(text) <= last]
            cells = []
            for change in CHANGES:
                found = len(chosen) - len(missed(finder, task, chosen, change))
                cells.append(f"{found / len(chosen):.1%}" if chosen else "-")
            print(f"| {task} | {length} | {len(chosen)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
