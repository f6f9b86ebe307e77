"""Write a corpus from which a small model learns to learn in context, and few-shot tasks for it.

    python docs/icl_control.py FOLDER

A document is a sentence of three words about one topic, followed by the topic's current name:

    zolu dafe zolu Label: rosa

Every 24 documents, new topics and new names are drawn at random. The weights therefore cannot know
which name is meant, but the documents just before can tell. Results are in docs/icl-results.md.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

N_TOPICS = 16
WORDS_OF_A_TOPIC = 4
WORDS_OF_A_SENTENCE = 3
N_NAMES = 16
DOCUMENTS_OF_AN_EPISODE = 24

EPISODES = {"train": 32_000, "validation": 300}
TASKS = {"two": 2, "four": 4}
"""Kind of task -> its number of topics, and the numbers that an episode of the corpus can have."""
TASKS_OF_A_KIND = 3

TEMPLATE = "{sentence} Label:"


def vocabulary(generator: np.random.Generator) -> list[str]:
    """Return as many different words of two syllables as there are words and names."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    every = [first + second for first in syllables for second in syllables]
    n_words = N_TOPICS * WORDS_OF_A_TOPIC + N_NAMES
    return [str(word) for word in generator.choice(every, n_words, replace=False)]


class Language:
    """The words of each topic, and the names that topics can have."""

    def __init__(self, generator: np.random.Generator) -> None:
        words = vocabulary(generator)
        self.generator = generator
        self.names = words[:N_NAMES]
        self.topics = np.array(words[N_NAMES:]).reshape(N_TOPICS, WORDS_OF_A_TOPIC)

    def draw(self, n_topics: int) -> tuple[list[int], list[str]]:
        """Return different topics, and a name for each."""
        topics = self.generator.choice(N_TOPICS, n_topics, replace=False)
        names = self.generator.choice(self.names, n_topics, replace=False)
        return topics.tolist(), names.tolist()

    def sentence(self, topic: int) -> str:
        return " ".join(self.generator.choice(self.topics[topic], WORDS_OF_A_SENTENCE))

    def every_sentence(self, topics: list[int]) -> list[tuple[str, int]]:
        """Return all sentences about these topics in a random order, each with its label."""
        found = []
        for label, topic in enumerate(topics):
            for words in itertools.product(self.topics[topic], repeat=WORDS_OF_A_SENTENCE):
                found.append((" ".join(words), label))
        return [found[number] for number in self.generator.permutation(len(found))]

    def documents(self, n_episodes: int) -> Iterator[dict]:
        """Yield the documents of a corpus, in their order."""
        for _ in range(n_episodes):
            n_topics = self.generator.choice(list(TASKS.values()))
            topics, names = self.draw(n_topics)
            for label in self.generator.integers(n_topics, size=DOCUMENTS_OF_AN_EPISODE):
                sentence = self.sentence(topics[label])
                yield {"text": f"{TEMPLATE.format(sentence=sentence)} {names[label]}"}


def write_lines(path: Path, rows: Iterable[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def write_task(folder: Path, name: str, language: Language, n_topics: int) -> None:
    """Write a task: it demonstrates half of all sentences about its topics, and asks the others."""
    topics, names = language.draw(n_topics)
    task = {
        "dataset": str(folder / name),
        "test_split": "test",
        "template": TEMPLATE,
        "verbalizers": [f" {label}" for label in names],
    }
    # JSON is YAML.
    (folder / f"{name}.yaml").write_text(json.dumps(task, indent=2), encoding="utf-8")
    sentences = language.every_sentence(topics)
    rows = [{"sentence": sentence, "label": label} for sentence, label in sentences]
    write_lines(folder / name / "train.jsonl", rows[::2])
    write_lines(folder / name / "test.jsonl", rows[1::2])


def write(folder: Path) -> None:
    """Write train.jsonl, validation.jsonl, and for each task a YAML file and a folder."""
    language = Language(np.random.default_rng(0))
    for split, n_episodes in EPISODES.items():
        write_lines(folder / f"{split}.jsonl", language.documents(n_episodes))
    for kind, n_topics in TASKS.items():
        for number in range(1, TASKS_OF_A_KIND + 1):
            write_task(folder, f"{kind}_{number}", language, n_topics)


if __name__ == "__main__":
    write(Path(sys.argv[1]).absolute())
