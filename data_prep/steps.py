"""The steps of the preparation that datatrove does not have: reading with every fault counted, splitting, encoding, shards.

Each is a step of a datatrove pipeline: `run(documents, rank, world_size)`, a generator, where the rank is the number of the
task. What a task makes depends on its rank alone, never on how many workers there are.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers.jsonl import JsonlReader

from data_prep.corpora import Faults, Part, build_sources, split_of
from data_prep.executors import Meter
from data_prep.train_tokenizer import choose
from data_prep.words import MARK, WordEncoder, cuts_are_exact
from momentum_gpt.data import load_tokenizer, write_shard
from momentum_gpt.data.shards import SPLITS, token_dtype

BATCH_BYTES = 4_000_000
"""Text that is encoded at once."""

BLOCK_TOKENS = 1 << 20
"""Tokens that are copied at once."""

INDEX = np.dtype([("tokens", "<u4"), ("split", "u1"), ("hash", "<u8")])
"""What is kept of each encoded document: its tokens with the end, its split's place in SPLITS, a hash of its text."""


@dataclass
class CleanConfig:
    """What is done to the text of a document, and which documents are left out. Nothing, unless you say so."""

    normalize: str | None = None
    """NFC | NFKC: Unicode's forms. null: text stays as it is."""
    newlines: bool = False
    r"""\\r\\n and \\r become \\n."""
    min_bytes: int = 0
    """Shorter documents are left out."""
    max_bytes: int | None = None
    """So are longer ones."""


class Read(PipelineStep):
    """The documents of this rank's piece, cleaned and filtered, each with its split; and a report of what was read."""

    type, name = "reader", "documents"

    def __init__(
        self,
        corpus: dict[str, Any],
        pieces: list[tuple[int, list[Part]]],
        clean: CleanConfig,
        validation_fraction: float,
        on_error: str,
        folder: Path,
    ) -> None:
        super().__init__()
        self.corpus, self.pieces, self.clean = corpus, pieces, clean
        self.validation_fraction, self.on_error, self.folder = validation_fraction, on_error, folder

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        source, parts = self.pieces[rank]
        corpus, faults = (
            build_sources(self.corpus)[source].corpus,
            Faults(skip=self.on_error == "skip"),
        )
        meter, number, n_bytes = Meter(self.folder / "progress", rank), 0, 0
        hashes = []
        for part in parts:
            for text, split in corpus.read(part, faults):
                cleaned = self._cleaned(text, faults)
                if cleaned is None:
                    continue
                size = len(cleaned.encode())
                number, n_bytes = number + 1, n_bytes + size
                meter.add(size)
                split = split or split_of(cleaned, self.validation_fraction)
                yield Document(text=cleaned, id=f"{rank}/{number}", metadata={"split": split})
            hashes.append({**asdict(part), "sha256": corpus.sha256(part)})
        meter.close()
        report = {
            "source": source,
            "documents": number,
            "bytes": n_bytes,
            "parts": hashes,
            "left_out": faults.counts,
        }
        write_json(self.folder / "reports" / f"{rank:05d}.json", {**report, "first": faults.first})

    def _cleaned(self, text: str, faults: Faults) -> str | None:
        if self.clean.normalize:
            text = unicodedata.normalize(self.clean.normalize, text)  # type: ignore[arg-type]
        if self.clean.newlines:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        size = len(text.encode())
        if size < self.clean.min_bytes or not text.strip():
            faults.counts[f"shorter than {self.clean.min_bytes} bytes"] += 1
            return None
        if self.clean.max_bytes is not None and size > self.clean.max_bytes:
            faults.counts[f"longer than {self.clean.max_bytes} bytes"] += 1
            return None
        return text


