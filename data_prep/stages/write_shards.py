"""Stage 8: gather the encoded documents into shards, and write the manifest."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep

from data_prep.executors import Meter
from data_prep.overview import document_lengths
from data_prep.provenance import Provenance, SourceMix
from data_prep.settings import PrepareConfig
from data_prep.stages.curate import curation
from data_prep.stages.decontaminate import contamination
from data_prep.stages.deduplicate import duplicate_count
from data_prep.stages.documents import left_out, parts_read
from data_prep.stages.near_deduplicate import near_duplicates
from data_prep.stages.stage import Stage
from data_prep.stages.tokenize import tokens_reports
from data_prep.stream import (
    Shard,
    Span,
    chosen_documents,
    chosen_tokens,
    repeats_of,
    runs,
    shards_of,
    spans_of,
)
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import read_json, replacing, sha256_of_file, write_json
from momentum_gpt.data import load_tokenizer, write_shard
from momentum_gpt.data.shards import SPLITS, ShardEntry, ShardsManifest, token_dtype
from momentum_gpt.data.tokenizer import tokenizer_file

BLOCK_TOKENS = 1 << 20
"""Tokens that are copied at once."""

PACKAGES = ("momentum-gpt", "sentencepiece", "datatrove")
"""Packages that the result depends on."""

CURATION_PACKAGES = ("spacy", "fasttext-numpy2-wheel")
"""Packages that it depends on, too, where datatrove's filters or MinHash were used."""


class Write(Stage):
    """Leave `output/`: the shards, the tokenizer and the manifest."""

    name = "write"
    needs = (
        "documents",
        "curate",
        "deduplicate",
        "near_deduplicate",
        "decontaminate",
        "tokenizer",
        "tokenize",
    )

    @property
    def output(self) -> Path:
        """The folder that is renamed at the end."""
        return self.folder / "output"

    def options(self) -> Any:
        """Return the size of the shards, and the proportions of the mix."""
        shares = [(source.weight, source.max_epochs) for source in self.work.sources]
        return [self.config.shard_tokens, shares]

    def run(self) -> None:
        """Write the shards, then what describes them.

        Raises:
            UserError: a split has no documents, or a source with a weight no training documents.
        """
        tokenizer = load_tokenizer(self.result_of("tokenizer"))
        dtype = token_dtype(tokenizer.vocab_size)
        indices = self._indices()
        mix, copies = self._mix(indices)
        spans = spans_of(indices, copies)
        shards = shards_of(spans, self.config.shard_tokens)

        step = WriteShards(
            shards=shards,
            spans=spans,
            copies=copies,
            dtype=dtype.name,
            tokens=self.result_of("tokenize"),
            folder=self.folder,
        )
        total = sum(span.tokens for span in spans) * dtype.itemsize
        self.run_tasks([step], len(shards), total)

        # A run needs nothing but the output folder.
        file = tokenizer_file(self.result_of("tokenizer"))
        shutil.copyfile(file, self.output / file.name)
        made = self._provenance(mix, indices)
        manifest = ShardsManifest(
            dtype=dtype.name,
            vocab_size=tokenizer.vocab_size,
            eos_id=tokenizer.eos_id,
            tokenizer_sha256=tokenizer.sha256,
            splits=entries_by_split(saved_entries(self.folder)),
            preparation=made.to_dict(),
        )
        manifest.write(self.output)

    def _indices(self) -> list[np.ndarray]:
        """Return the index of each task's encoded documents."""
        files = sorted(self.result_of("tokenize").glob("*.npy"))
        return [np.load(path, mmap_mode="r") for path in files]

    def _mix(self, indices: list[np.ndarray]) -> tuple[list[SourceMix], list[float]]:
        """Return what each source contributes, and how often each task's documents are there.

        Raises:
            UserError: a source that has a weight has no training text.
        """
        sources = self.work.sources
        source_of = [task.source for task in self.work.inputs]
        tokens = [0] * len(sources)
        for number, index in zip(source_of, indices, strict=True):
            tokens[number] += chosen_tokens(index, "train", copy=0, copies=1.0)
        for source, count in zip(sources, tokens, strict=True):
            if source.weight is not None and not count:
                raise UserError(
                    f"corpus.sources.{source.name} has no training text: "
                    "leave it out, or give it some"
                )

        # What is taken is counted, since documents are drawn by their hashes.
        repeats = repeats_of(sources, tokens)
        copies = [repeats[number] for number in source_of]
        taken = [0] * len(sources)
        for number, index, times in zip(source_of, indices, copies, strict=True):
            for copy in range(math.ceil(times)):
                taken[number] += chosen_tokens(index, "train", copy, times)

        mix = []
        for source, have, used in zip(sources, tokens, taken, strict=True):
            epochs = used / max(1, have)
            mix.append(SourceMix(source.name, source.weight, have, used, epochs))
        return mix, copies

    def _provenance(self, mix: list[SourceMix], indices: list[np.ndarray]) -> Provenance:
        encoded = tokens_reports(self.work)
        sizes = {}
        for split in SPLITS:
            sizes[split] = sum(report.bytes[split] for report in encoded)
        model = self.config.curate.language_model
        return Provenance(
            bytes=sizes,
            by_byte=sum(report.by_byte for report in encoded),
            mix=mix,
            left_out=left_out(self.work),
            curation=curation(self.work),
            language_model_sha256=sha256_of_file(Path(model)) if model else None,
            duplicates=duplicate_count(self.work),
            near_duplicates=near_duplicates(self.work),
            contamination=contamination(self.work),
            made_with=self.config.made_with(),
            versions=versions_of(self.config),
            sources=parts_read(self.work),
            document_tokens=document_lengths(indices),
        )


