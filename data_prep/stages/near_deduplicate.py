"""Stage 4: find training documents with nearly equal text, with datatrove's MinHash.

Its configuration is FineWeb's: 14 buckets of 8 hashes of 5 words in a row. Two documents of which
75% of these are equal are found with a probability of 77%, and with 85%, of 99%.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import (
    MinhashBuildIndex,
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.utils.hashing import HashConfig

from data_prep.curation import check_language
from data_prep.provenance import NearDuplicates
from data_prep.stages.deduplicate import without_duplicates
from data_prep.stages.documents import Documents, documents_folder
from data_prep.stages.stage import Stage, Work
from momentum_gpt.core.files import replacing

CONFIG = MinhashConfig(hash_config=HashConfig(hash_fc="sha1"))  # xxhash 4 takes no strings

SIGNATURES_READ = 1024
"""Signatures that are read at once."""


class NearDeduplicate(Stage):
    """Leave the numbers of the documents to drop, for each task, in `duplicates/`."""

    name = "near_deduplicate"
    needs = ("documents", "curate", "deduplicate")

    def options(self) -> Any:
        """Return whether it is done at all, and the language that words are cut by."""
        return [self.config.near_deduplicate, self.config.curate.language]

    def run(self) -> None:
        """Write the signatures of each task's documents, then compare all signatures.

        Raises:
            UserError: the language is unknown, or its package is missing.
        """
        if not self.config.near_deduplicate:
            return
        check_language(self.config.curate.language)
        for split in ("validation", "train"):
            self._sign(split)

        index = str(self.folder / "index")
        pairs = str(self.folder / "pairs")
        # A document of the index is no candidate, and all that is near one is dropped.
        build = MinhashBuildIndex(self._signatures("validation"), index, "validation", CONFIG)
        compare = MinhashDedupBuckets(
            self._signatures("train"),
            pairs,
            index_folder=index,
            config=CONFIG,
            only_dedup_in_index=False,
            lines_to_buffer=SIGNATURES_READ,
        )
        cluster = MinhashDedupCluster(pairs, str(self.folder / "duplicates"), CONFIG)
        self.run_tasks([build], CONFIG.num_buckets, subfolder="index")
        self.run_tasks([compare], CONFIG.num_buckets, subfolder="compare")
        self.run_tasks([cluster], 1, subfolder="cluster")

    def _signatures(self, split: str) -> str:
        return str(self.folder / "signatures" / split)

    def _sign(self, split: str) -> None:
        language = self.config.curate.language
        sign = MinhashDedupSignature(self._signatures(split), CONFIG, language)
        # One task for each input, as in every stage, so that ranks mean the same documents.
        only = OnlySplit(split, self.folder / "sizes")
        pipeline = [*different_documents(self.work), only, sign]
        self.run_tasks(pipeline, len(self.work.inputs), subfolder=f"sign_{split}")


class OnlySplit(PipelineStep):
    """Yield all documents, but those of another split without text, and write their sizes.

    A document without text gets no signature, and its number is taken.
    """

    type = "filter"
    name = "split"

    def __init__(self, split: str, folder: Path) -> None:
        super().__init__()
        self.split = split
        self.folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Yield datatrove's documents."""
        sizes = []
        for document in data:
            sizes.append(len(document.text.encode()))
            in_split = document.metadata["split"] == self.split
            yield document if in_split else Document("", document.id)

        path = self.folder / f"{rank:05d}.npy"
        with replacing(path) as partial, partial.open("wb") as file:
            np.save(file, np.array(sizes, dtype=np.int64))


def different_documents(work: Work) -> list[Any]:
    """Return the steps that yield a task's documents, without those with equal text."""
    steps: list[Any] = [Documents(documents_folder(work) / "documents")]
    if work.config.deduplicate:
        steps.append(without_duplicates(work))
    return steps


def without_near_duplicates(work: Work) -> list[Any]:
    """Return the step that drops the near duplicates; none if they were not looked for."""
    if not work.config.near_deduplicate:
        return []
    return [MinhashDedupFilter(str(work.folder / "near_deduplicate" / "duplicates"))]


def near_duplicates(work: Work) -> NearDuplicates | None:
    """Return how much was dropped; None if near duplicates were not looked for."""
    if not work.config.near_deduplicate:
        return None
    folder = work.folder / "near_deduplicate"
    found = NearDuplicates(0, 0)
    for path in (folder / "duplicates").glob("*.remove"):
        numbers = np.fromfile(path, "<u4")
        sizes = np.load(folder / "sizes" / f"{int(path.stem):05d}.npy")
        found.documents += len(numbers)
        found.bytes += int(sizes[numbers].sum())
    return found
