"""Stage 2: datatrove's filters of documents, and its removal of personal data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.writers.jsonl import JsonlWriter

from data_prep.curation import apply, build_steps
from data_prep.executors import Meter
from data_prep.provenance import FilterCount
from data_prep.settings import FILTERS, CurateConfig
from data_prep.stages.documents import Documents, documents_reports
from data_prep.stages.stage import Stage, Work, report_file, report_files, written_at
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import read_json, write_json

CHANGED = "text changed"
"""What stands for a reason where a filter changed a document and did not leave it out."""


Counts = dict[tuple[str, str], FilterCount]
"""What was done, by filter and reason."""


@dataclass
class CurateReport:
    """What one task did."""

    documents: int = 0
    """Number of documents that were kept."""
    bytes: int = 0
    """Their UTF-8 bytes."""
    counts: list[dict[str, Any]] = field(default_factory=list)
    """A FilterCount for each filter and reason."""


class Curate(Stage):
    """Leave `documents/RANK.jsonl.zst`, as the stage before, and a report for each task."""

    name = "curate"
    needs = ("documents",)

    def options(self) -> Any:
        """Return the options, and when the model of the languages was written."""
        config = self.config.curate
        return [asdict(config), written_at([config.language_model or ""])]

    def run(self) -> None:
        """Apply the filters.

        Raises:
            UserError: a package or an argument is missing or unknown, or no document is left.
        """
        config = self.config.curate
        if not config.filters:
            return
        build_steps(config)  # raises a UserError before any task is started

        documents = self.result_of("documents")
        pipeline = [
            Documents(documents / "documents"),
            ApplyFilters(config, self.folder),
            JsonlWriter(str(self.folder / "documents"), "${rank}.jsonl", compression="zstd"),
        ]
        total = sum(report.bytes for report in documents_reports(documents))
        self.run_tasks(pipeline, len(self.work.inputs), total)

        reports = [CurateReport(**read_json(path)) for path in report_files(self.folder)]
        if not any(report.documents for report in reports):
            raise UserError(
                f"curate.filters={config.filters} leave out every document: use fewer, or set "
                "their thresholds with curate.arguments"
            )


class ApplyFilters(PipelineStep):
    """Yield the documents that pass all filters, and count the others."""

    type = "filter"
    name = "curation"

    def __init__(self, config: CurateConfig, folder: Path) -> None:
        super().__init__()
        self.config = config
        self.folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Yield datatrove's documents, and write the report at the end."""
        # Built here, since a task may run on another machine and is sent there as a pickle.
        steps = build_steps(self.config)
        meter = Meter(self.folder / "progress", rank)
        report = CurateReport()
        counts: Counts = {}
        for document in data:
            meter.add(len(document.text))
            if passes(document, steps, counts):
                report.documents += 1
                report.bytes += len(document.text.encode())
                yield document

        meter.close()
        report.counts = [asdict(count) for count in counts.values()]
        write_json(report_file(self.folder, rank), asdict(report))


def passes(document: Document, steps: dict[str, Any], counts: Counts) -> bool:
    """Apply the filters in turn, and count what they do; return whether the document stays."""
    for name, step in steps.items():
        before = document.text
        reason = apply(step, document)
        after = document.text if reason is None else ""
        if after != before:
            size = len(before.encode()) - len(after.encode())
            _add(counts, FilterCount(name, reason or CHANGED, 1, size))
        if reason is not None:
            return False
    return True


def _add(counts: Counts, count: FilterCount) -> None:
    key = (count.filter, count.reason)
    total = counts.setdefault(key, FilterCount(count.filter, count.reason, 0, 0))
    total.documents += count.documents
    total.bytes += count.bytes


def curation(work: Work) -> list[FilterCount]:
    """Return what each filter did, in the order in which they were applied."""
    counts: Counts = {}
    for path in report_files(work.folder / "curate"):
        for values in CurateReport(**read_json(path)).counts:
            _add(counts, FilterCount(**values))
    return sorted(counts.values(), key=lambda count: (FILTERS.index(count.filter), count.reason))
