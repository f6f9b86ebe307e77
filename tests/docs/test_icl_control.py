"""The corpus and the tasks of docs/icl_control.py."""

from __future__ import annotations

import importlib
import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

from momentum_gpt.core.files import sha256_of_file
from momentum_gpt.evaluation.few_shot.tasks import load_examples, load_task
from tests.docs.pages import ROOT

EPISODE = 24


class Document(NamedTuple):
    words: tuple[str, ...]
    name: str


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    control = importlib.import_module("icl_control")
    monkeypatch.setattr(control, "EPISODES", {"train": 500, "validation": 2})
    for name in ("one", "again"):
        control.write(tmp_path / name)
    return tmp_path


def documents(path: Path) -> list[Document]:
    """Return the documents of a corpus."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        sentence, _, name = json.loads(line)["text"].partition(" Label: ")
        found.append(Document(tuple(sentence.split()), name))
    return found


def topics_of(corpus: list[Document]) -> dict[str, frozenset[str]]:
    """Return the topic of each word: all words that share sentences, directly or by others."""
    topics: dict[str, frozenset[str]] = {}
    for document in corpus:
        topic = frozenset(document.words)
        for word in document.words:
            topic |= topics.get(word, frozenset())
        for word in topic:
            topics[word] = topic
    return topics


def test_names_hold_for_an_episode_and_are_drawn_at_random(folder: Path) -> None:
    corpus = documents(folder / "one" / "train.jsonl")
    assert len(corpus) == 500 * EPISODE
    topics = topics_of(corpus)
    assert sorted(map(len, set(topics.values()))) == [4] * 16

    pairs: dict[frozenset[str], set[str]] = defaultdict(set)
    for start in range(0, len(corpus), EPISODE):
        names: dict[frozenset[str], str] = {}
        for document in corpus[start : start + EPISODE]:
            topic = topics[document.words[0]]
            assert names.setdefault(topic, document.name) == document.name
        assert len(set(names.values())) == len(names)
        for topic, name in names.items():
            pairs[topic].add(name)
    # About 94 draws of 16 names: the chance that one is missing is 4%, and the seed is fixed.
    every = {document.name for document in corpus}
    assert len(every) == 16
    assert all(len(names) >= 15 for names in pairs.values())


def test_the_tasks_can_be_asked(folder: Path) -> None:
    topics = topics_of(documents(folder / "one" / "train.jsonl"))
    tasks = sorted((folder / "one").glob("*.yaml"))
    assert [path.stem for path in tasks] == [
        f"{kind}_{number}" for kind in ("four", "two") for number in (1, 2, 3)
    ]
    for path in tasks:
        train, test = load_examples(load_task(str(path)), None)
        labels = {(topics[one.prompt.split()[0]], one.gold) for one in train + test}
        n_labels = 4 if path.stem.startswith("four") else 2
        assert len(train) == len(test) == n_labels * 4**3 / 2
        assert len({one.prompt for one in train + test}) == n_labels * 4**3
        assert len(labels) == n_labels
        assert len({gold for _, gold in labels}) == n_labels


def test_what_is_written_is_the_same_every_time(folder: Path) -> None:
    one, again = folder / "one", folder / "again"
    for path in one.rglob("*.jsonl"):
        assert sha256_of_file(path) == sha256_of_file(again / path.relative_to(one))
