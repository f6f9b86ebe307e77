"""Stage 3: find documents with equal text, with datatrove's exact deduplication."""

from __future__ import annotations

from typing import Any

from datatrove.data import Document
from datatrove.pipeline.dedup.exact_dedup import (
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
)

from data_prep.stages.documents import Documents, documents_folder
from data_prep.stages.stage import Stage, Work

TASKS_PER_FINDER = 16
"""Tasks whose signatures one task compares, about."""

SIGNATURES_READ = 4096
"""Signatures that are read at once."""

BYTES_OF_A_DUPLICATE = 4
"""datatrove notes each duplicate as the number of the document, in 4 bytes."""


def bytes_of(document: Document) -> bytes:
    """Return what must be equal."""
    return document.text.encode()


def priority_of(document: Document) -> int:
    """Return which of two equal documents stays: the validation document, so that it is unseen."""
    return 2 if document.metadata["split"] == "validation" else 1


DEDUP = ExactDedupConfig(content_getter=bytes_of, document_priority=priority_of)


class Deduplicate(Stage):
    """Leave the numbers of the documents to drop, for each task, in `duplicates/`."""

    name = "deduplicate"
    needs = ("documents", "curate")

    def options(self) -> Any:
        """Return whether it is done at all."""
        return self.config.deduplicate

    def run(self) -> None:
        """Write the signatures of each task's documents, then compare all signatures."""
        if not self.config.deduplicate:
            return
        tasks = len(self.work.inputs)
        finders = max(1, tasks // TASKS_PER_FINDER)
        signatures = str(self.folder / "signatures")
        duplicates = str(self.folder / "duplicates")

        # One task for each input, as in every stage, so that ranks mean the same documents.
        sign = [
            Documents(documents_folder(self.work) / "documents"),
            ExactDedupSignature(signatures, DEDUP, finders),
        ]
        self.run_tasks(sign, tasks, subfolder="sign")

        # Each finder compares the signatures of one range of hashes, from all tasks.
        find = [ExactFindDedups(signatures, duplicates, DEDUP, lines_to_buffer=SIGNATURES_READ)]
        self.run_tasks(find, finders, subfolder="find")


def without_duplicates(work: Work) -> ExactDedupFilter:
    """Return the step that drops the duplicates."""
    return ExactDedupFilter(str(work.folder / "deduplicate" / "duplicates"), DEDUP)


def duplicate_count(work: Work) -> int | None:
    """Return the number of documents that were dropped; None if duplicates were not looked for."""
    if not work.config.deduplicate:
        return None
    files = (work.folder / "deduplicate" / "duplicates").rglob("*.c4_dup")
    return sum(path.stat().st_size // BYTES_OF_A_DUPLICATE for path in files)