def versions_of(config: PrepareConfig) -> dict[str, str]:
    """Return the versions of the packages that the result depends on."""
    names = list(PACKAGES)
    if config.curate.filters or config.near_deduplicate:
        names += CURATION_PACKAGES
    versions = {}
    for name in names:
        with suppress(PackageNotFoundError):  # not every filter needs each of them
            versions[name] = version(name)
    return versions


def entry_file(folder: Path, rank: int) -> Path:
    """Return where a task leaves the entry of its shard for the manifest."""
    return folder / "entries" / f"{rank:05d}.json"


def saved_entries(folder: Path) -> list[ShardEntry]:
    """Return the entries of all shards, in the order of their tasks."""
    files = sorted((folder / "entries").glob("*.json"))
    return [ShardEntry(**read_json(path)) for path in files]


def entries_by_split(entries: list[ShardEntry]) -> dict[str, list[ShardEntry]]:
    """Return the shards of each split.

    Raises:
        UserError: a split has none.
    """
    splits: dict[str, list[ShardEntry]] = {}
    for split in SPLITS:
        splits[split] = [entry for entry in entries if entry.file.startswith(split)]
        if not splits[split]:
            raise UserError(
                f"no document fell into the {split} split of this corpus: give more documents, "
                "cut the files into documents (corpus.separator, corpus.document_start), or name "
                "validation data (corpus.validation_paths, corpus.validation_split)"
            )
    return splits


@dataclass(frozen=True)
class Selection:
    """The documents of one task that belong to a shard."""

    rank: int
    """The task."""
    offsets: np.ndarray
    """(documents,), where each document begins among the task's tokens."""
    lengths: np.ndarray
    """(documents,), the tokens of each."""


class WriteShards(PipelineStep):
    """Write this rank's shard, gathered from the encoded documents."""

    type = "writer"
    name = "shards"

    def __init__(
        self,
        shards: list[Shard],
        spans: list[Span],
        copies: list[float],
        dtype: str,
        tokens: Path,
        folder: Path,
    ) -> None:
        super().__init__()
        self.shards = shards
        self.spans = spans
        self.copies = copies
        self.dtype = np.dtype(dtype)
        self.tokens = tokens
        self.folder = folder

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Write the shard and its entry for the manifest."""
        shard = self.shards[rank]
        selections = []
        for span in self.spans:
            if shard.overlaps(span):
                selections.append(self._selection(span, shard))

        n_documents = sum(len(selection.lengths) for selection in selections)
        n_tokens = sum(int(selection.lengths.sum()) for selection in selections)
        if not n_documents:
            return  # a document that is longer than a shard began in an earlier one

        meter = Meter(self.folder / "progress", rank)
        with replacing(self.folder / "output" / shard.file) as partial:
            blocks = self._blocks(selections, meter)
            entry = write_shard(partial, self.dtype, n_tokens, n_documents, blocks)
        meter.close()
        # Until now the file had a temporary name.
        entry = replace(entry, file=shard.file)
        write_json(entry_file(self.folder, rank), asdict(entry))

    def _selection(self, span: Span, shard: Shard) -> Selection:
        index = np.load(self.tokens / f"{span.rank:05d}.npy")  # (documents,)
        ends = np.cumsum(index["tokens"], dtype=np.int64)
        offsets = ends - index["tokens"]
        chosen = chosen_documents(index, span.split, span.copy, self.copies[span.rank])
        lengths = index["tokens"][chosen].astype(np.int64)

        # Where each chosen document begins in the stream.
        places = span.start + np.cumsum(lengths) - lengths
        inside = (places >= shard.start) & (places < shard.end)
        return Selection(span.rank, offsets[chosen][inside], lengths[inside])

    def _blocks(self, selections: list[Selection], meter: Meter) -> Iterator[np.ndarray]:
        """Yield the tokens of the selected documents, in blocks of bounded size."""
        for selection in selections:
            path = self.tokens / f"{selection.rank:05d}.bin"
            for first, end in runs(selection.offsets, selection.lengths):
                for start in range(first, end, BLOCK_TOKENS):
                    count = min(end - start, BLOCK_TOKENS)
                    offset = start * self.dtype.itemsize
                    tokens = np.fromfile(path, self.dtype, count, offset=offset)
                    yield tokens
                    meter.add(tokens.nbytes)
