"""What the stages have in common: their interface, their folders, and the tasks they run.

A stage keeps all it makes in a folder of its own inside the working folder, `.NAME.partial/STAGE`
beside the output. A file `key` in it is a hash of the stage's options and of the keys of all
stages before: a result that was made with other options, or from other input, is made again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from data_prep.executors import run_tasks
from data_prep.settings import PrepareConfig
from data_prep.sources import Corpus, Part, Source


class Input(NamedTuple):
    """What one task reads."""

    source: int
    """The number of the source in the mix."""
    parts: list[Part]


@dataclass
class Work:
    """A preparation as it goes on: its options, its input and its folder."""

    config: PrepareConfig
    sources: list[Source]
    folder: Path
    """The working folder; each stage has a subfolder."""
    key: str = ""
    """The key of the last stage that is complete."""
    seconds: dict[str, float] = field(default_factory=dict)
    """The time that the tasks of each stage took in this process."""

    @cached_property
    def inputs(self) -> list[Input]:
        """What each task reads. From here to the tokens, each stage has one task for each."""
        inputs = []
        for number, source in enumerate(self.sources):
            for parts in _grouped(source.corpus, self.config.piece_bytes):
                inputs.append(Input(number, parts))
            # What was skipped is known once the parts are.
            for note in source.corpus.notes():
                print(note, flush=True)
        return inputs

    def run(self, stage: Stage) -> None:
        """Run a stage, after emptying its folder if that belongs to other options or input."""
        # Options may hold dataclasses such as parts, which are described by their repr.
        described = json.dumps([self.key, stage.options()], default=str, sort_keys=True)
        key = hashlib.sha256(described.encode()).hexdigest()
        folder = self.folder / stage.name
        marker = folder / "key"
        if folder.is_dir() and not (marker.is_file() and marker.read_text() == key):
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        # Written first: a stage that is killed below is resumed, not made again.
        marker.write_text(key)

        stage.run()
        # Later stages depend on all that this one depends on.
        self.key = key


def _grouped(corpus: Corpus, piece_bytes: int) -> Iterator[list[Part]]:
    """Yield groups of consecutive parts with at least that many bytes together."""
    held: list[Part] = []
    size = 0
    for part in corpus.parts(piece_bytes):
        held.append(part)
        size += part.size
        # A shard of a streamed data set, whose size is not known, is a task by itself.
        unknown_size = part.size == 0 and part.end is not None
        if unknown_size or size >= piece_bytes:
            yield held
            held = []
            size = 0
    if held:
        yield held


class Stage(ABC):
    """One stage of a preparation.

    A stage can be interrupted at any moment: its tasks mark what is complete, and everything else
    is written whole or not at all.
    """

    name: ClassVar[str]
    """The name of its folder, and the value of the option `until`."""
    needs: ClassVar[tuple[str, ...]] = ()
    """The earlier stages whose results it reads."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.config = work.config
        self.folder = work.folder / self.name

    @abstractmethod
    def options(self) -> Any:
        """Return what the result depends on, besides the results of earlier stages, for JSON."""

    @abstractmethod
    def run(self) -> None:
        """Do what is not done yet."""

    def result_of(self, stage: str) -> Path:
        """Return the folder of an earlier stage."""
        assert stage in self.needs, f"{self.name} does not declare that it needs {stage}"
        return self.work.folder / stage

    def run_tasks(
        self,
        pipeline: list[Any],
        tasks: int,
        total_bytes: int = 0,
        subfolder: str = "",
    ) -> None:
        """Run the tasks of the stage that are not complete yet.

        Args:
            pipeline: datatrove's steps.
            tasks: number of tasks.
            total_bytes: sum of what the tasks' meters count; 0 if it is not known.
            subfolder: for the marks of the tasks, in a stage that runs several pipelines.
        """
        seconds = run_tasks(
            self.config.executor,
            pipeline,
            tasks,
            self.folder / subfolder,
            self.name,
            total_bytes,
        )
        earlier = self.work.seconds.get(self.name, 0.0)
        self.work.seconds[self.name] = earlier + seconds


def report_file(folder: Path, rank: int) -> Path:
    """Return where a task of a stage reports what it did."""
    return folder / "reports" / f"{rank:05d}.json"


def report_files(folder: Path) -> list[Path]:
    """Return the reports of a stage's tasks, in the order of their ranks."""
    return sorted((folder / "reports").glob("*.json"))


def written_at(paths: Iterable[str]) -> list[tuple[str, int]]:
    """Return when each file was last written, in ns: part of the key of what is made from it."""
    stamps = []
    for path in sorted(set(paths)):
        if Path(path).is_file():
            stamps.append((path, Path(path).stat().st_mtime_ns))
    return stamps
