"""Where documents come from: the standard library of this Python, local files, any data set of the Hugging Face hub, a mix.

A corpus is cut into parts that can be read apart, by any number of workers: files, byte ranges of large ones, rows. Which
parts there are depends on the text alone, so what is made of them does too.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import json
import re
import sysconfig
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import zstandard
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from momentum_gpt.core.errors import UserError

LONGEST_DOCUMENT = 1 << 24
"""Bytes; a longer document is cut into several, at a line's end or a space, so that memory stays bounded. 16 MiB."""

BLOCK = 1 << 20
"""Bytes read at once."""

FILES = re.compile(r"\.(txt|jsonl)(\.gz|\.zst)?$|\.parquet$")


class Document(NamedTuple):
    text: str
    split: str | None = None
    """ "train" or "validation" where the corpus itself has a validation part, else None."""


@dataclass(frozen=True)
class Part:
    """What is read in one go."""

    path: str
    """A file, or the name of a data set."""
    size: int
    """Bytes, about: how much work it is."""
    start: int = 0
    """The first byte of a file, row group of a parquet file, or row or shard of a data set."""
    end: int | None = None
    """The one behind the last; None: to the end."""
    split: str | None = None


@dataclass
class Faults:
    """What was wrong with the input: an error, or counted and left out."""

    skip: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    """How often, by kind."""
    first: dict[str, str] = field(default_factory=dict)
    """The first message of each kind."""

    def met(self, kind: str, message: str) -> None:
        """Raise a UserError, or, if bad input is to be skipped, count it."""
        if not self.skip:
            raise UserError(f"{message}; or leave such out with on_error=skip")
        self.counts[kind] += 1
        self.first.setdefault(kind, message)


def split_of(text: str, validation_fraction: float) -> str:
    """The split of a document, by a hash of its text: equal documents are never on both sides."""
    digest = hashlib.sha256(text.encode()).digest()
    return (
        "validation" if int.from_bytes(digest[:8], "big") < validation_fraction * 2**64 else "train"
    )


class Corpus:
    """What every corpus can do."""

    def parts(self, part_bytes: int) -> Iterator[Part]:
        """The parts, of about that many bytes where a file can be cut."""
        raise NotImplementedError

    def read(self, part: Part, faults: Faults) -> Iterator[Document]:
        raise NotImplementedError

    def documents(self) -> Iterator[Document]:
        """All of them, in order."""
        for part in self.parts(2**62):
            yield from self.read(part, Faults())

    def sha256(self, part: Part) -> str | None:
        """Of the bytes of the part; None where there is no file."""
        path = Path(part.path)
        if not path.is_file() or (path.suffix == ".parquet" and part.start):
            return None  # a parquet file's hash stands at its first part
        whole = path.suffix == ".parquet"
        return sha256_of_range(path, 0 if whole else part.start, None if whole else part.end)