class Documents(JsonlReader):
    """What `Read` left of this rank's piece; datatrove's reader, but by the file's name: a piece may be empty."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), compression="zstd", add_file_path=False)

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        name = f"{rank:05d}.jsonl.zst"
        if self.data_folder.isfile(name):
            yield from self.read_file(name)


def bytes_of(document: Document) -> bytes:
    return document.text.encode()


def priority_of(document: Document) -> int:
    """Of two equal documents the one for validation stays, so that it is not trained on."""
    return 2 if document.metadata["split"] == "validation" else 1


class LeaveOut(PipelineStep):
    """All but the documents whose numbers are in the folder's file of this rank."""

    type, name = "filter", "contaminated documents"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        numbers = set(np.load(self.folder / f"{rank:05d}.npy").tolist())
        yield from (document for number, document in enumerate(data) if number not in numbers)


class Sample(PipelineStep):
    """The training documents that the tokenizer may be trained on: those whose hash is below a share of its range."""

    type, name = "writer", "sample for the tokenizer"

    def __init__(self, share: float, folder: Path) -> None:
        super().__init__()
        self.share, self.folder = share, folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        meter = Meter(self.folder / "progress", rank)
        with (
            replacing(self.folder / "samples" / f"{rank:05d}.jsonl") as path,
            path.open("w") as file,
        ):
            for document in data:
                meter.add(len(document.text))
                if (
                    document.metadata["split"] == "train"
                    and choose(document.text) < self.share * 2**64
                ):
                    file.write(json.dumps(document.text) + "\n")


class Tokenize(PipelineStep):
    """This rank's documents as token ids, one after another, and an index of them."""

    type, name = "tokenizer", "token ids"

    def __init__(self, tokenizer: Path, folder: Path) -> None:
        super().__init__()
        self.tokenizer, self.folder = tokenizer, folder

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        tokenizer = load_tokenizer(self.tokenizer)
        dtype, fallback = (
            token_dtype(tokenizer.vocab_size),
            np.zeros(tokenizer.vocab_size, dtype=bool),
        )
        fallback[tokenizer.byte_ids()] = True
        encode = (
            WordEncoder(tokenizer).encode
            if cuts_are_exact(tokenizer)
            else tokenizer.encode_documents
        )
        meter, index, by_byte, marked, n_bytes = (
            Meter(self.folder / "progress", rank),
            [],
            0,
            0,
            dict.fromkeys(SPLITS, 0),
        )
        with replacing(self.folder / f"{rank:05d}.bin") as path, path.open("wb") as file:
            for batch in batched(data, BATCH_BYTES):
                texts = [document.text for document in batch]
                for document, ids in zip(batch, encode(texts), strict=True):
                    data_bytes, split = document.text.encode(), document.metadata["split"]
                    file.write(np.append(ids, tokenizer.eos_id).astype(dtype).tobytes())
                    digest = int.from_bytes(hashlib.sha256(data_bytes).digest()[8:16], "big")
                    index.append((len(ids) + 1, SPLITS.index(split), digest))
                    by_byte += int(fallback[ids].sum())
                    marked += MARK in document.text
                    n_bytes[split] += len(data_bytes)
                    meter.add(len(data_bytes), len(ids) + 1)
        meter.close()
        with replacing(self.folder / f"{rank:05d}.npy") as path, path.open("wb") as file:
            np.save(file, np.array(index, dtype=INDEX))
        report = {"bytes": n_bytes, "by_byte": by_byte, "marked": marked}
        write_json(self.folder / "reports" / f"{rank:05d}.json", report)


@dataclass(frozen=True)
class Shard:
    """The documents that begin at tokens start ... end - 1 of a split's stream."""

    split: str
    number: int
    start: int
    end: int

    @property
    def file(self) -> str:
        return f"{self.split}_{self.number:05d}.npy"


@dataclass(frozen=True)
class Stretch:
    """Where a rank's documents stand in a split's stream: its documents once, the second copies after all first ones, ..."""

    split: str
    copy: int
    rank: int
    start: int
    tokens: int


