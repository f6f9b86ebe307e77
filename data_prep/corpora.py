"""Where documents come from: the standard library of this Python, local files, or any data set of the Hugging Face hub."""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import json
import re
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import zstandard
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from momentum_gpt.errors import UserError


class Document(NamedTuple):
    text: str
    split: str | None = None
    """ "train" or "validation" where the corpus itself has a validation part, else None."""


def split_of(text: str, validation_fraction: float) -> str:
    """The split of a document, by a hash of its text: equal documents are never on both sides."""
    digest = hashlib.sha256(text.encode()).digest()
    return "validation" if int.from_bytes(digest[:8], "big") < validation_fraction * 2**64 else "train"


@dataclass
class StdlibCorpus:
    """The source and the documentation of the running Python's standard library, file by file: text every machine has."""

    def documents(self) -> Iterator[Document]:
        root = Path(sysconfig.get_path("stdlib"))
        left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
        for path in sorted(root.rglob("*")):
            inside = path.relative_to(root)
            if path.suffix not in (".py", ".txt", ".rst") or left_out & set(inside.parts[:-1]) or not path.is_file():
                continue
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                print(f"left out {inside}: not UTF-8")
                continue
            if text.strip():
                yield Document(text)


@dataclass
class TextCorpus:
    """Local `.txt` and `.jsonl` files, each plain, `.gz` or `.zst`."""

    paths: list[str]
    """Files, folders (all such files below them) and globs."""
    validation_paths: list[str] | None = None
    """The same for validation; null: split by a hash of the document."""
    separator: str | None = None
    r"""Between the documents of a .txt file, and dropped; \n and \t mean newline and tab. null: a file is one document."""
    document_start: str | None = None
    """Or: a regular expression; a line of a .txt file that it matches at its start begins a new document."""
    column: str = "text"
    """The field of a .jsonl line that holds the text."""

    def documents(self) -> Iterator[Document]:
        own_validation = self.validation_paths is not None
        for path in _files(self.paths, "corpus.paths"):
            yield from (Document(text, "train" if own_validation else None) for text in self._texts(path))
        for path in _files(self.validation_paths or [], "corpus.validation_paths"):
            yield from (Document(text, "validation") for text in self._texts(path))

    def _texts(self, path: Path) -> Iterator[str]:
        if ".jsonl" in path.suffixes:
            yield from self._jsonl(path)
            return
        text = _decode(b"".join(_open(path)), path)
        if self.separator:
            pieces = text.split(self.separator.replace("\\n", "\n").replace("\\t", "\t"))
        elif self.document_start:
            pieces = list(_cut_at(text.splitlines(keepends=True), _regex(self.document_start)))
        else:
            pieces = [text]
        yield from (piece for piece in pieces if piece.strip())

    def _jsonl(self, path: Path) -> Iterator[str]:
        for number, line in enumerate(_open(path), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(_decode(line, path))
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number} is not JSON ({error}): mend or remove the line") from None
            yield from _texts_of([record], self.column, f"{path}, line {number}")


@dataclass
class HubCorpus:
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

    def documents(self) -> Iterator[Document]:
        yield from self._split(self.split, "train" if self.validation_split else None)
        if self.validation_split:
            yield from self._split(self.validation_split, "validation")

    def _split(self, split: str, becomes: str | None) -> Iterator[Document]:
        import datasets

        try:
            rows = datasets.load_dataset(
                self.dataset, self.config, split=split, revision=self.revision, streaming=self.streaming
            )
        except Exception as error:  # whatever the hub, the network or the reader says: it is for the user
            what = " ".join(str(error).split())
            raise UserError(f"data set {self.dataset!r}, split {split!r} cannot be loaded: {what}") from None
        texts = _texts_of(rows, self.column, f"data set {self.dataset!r}")
        if self.document_start:
            texts = _cut_at(texts, _regex(self.document_start))
        documents = (text for text in texts if text.strip())
        for number, text in enumerate(documents):
            if number == self.max_documents:
                return
            yield Document(text, becomes)


CORPORA = {"stdlib": StdlibCorpus, "text": TextCorpus, "hub": HubCorpus}


def build_corpus(options: dict[str, Any]) -> StdlibCorpus | TextCorpus | HubCorpus:
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
    return corpus  # type: ignore[return-value]


def _texts_of(rows: Any, column: str, where: str) -> Iterator[str]:
    for row in rows:
        if not isinstance(row, dict) or column not in row:
            has = f"its columns are {', '.join(row)}; set corpus.column" if isinstance(row, dict) else "it is no JSON object"
            raise UserError(f"{where} has no column {column!r}: {has}")
        text = row[column]
        if not isinstance(text, str):
            raise UserError(f"{where}: column {column!r} holds {type(text).__name__}, not text; set corpus.column")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{where}: the text holds half a surrogate pair ({error.reason}): mend or remove it") from None
        yield text


def _files(paths: list[str], option: str) -> Iterator[Path]:
    for given in paths:
        path = Path(given).expanduser()
        if path.is_dir():
            found = [p for p in path.rglob("*") if p.is_file() and re.search(r"\.(txt|jsonl)(\.gz|\.zst)?$", p.name)]
        else:
            found = [Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file()]
        if not found:
            raise UserError(f"{option}: {given!r} is no file, no folder with .txt or .jsonl files and no glob that matches any")
        yield from sorted(found)


def _open(path: Path) -> Iterator[bytes]:
    """The lines of the file, unpacked."""
    try:
        with path.open("rb") as file:
            if path.suffix == ".gz":
                yield from gzip.GzipFile(fileobj=file)
            elif path.suffix == ".zst":
                yield from io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
            else:
                yield from file
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise UserError(f"{path} cannot be read ({error}): it is damaged or cut short; fetch it again") from None


def _decode(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}; convert it first, for "
            f"instance with iconv -f ISO-8859-1 -t UTF-8"
        ) from None


def _regex(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"corpus.document_start={pattern!r} is not a regular expression: {error}") from None


def _cut_at(lines: Any, start: re.Pattern[str]) -> Iterator[str]:
    """Documents from lines: each line that `start` matches begins a new one."""
    document: list[str] = []
    for line in lines:
        if start.match(line) and document:
            yield "".join(document)
            document = []
        document.append(line)
    if document:
        yield "".join(document)