def sha256_of_range(path: Path, start: int, end: int | None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        left = path.stat().st_size - start if end is None else end - start
        while left > 0 and (block := file.read(min(left, BLOCK))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


@dataclass
class StdlibCorpus(Corpus):
    """The source and the documentation of the running Python's standard library, file by file: text every machine has."""

    def parts(self, part_bytes: int) -> Iterator[Part]:
        root = Path(sysconfig.get_path("stdlib"))
        left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
        for path in sorted(root.rglob("*")):
            inside = path.relative_to(root)
            if (
                path.suffix in (".py", ".txt", ".rst")
                and not left_out & set(inside.parts[:-1])
                and path.is_file()
            ):
                yield Part(str(path), path.stat().st_size)

    def read(self, part: Part, faults: Faults) -> Iterator[Document]:
        try:
            text = Path(part.path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            faults.counts["not UTF-8"] += 1  # a few of the library's files are not
            return
        if text.strip():
            yield Document(text)


@dataclass
class TextCorpus(Corpus):
    """Local `.txt`, `.jsonl` (each plain, `.gz` or `.zst`) and `.parquet` files."""

    paths: list[str]
    """Files, folders (all such files below them) and globs."""
    validation_paths: list[str] | None = None
    """The same for validation; null: split by a hash of the document."""
    separator: str | None = None
    r"""Between the documents of a .txt file, and dropped; \n and \t mean newline and tab. null: a file is one document."""
    document_start: str | None = None
    """Or: a regular expression; a line of a .txt file that it matches at its start begins a new document."""
    column: str = "text"
    """The field of a .jsonl line, or column of a .parquet file, that holds the text."""

    def parts(self, part_bytes: int) -> Iterator[Part]:
        _regex(self.document_start or "")
        split = "train" if self.validation_paths is not None else None
        for path in _files(self.paths, "corpus.paths"):
            yield from self._parts_of(path, split, part_bytes)
        for path in _files(self.validation_paths or [], "corpus.validation_paths"):
            yield from self._parts_of(path, "validation", part_bytes)

    def _parts_of(self, path: Path, split: str | None, part_bytes: int) -> Iterator[Part]:
        size = path.stat().st_size
        if path.suffix == ".parquet":
            for start, end, group_bytes in _row_groups(path, part_bytes):
                yield Part(str(path), group_bytes, start, end, split)
        elif path.suffix == ".jsonl" or (path.suffix == ".txt" and self.document_start):
            edges = [*range(0, size, part_bytes), size] if size else [0, 0]
            for start, end in pairwise(edges):
                yield Part(str(path), end - start, start, end, split)
        else:
            yield Part(str(path), size, split=split)

    def read(self, part: Part, faults: Faults) -> Iterator[Document]:
        path = Path(part.path)
        if path.suffix == ".parquet":
            texts = self._parquet(part, faults)
        elif ".jsonl" in path.suffixes:
            texts = self._jsonl(part, faults)
        else:
            texts = _decoded(_assembled(self._pieces(part), faults), path, faults)
        try:
            yield from (Document(text, part.split) for text in texts if text.strip())
        except _DamagedError as damage:  # and what had been begun of a document is no document
            faults.met(
                "damaged",
                f"{part.path} cannot be read ({damage}): it is damaged or cut short; fetch it again",
            )

    def _pieces(self, part: Part) -> Iterator[tuple[bool, bytes]]:
        """The bytes of a .txt file, and whether they begin a new document."""
        if self.document_start:
            start, started = _regex(self.document_start), part.start == 0
            for offset, line in _lines(part.path, part.start):
                begins = bool(start.match(line.decode("utf-8", errors="replace")))
                if begins and part.end is not None and offset >= part.end:
                    return
                if started := started or begins:  # what was begun before belongs to the part before
                    yield begins, line
            return
        separator = (self.separator or "").replace("\\n", "\n").replace("\\t", "\t").encode()
        if not separator:
            yield from ((False, block) for block in _blocks(part.path))
            return
        rest, begins = b"", True
        for block in _blocks(part.path):
            *whole, rest = (rest + block).split(separator)
            for document in whole:
                yield begins, document
                begins = True
            if len(rest) > 2 * BLOCK:  # what may be the beginning of a separator stays
                yield begins, rest[: -len(separator)]
                rest, begins = rest[-len(separator) :], False
        yield begins, rest

    def _jsonl(self, part: Part, faults: Faults) -> Iterator[str]:
        for number, (offset, line) in enumerate(_lines(part.path, part.start), start=1):
            if part.end is not None and offset >= part.end:
                return
            if not line.strip():
                continue
            where = (
                f"{part.path}, line {number}"
                if not part.start
                else f"{part.path}, the line at byte {offset}"
            )
            for text in _decoded([(offset, line)], Path(part.path), faults):
                try:
                    record = json.loads(text)
                except json.JSONDecodeError as error:
                    faults.met(
                        "not JSON", f"{where} is not JSON ({error}): mend or remove the line"
                    )
                    continue
                yield from _texts_of([record], self.column, where, faults)

    def _parquet(self, part: Part, faults: Faults) -> Iterator[str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(part.path) as file:
                if self.column not in file.schema_arrow.names:
                    names = ", ".join(file.schema_arrow.names)
                    raise UserError(
                        f"{part.path} has no column {self.column!r}: its columns are {names}; set corpus.column"
                    )
                groups = list(
                    range(part.start, file.num_row_groups if part.end is None else part.end)
                )
                for batch in file.iter_batches(
                    batch_size=256, row_groups=groups, columns=[self.column]
                ):
                    yield from _texts_of(batch.to_pylist(), self.column, part.path, faults)
        except (pa.ArrowException, OSError) as error:
            raise _DamagedError(error) from None


@dataclass
class HubCorpus(Corpus):
    """A data set of the Hugging Face hub, or a local folder in the hub's layout, read by `datasets`; no code of it runs."""

    dataset: str
    config: str | None = None
    split: str = "train"
    validation_split: str | None = None
    """null: split by a hash of the document."""
    column: str = "text"
    revision: str | None = None
    """A commit, branch or tag; name a commit to be able to repeat the run."""
    streaming: bool = False
    """Read over the network as it goes, instead of downloading first."""
    document_start: str | None = None
    """For sets that hold a line a row: a regular expression; a row that it matches begins a new document."""
    max_documents: int | None = None
    """Stop after so many of each split; null: all."""

    def parts(self, part_bytes: int) -> Iterator[Part]:
        _regex(self.document_start or "")
        for split, becomes in self._splits():
            rows = self._load(split)
            in_order = self.document_start or self.max_documents
            if self.streaming:  # its own shards; their sizes are not known
                n = 1 if in_order else rows.num_shards
                yield from (Part(self.dataset, 0, i, i + 1, becomes) for i in range(n))
                continue
            size, n = rows.data.nbytes, len(rows)
            step = n if in_order else max(1, min(n, n * part_bytes // max(1, size)))
            for start in range(0, n, max(1, step)):
                end = min(n, start + step)
                yield Part(self.dataset, size * (end - start) // n, start, end, becomes)

    def read(self, part: Part, faults: Faults) -> Iterator[Document]:
        split = next(split for split, becomes in self._splits() if becomes == part.split)
        rows = self._load(split)
        if not self.streaming:
            assert part.end is not None
            rows = rows.select(range(part.start, part.end))
        elif not (self.document_start or self.max_documents) and rows.num_shards > 1:
            rows = rows.shard(num_shards=rows.num_shards, index=part.start)
        texts: Iterable[str] = _texts_of(rows, self.column, f"data set {self.dataset!r}", faults)
        if self.document_start:
            start = _regex(self.document_start)
            pieces = ((bool(start.match(text)), text.encode()) for text in texts)
            texts = (data.decode() for _, data in _assembled(pieces, faults))
        documents = (text for text in texts if text.strip())
        for number, text in enumerate(documents):
            if number == self.max_documents:
                return
            yield Document(text, part.split)

    def _splits(self) -> list[tuple[str, str | None]]:
        """The data set's splits that are read, and what becomes of them."""
        if self.validation_split is None:
            return [(self.split, None)]
        return [(self.split, "train"), (self.validation_split, "validation")]

    def _load(self, split: str) -> Any:
        import datasets

        try:
            return datasets.load_dataset(
                self.dataset,
                self.config,
                split=split,
                revision=self.revision,
                streaming=self.streaming,
            )
        except (
            Exception
        ) as error:  # whatever the hub, the network or the reader says: it is for the user
            what = " ".join(str(error).split())
            raise UserError(
                f"data set {self.dataset!r}, split {split!r} cannot be loaded: {what}"
            ) from None


@dataclass
class Source:
    """A corpus of a mix."""

    name: str
    corpus: Corpus
    weight: float | None = None
    """Share of the training tokens, up to a common factor. None: all of it, once."""
    max_epochs: float = 1.0
    """How often a document may be repeated, on average, to reach the weight."""


CORPORA: dict[str, type[Corpus]] = {"stdlib": StdlibCorpus, "text": TextCorpus, "hub": HubCorpus}


def build_sources(options: dict[str, Any]) -> list[Source]:
    """The corpora of the option `corpus`: one, or those of a mix.

    Raises:
        UserError: see `build_corpus`; or a mix of which some have a weight and others none.
    """
    if options.get("kind") != "mix":
        return [Source(str(options.get("kind")), build_corpus(options))]
    chosen = options.get("sources")
    if not isinstance(chosen, dict) or not chosen:
        raise UserError(
            "corpus.sources must name the corpora of the mix: {NAME: {kind: text, paths: [...], weight: 1}, ...}"
        )
    sources = []
    for name, of_source in chosen.items():
        corpus = build_corpus(
            {key: value for key, value in of_source.items() if key not in ("weight", "max_epochs")}
        )
        sources.append(
            Source(name, corpus, of_source.get("weight"), of_source.get("max_epochs", 1.0))
        )
    for source in sources:
        for option in ("weight", "max_epochs"):
            value = getattr(source, option)
            if value is not None and not (isinstance(value, int | float) and value > 0):
                raise UserError(
                    f"corpus.sources.{source.name}.{option} must be a number above 0, got {value!r}"
                )
    if len({source.weight is None for source in sources}) > 1:
        without = ", ".join(source.name for source in sources if source.weight is None)
        raise UserError(f"corpus.sources: give each a weight or none; {without} have none")
    return sources


def build_corpus(options: dict[str, Any]) -> Corpus:
    """The corpus `options["kind"]` with the other options as its fields.

    Raises:
        UserError: an unknown kind, an unknown or missing option, or one of the wrong type.
    """
    fields = {key: value for key, value in options.items() if key != "kind"}
    for key in ("paths", "validation_paths"):
        if isinstance(fields.get(key), str):
            fields[key] = [fields[key]]
    if (kind := options.get("kind")) not in CORPORA:
        raise UserError(f"corpus.kind must be one of {', '.join(CORPORA)}, got {kind!r}")
    try:
        corpus = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(CORPORA[kind]), fields))
    except OmegaConfBaseException as error:
        raise UserError(f"corpus: {str(error).splitlines()[0]}") from None
    assert isinstance(corpus, Corpus)
    return corpus


def _texts_of(rows: Iterable[Any], column: str, where: str, faults: Faults) -> Iterator[str]:
    for row in rows:
        if not isinstance(row, dict) or column not in row:
            has = (
                f"its columns are {', '.join(row)}; set corpus.column"
                if isinstance(row, dict)
                else "it is no JSON object"
            )
            faults.met("no text", f"{where} has no column {column!r}: {has}")
            continue
        text = row[column]
        if not isinstance(text, str):
            found = f"{where}: column {column!r} holds {type(text).__name__}, not text; set corpus.column"
            faults.met("no text", found)
            continue
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            faults.met(
                "not UTF-8",
                f"{where}: the text holds half a surrogate pair ({error.reason}): mend or remove it",
            )
            continue
        if len(data) <= LONGEST_DOCUMENT:
            yield text
        else:
            yield from (piece.decode() for _, piece in _assembled([(True, data)], faults))


def _files(paths: list[str], option: str) -> Iterator[Path]:
    for given in paths:
        path = Path(given).expanduser()
        if path.is_dir():
            found = [p for p in path.rglob("*") if p.is_file() and FILES.search(p.name)]
        else:
            found = [Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file()]
        if not found:
            raise UserError(
                f"{option}: {given!r} is no file, no folder with .txt, .jsonl or .parquet files and no glob that matches any"
            )
        yield from sorted(found)


def _row_groups(path: Path, part_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Ranges of a parquet file's row groups, of about that many bytes each, and their bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        about = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): it is damaged or cut short; fetch it again"
        ) from None
    start, size = 0, 0
    for group in range(about.num_row_groups):
        size += about.row_group(group).total_byte_size
        if size >= part_bytes or group == about.num_row_groups - 1:
            yield start, group + 1, size
            start, size = group + 1, 0


def _unpacked(path: Path, file: Any) -> Any:
    if path.suffix == ".gz":
        return gzip.GzipFile(fileobj=file)
    if path.suffix == ".zst":
        return io.BufferedReader(
            zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        )
    return file


class _DamagedError(Exception):
    """A file that cannot be read to its end."""


def _reading(path: str, act: Callable[[Any], Iterator[Any]]) -> Iterator[Any]:
    """What `act` reads from the unpacked file."""
    try:
        with Path(path).open("rb") as file:
            yield from act(_unpacked(Path(path), file))
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise _DamagedError(error) from None


def _blocks(path: str) -> Iterator[bytes]:
    return _reading(path, lambda file: iter(lambda: file.read(BLOCK), b""))


def _lines(path: str, start: int) -> Iterator[tuple[int, bytes]]:
    """The lines that begin at byte `start` or later, each with the byte it begins at."""

    def act(file: Any) -> Iterator[tuple[int, bytes]]:
        offset = 0
        if start:
            file.seek(start - 1)
            offset = (
                start - 1 + len(file.readline())
            )  # to the end of the line that was begun before
        for line in file:
            yield offset, line
            offset += len(line)

    return _reading(path, act)


def _assembled(pieces: Iterable[tuple[bool, bytes]], faults: Faults) -> Iterator[tuple[int, bytes]]:
    """Documents from (begins a new one, bytes), each with the number of bytes before it; none is longer than the longest.

    What comes before the first beginning is a document of its own.
    """
    held: list[bytes] = []
    size = done = 0
    for begins, data in pieces:
        if begins and held:
            yield done, b"".join(held)
            done, held, size = done + size, [], 0
        held.append(data)
        size += len(data)
        while size > LONGEST_DOCUMENT:
            whole = b"".join(held)
            cut = _cut_place(whole)
            faults.counts[f"cut: longer than {LONGEST_DOCUMENT >> 20} MiB"] += 1
            yield done, whole[:cut]
            done, held, size = done + cut, [whole[cut:]], size - cut
    if held:
        yield done, b"".join(held)


def _cut_place(data: bytes) -> int:
    """Behind the last newline, else before the last space, else before the last character that begins in the first bytes."""
    head = data[:LONGEST_DOCUMENT]
    if newline := head.rfind(b"\n") + 1:
        return newline
    if (space := head.rfind(b" ")) > 0:
        return space
    cut = len(head)
    while cut < len(data) and data[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut or len(head)


def _decoded(documents: Iterable[tuple[int, bytes]], path: Path, faults: Faults) -> Iterator[str]:
    for before, data in documents:
        try:
            yield data.decode("utf-8")
        except UnicodeDecodeError as error:
            faults.met(
                "not UTF-8",
                f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {before + error.start}; convert it "
                "first, for instance with iconv -f ISO-8859-1 -t UTF-8",
            )


def _regex(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"corpus.document_start={pattern!r} is not a regular expression: {error}"
        ) from None
