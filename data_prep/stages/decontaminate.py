"""Stage 5: look for text of the evaluation sets in the training documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep

from data_prep.executors import Meter
from data_prep.overlap import (
    SetSize,
    evaluation_files,
    hashes_of,
    named_sets,
    read_index,
    words_of,
    write_index,
)
from data_prep.provenance import Contamination, SetContamination
from data_prep.stages.documents import bytes_read
from data_prep.stages.near_deduplicate import different_documents, without_near_duplicates
from data_prep.stages.stage import Stage, Work, report_file, report_files, written_at
from momentum_gpt.core.files import read_json, replacing, write_json
from momentum_gpt.evaluation.few_shot.tasks import task_names

EXAMPLE_CHARACTERS = 160
"""Length of the beginning of a document that is shown as an example."""


@dataclass
class ContaminationReport:
    """What one task found."""

    documents: int = 0
    """Number of training documents that hold text of some evaluation set."""
    by_set: dict[str, int] = field(default_factory=dict)
    """Number of them by set."""
    examples: dict[str, str] = field(default_factory=dict)
    """The beginning of the first such document of each set."""


class Decontaminate(Stage):
    """Leave the hashes of the evaluation sets, and for each task the documents that overlap."""

    name = "decontaminate"
    needs = ("documents", "curate", "deduplicate", "near_deduplicate")

    def options(self) -> Any:
        """Return the options, and when the evaluation sets were written."""
        config = self.config.decontaminate
        return [asdict(config), written_at(evaluation_files(config.sets))]

    def run(self) -> None:
        """Hash the evaluation sets, then look for them."""
        config = self.config.decontaminate
        if not config.sets:
            print(
                "the text was not checked for evaluation sets: none was named; "
                "decontaminate.sets=[known] names the few-shot tasks in conf/icl/"
            )
            return

        left = set(task_names()) - set(named_sets(config))
        if config.sets == ["known"] and left:
            print(
                f"{config.data} does not hold these tasks, which are not looked for: "
                f"{', '.join(sorted(left))}"
            )
        # Written last, so that it says that the index is there, too.
        sizes = self.folder / "sets.json"
        if not sizes.is_file():
            found = write_index(config, self.folder / "index.npz")
            write_json(sizes, {name: asdict(size) for name, size in found.items()})
        pipeline = [*unique_documents(self.work), FindOverlaps(self.folder)]
        self.run_tasks(pipeline, len(self.work.inputs), bytes_read(self.work))


def unique_documents(work: Work) -> list[Any]:
    """Return the steps that yield a task's documents, without duplicates."""
    return [*different_documents(work), *without_near_duplicates(work)]


def kept_documents(work: Work) -> list[Any]:
    """Return the steps that yield a task's documents that go into the shards."""
    steps = unique_documents(work)
    config = work.config.decontaminate
    if config.sets and config.drop:
        steps.append(LeaveOut(work.folder / "decontaminate" / "documents"))
    return steps


class FindOverlaps(PipelineStep):
    """Write the numbers of this task's training documents that hold text of an evaluation set."""

    type = "filter"
    name = "overlap with evaluation sets"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Read the documents, and write the numbers and a report."""
        names, tables = read_index(self.folder / "index.npz")
        meter = Meter(self.folder / "progress", rank)
        report = ContaminationReport()
        numbers = []

        for number, document in enumerate(data):
            meter.add(len(document.text))
            # Validation text is not trained on, so it cannot contaminate.
            if document.metadata["split"] != "train":
                continue

            hashes = hashes_of(words_of(document.text))
            found: set[str] = set()
            for table in tables:
                found.update(names[place] for place in table.sets_in(hashes))
            if found:
                numbers.append(number)
                _count(report, found, document.text)

        meter.close()
        path = self.folder / "documents" / f"{rank:05d}.npy"
        with replacing(path) as partial, partial.open("wb") as file:
            np.save(file, np.array(numbers, dtype=np.int64))
        write_json(report_file(self.folder, rank), asdict(report))


def _count(report: ContaminationReport, found: set[str], text: str) -> None:
    """Add a document that overlaps with the sets `found` to a report."""
    report.documents += 1
    beginning = " ".join(text.split())[:EXAMPLE_CHARACTERS]
    for name in found:
        report.by_set[name] = report.by_set.get(name, 0) + 1
        report.examples.setdefault(name, beginning)


class LeaveOut(PipelineStep):
    """Yield all documents except for those whose numbers are in this rank's file."""

    type = "filter"
    name = "contaminated documents"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Yield datatrove's documents."""
        numbers = set(np.load(self.folder / f"{rank:05d}.npy").tolist())
        for number, document in enumerate(data):
            if number not in numbers:
                yield document


def contamination(work: Work) -> Contamination | None:
    """Return how many documents hold text of each evaluation set; None where none was named."""
    if not work.config.decontaminate.sets:
        return None

    folder = work.folder / "decontaminate"
    documents = 0
    by_set: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for path in report_files(folder):
        report = ContaminationReport(**read_json(path))
        documents += report.documents
        by_set.update(report.by_set)
        # The first task that has an example of a set gives it.
        examples = {**report.examples, **examples}

    found = {}
    for name, values in read_json(folder / "sets.json").items():
        size = SetSize(**values)
        found[name] = SetContamination(
            texts=size.texts,
            documents=by_set[name],
            example=examples.get(name),
            items=size.items,
            too_short=size.too_short,
        )
    return Contamination(documents, found)