class WriteShards(PipelineStep):
    """This rank's shard, gathered from the encoded documents."""

    type, name = "writer", "shards"

    def __init__(
        self,
        shards: list[Shard],
        stretches: list[Stretch],
        copies: list[float],
        dtype: str,
        tokens: Path,
        folder: Path,
    ) -> None:
        super().__init__()
        self.shards, self.stretches, self.copies = shards, stretches, copies
        self.dtype, self.tokens, self.folder = dtype, tokens, folder

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        shard = self.shards[rank]
        overlapping = [
            it
            for it in self.stretches
            if it.split == shard.split
            and it.start < shard.end
            and it.start + it.tokens > shard.start
        ]
        found = [(it, *self._documents(it, shard)) for it in overlapping]
        if not any(len(its) for _, _, its in found):
            return  # a document longer than a shard began before
        n_tokens, n_documents = (
            sum(int(its.sum()) for _, _, its in found),
            sum(len(its) for _, _, its in found),
        )
        meter = Meter(self.folder.parent / "progress", rank)

        def pieces() -> Iterator[np.ndarray]:
            for stretch, offsets, lengths in found:
                path = self.tokens / f"{stretch.rank:05d}.bin"
                for begin, end in runs(offsets, lengths):
                    for start in range(begin, end, BLOCK_TOKENS):
                        n = min(end - start, BLOCK_TOKENS)
                        tokens = np.fromfile(
                            path, self.dtype, n, offset=start * np.dtype(self.dtype).itemsize
                        )
                        yield tokens
                        meter.add(tokens.nbytes, n)

        with replacing(self.folder / shard.file) as path:
            entry = write_shard(path, np.dtype(self.dtype), n_tokens, n_documents, pieces())
        meter.close()
        write_json(
            self.folder.parent / "entries" / f"{rank:05d}.json",
            {**asdict(entry), "file": shard.file},
        )

    def _documents(self, stretch: Stretch, shard: Shard) -> tuple[np.ndarray, np.ndarray]:
        """Offsets in the rank's tokens, and lengths, of the stretch's documents that are the shard's."""
        index = np.load(self.tokens / f"{stretch.rank:05d}.npy")
        offsets = np.cumsum(index["tokens"], dtype=np.int64) - index["tokens"]
        chosen = chosen_documents(index, stretch.split, stretch.copy, self.copies[stretch.rank])
        lengths = index["tokens"][chosen].astype(np.int64)
        places = stretch.start + np.cumsum(lengths) - lengths
        inside = (places >= shard.start) & (places < shard.end)
        return offsets[chosen][inside], lengths[inside]


def chosen_documents(index: np.ndarray, split: str, copy: int, copies: float) -> np.ndarray:
    """Which documents are in the split's copy number `copy`: with copies = 1.3, all in the first, three tenths in the second.

    Drawn by the documents' hashes. Validation documents are there once.
    """
    inside = index["split"] == SPLITS.index(split)
    if split == "validation":
        return inside if copy == 0 else np.zeros_like(inside)
    share = copies - copy
    return inside & (
        index["hash"] < np.uint64(min(share, 1.0) * (2**64 - 1))
        if 0 < share < 1
        else np.full(len(index), share >= 1)
    )


def runs(offsets: np.ndarray, lengths: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first, behind the last) of the stretches of documents that lie one behind the other."""
    if not len(offsets):
        return
    breaks = np.flatnonzero(offsets[1:] != offsets[:-1] + lengths[:-1]) + 1
    firsts, lasts = np.concatenate([[0], breaks]), np.concatenate([breaks, [len(offsets)]]) - 1
    for first, last in zip(firsts, lasts, strict=True):
        yield int(offsets[first]), int(offsets[last] + lengths[last])


def batched(documents: Iterator[Document], max_bytes: int) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= max_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class replacing:  # noqa: N801 - used like a function
    """A file that has its name only when it is whole: `with replacing(path) as partial: ...`."""

    def __init__(self, path: Path) -> None:
        self.path, self.partial = path, path.with_name(f".{path.name}.partial")

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.partial

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.partial.replace(self.path)
        else:
            self.partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(content))
