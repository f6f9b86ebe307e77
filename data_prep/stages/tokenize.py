"""Stage 7: encode the documents of each task."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep

from data_prep.executors import Meter
from data_prep.stages.decontaminate import kept_documents
from data_prep.stages.documents import bytes_read
from data_prep.stages.stage import Stage, Work, report_file, report_files
from data_prep.stream import INDEX
from data_prep.words import MARK, WordEncoder, cuts_are_exact
from momentum_gpt.core.files import read_json, replacing, write_json
from momentum_gpt.data import Tokenizer, load_tokenizer
from momentum_gpt.data.shards import SPLITS, token_dtype
from momentum_gpt.data.tokenizer import tokenizer_file

BATCH_CHARACTERS = 4_000_000
"""Characters of text that are encoded at once."""

Encode = Callable[[list[str]], list[np.ndarray]]
"""Texts -> the ids of each."""


@dataclass
class TokensReport:
    """What one task encoded."""

    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    """UTF-8 bytes of the documents of each split."""
    by_byte: int = 0
    """Number of tokens that are single bytes, for lack of a piece."""
    marked: int = 0
    """Number of documents that hold sentencepiece's space mark."""


class Tokenize(Stage):
    """Leave `RANK.bin`, the ids of each task's documents, and `RANK.npy`, an index of them."""

    name = "tokenize"
    needs = ("documents", "deduplicate", "decontaminate", "tokenizer")

    def options(self) -> Any:
        """Return the hash of the tokenizer."""
        return load_tokenizer(self.result_of("tokenizer")).sha256

    def run(self) -> None:
        """Encode the documents, and print what a reader should know about the tokenizer."""
        file = tokenizer_file(self.result_of("tokenizer"))
        if not cuts_are_exact(load_tokenizer(file)):
            print(
                "this tokenizer has pieces that cross spaces, or is not a plain BPE: "
                "whole documents are encoded, which is slower"
            )
        pipeline = [*kept_documents(self.work), Encoding(file, self.folder)]
        self.run_tasks(pipeline, len(self.work.inputs), bytes_read(self.work))

        marked = sum(report.marked for report in tokens_reports(self.work))
        if marked and file.suffix == ".model":
            print(
                f"{marked} documents hold U+2581, which sentencepiece uses to mark spaces: "
                "it is read as a space there"
            )


def tokens_reports(work: Work) -> list[TokensReport]:
    """Return what each task of the stage encoded, in the order of their ranks."""
    files = report_files(work.folder / "tokenize")
    return [TokensReport(**read_json(path)) for path in files]


class Encoding(PipelineStep):
    """Write this task's documents as token ids, one after another, and an index of them."""

    type = "tokenizer"
    name = "token ids"

    def __init__(self, tokenizer: Path, folder: Path) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Write ids, index and report."""
        tokenizer = load_tokenizer(self.tokenizer)
        dtype = token_dtype(tokenizer.vocab_size)
        is_byte = np.zeros(tokenizer.vocab_size, dtype=bool)  # (V,)
        is_byte[tokenizer.byte_ids()] = True
        encode = encoder_of(tokenizer)

        meter = Meter(self.folder / "progress", rank)
        report = TokensReport()
        index = []
        with replacing(self.folder / f"{rank:05d}.bin") as partial, partial.open("wb") as file:
            for batch in batches(data):
                texts = [document.text for document in batch]
                for document, ids in zip(batch, encode(texts), strict=True):
                    split = document.metadata["split"]
                    content = document.text.encode()
                    file.write(np.append(ids, tokenizer.eos_id).astype(dtype).tobytes())
                    index.append((len(ids) + 1, SPLITS.index(split), hash_of(content)))

                    report.bytes[split] += len(content)
                    report.by_byte += int(is_byte[ids].sum())
                    report.marked += MARK in document.text
                    meter.add(len(content))

        meter.close()
        with replacing(self.folder / f"{rank:05d}.npy") as partial, partial.open("wb") as file:
            np.save(file, np.array(index, dtype=INDEX))
        write_json(report_file(self.folder, rank), asdict(report))


def encoder_of(tokenizer: Tokenizer) -> Encode:
    """Return the fastest exact way to encode documents."""
    if cuts_are_exact(tokenizer):
        return WordEncoder(tokenizer).encode
    return tokenizer.encode_documents


def hash_of(content: bytes) -> int:
    """Return a hash below 2^64, with other bytes of the sha256 than those that `split_of` uses."""
    return int.from_bytes(hashlib.sha256(content).digest()[8:16], "big")


def batches(documents: Iterator[Any]) -> Iterator[list[Any]]:
    """Yield lists of documents, of about BATCH_CHARACTERS together."""
    batch: list[Any] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch = []
            size = 0
    if batch:
        yield batch
