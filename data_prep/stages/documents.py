"""Stage 1: read the corpus, clean and filter the documents, and split them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datatrove.data
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers.jsonl import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter

from data_prep.executors import Meter
from data_prep.settings import CleanConfig, PrepareConfig
from data_prep.sources import Document, Faults, Part, build_sources, split_of
from data_prep.stages.stage import Input, Stage, Work, report_file, report_files, written_at
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import read_json, write_json
from momentum_gpt.data.text_files import NEWLINES_CHANGED, with_newlines


@dataclass(frozen=True)
class HashedPart(Part):
    """A part that was read."""

    sha256: str | None = None
    """The hash of its bytes; None where there is no file."""


@dataclass
class DocumentsReport:
    """What one task read."""

    source: int
    """The number of the source in the mix."""
    documents: int = 0
    """Number of documents that were kept."""
    bytes: int = 0
    """Their UTF-8 bytes."""
    parts: list[dict[str, Any]] = field(default_factory=list)
    """A HashedPart for each part."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Number of documents that were left out or cut, by reason.

    The byte-order marks and newlines that were changed are counted here, too.
    """
    first: dict[str, str] = field(default_factory=dict)
    """The first message of each kind of fault."""


class ReadDocuments(Stage):
    """Leave `documents/RANK.jsonl.zst` and a report for each task."""

    name = "documents"

    def options(self) -> Any:
        """Return all that the text depends on, with the times at which its files were written."""
        config = self.config
        inputs = self.work.inputs
        paths = [part.path for task in inputs for part in task.parts]
        return [
            config.corpus,
            inputs,
            written_at(paths),
            asdict(config.clean),
            config.share_for_validation,
            config.on_error,
        ]

    def run(self) -> None:
        """Read the documents.

        Raises:
            UserError: there is no document.
        """
        inputs = self.work.inputs
        folder = str(self.folder / "documents")
        pipeline = [
            Read(self.config, inputs, self.folder),
            JsonlWriter(folder, "${rank}.jsonl", compression="zstd"),
        ]
        total = sum(part.size for task in inputs for part in task.parts)
        self.run_tasks(pipeline, len(inputs), total)

        if not any(report.documents for report in documents_reports(self.folder)):
            counts: Counter[str] = Counter()
            for reasons in left_out(self.work).values():
                counts.update(reasons)
            found = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
            raise UserError(
                f"there is no document in this corpus ({found or 'it has no files'}): "
                "add files with text"
            )


def documents_reports(folder: Path) -> list[DocumentsReport]:
    """Return what each task of the stage read, in the order of their ranks."""
    return [DocumentsReport(**read_json(path)) for path in report_files(folder)]


def documents_folder(work: Work) -> Path:
    """Return the folder of the stage whose documents go on: curated, if there are filters."""
    return work.folder / ("curate" if work.config.curate.filters else "documents")


def bytes_read(work: Work) -> int:
    """Return the UTF-8 bytes of all documents that go on."""
    reports = report_files(documents_folder(work))
    return sum(read_json(path)["bytes"] for path in reports)


class Read(PipelineStep):
    """Yield the documents of this task, cleaned and filtered, each with its split.

    What a task makes depends on its rank alone, never on the number of workers.
    """

    type = "reader"
    name = "documents"

    def __init__(self, config: PrepareConfig, inputs: list[Input], folder: Path) -> None:
        super().__init__()
        self.config = config
        self.inputs = inputs
        self.folder = folder

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Yield datatrove's documents, and write the report at the end."""
        config = self.config
        source, parts = self.inputs[rank]
        # Built here, since a task may run on another machine and is sent there as a pickle.
        corpus = build_sources(config.corpus)[source].corpus
        faults = Faults(skip=config.on_error == "skip")
        meter = Meter(self.folder / "progress", rank)
        report = DocumentsReport(source)

        for part in parts:
            for document in corpus.read(part, faults):
                text = cleaned(document.text, config.clean, faults)
                if text is None:
                    continue

                size = len(text.encode())
                report.documents += 1
                report.bytes += size
                meter.add(size)
                yield self._marked(Document(text, document.split), f"{rank}/{report.documents}")
            hashed = HashedPart(**asdict(part), sha256=corpus.sha256(part))
            report.parts.append(asdict(hashed))

        meter.close()
        # Plain dictionaries: dataclasses.asdict does not copy a Counter correctly.
        report.left_out = dict(faults.counts)
        report.first = faults.first
        write_json(report_file(self.folder, rank), asdict(report))

    def _marked(self, document: Document, name: str) -> Any:
        """Return datatrove's form of a document, with its split."""
        split = document.split or split_of(document.text, self.config.share_for_validation)
        return datatrove.data.Document(text=document.text, id=name, metadata={"split": split})


def cleaned(text: str, clean: CleanConfig, faults: Faults) -> str | None:
    """Return the text as it is kept; None if the document is left out, which is counted."""
    if clean.normalize:
        text = unicodedata.normalize(clean.normalize, text)  # type: ignore[arg-type]
    if clean.newlines:
        text, count = with_newlines(text)
        if count:
            faults.counts[NEWLINES_CHANGED] += count

    size = len(text.encode())
    if size < clean.min_bytes:
        faults.counts[f"shorter than {clean.min_bytes} bytes"] += 1
        return None
    if clean.max_bytes is not None and size > clean.max_bytes:
        faults.counts[f"longer than {clean.max_bytes} bytes"] += 1
        return None
    return text


class Documents(JsonlReader):
    """Yield what `Read` left for this rank.

    datatrove's reader deals out the files that exist; here a file belongs to the rank in its name,
    since a task without documents leaves none.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), compression="zstd", add_file_path=False)
        self.reports = folder.parent

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Yield datatrove's documents.

        Raises:
            UserError: there are fewer than were written; datatrove's reader just ends.
        """
        expected = read_json(report_file(self.reports, rank))["documents"]
        name = f"{rank:05d}.jsonl.zst"
        count = 0
        if self.data_folder.isfile(name):
            for document in self.read_file(name):
                count += 1
                yield document
        if count != expected:
            raise UserError(
                f"{self.data_folder.path}/{name} holds {count:,} documents, not the {expected:,} "
                f"that were written: remove {self.reports.parent} and run the command again"
            )


def left_out(work: Work) -> dict[str, dict[str, int]]:
    """Return how many documents of each source were left out, or cut, by reason."""
    counts: dict[int, Counter[str]] = {}
    for report in documents_reports(work.folder / "documents"):
        counts.setdefault(report.source, Counter()).update(report.left_out)

    by_source = {}
    for number, reasons in counts.items():
        if reasons:
            by_source[work.sources[number].name] = dict(sorted(reasons.items()))
    return by_source


def parts_read(work: Work) -> list[dict[str, Any]]:
    """Return the parts that were read, with their hashes and the names of their sources."""
    found = []
    for report in documents_reports(work.folder / "documents"):
        name = work.sources[report.source].name
        found += [{**part, "source": name} for part in report.parts]
    return found
