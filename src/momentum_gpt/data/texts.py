"""Plain text, from files or from the hub, as a stream of tokens.

It is for measuring a model on text that was never made into token shards.
"""

from __future__ import annotations

import glob
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from momentum_gpt.core.errors import UserError
from momentum_gpt.data.text_files import (
    MARKS_REMOVED,
    NEWLINES_CHANGED,
    PACKED,
    NoTextError,
    Row,
    blocks,
    damaged,
    decoded,
    json_rows,
    parsed,
    text_of,
    with_newlines,
    without_mark,
)
from momentum_gpt.data.tokenizer import Tokenizer

KINDS = (".txt", ".jsonl", ".json", ".parquet")
"""Suffixes of files that are read."""

ROWS = 256
"""Rows of a parquet file that are held at once."""


class Texts:
    """Documents, each ended by the end-of-document token.

    Args:
        texts: the text of each document.
        tokenizer: encodes them.
        n_tokens: documents are read until there are more tokens than this.
        name: what errors call the documents.

    Raises:
        UserError: there is no text.
    """

    def __init__(
        self, texts: Iterable[str], tokenizer: Tokenizer, n_tokens: int, name: str
    ) -> None:
        self.name = name
        self.tokenizer = tokenizer

        parts: list[np.ndarray] = []
        done = 0
        for text in texts:
            parts.append(np.array([*tokenizer.encode(text), tokenizer.eos_id], dtype=np.int64))
            done += len(parts[-1])
            if done > n_tokens:
                break
        if done == len(parts):
            raise UserError(f"{name} has no text: its documents are empty; give text")
        self.tokens = np.concatenate(parts)

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, start: int, length: int) -> np.ndarray:
        """Return tokens start ... start + length - 1, (length,), int64."""
        return self.tokens[start : start + length]

    def fingerprint(self) -> str:
        """Return a hash of the tokens and of the tokenizer that made them."""
        digest = hashlib.sha256(self.tokenizer.sha256.encode())
        digest.update(self.tokens.astype("<i8").tobytes())
        return digest.hexdigest()


def read_texts(
    source: str, config: str | None, split: str, field: str, changed: Counter[str]
) -> Iterator[str]:
    r"""Yield the documents of a file, of a folder's or a glob's files, or of a data set on the hub.

    As in a preparation, byte-order marks at the beginning of a document are removed, and \r\n and
    \r become \n.

    Args:
        source: .txt (one document a file), .jsonl, .json, .parquet, or .gz, .bz2 or .zst of them;
            or a name on the hub.
        config: configuration of the hub's data set.
        split: split of the hub's data set. In a folder, the files whose name begins with it, or
            that are in a folder of that name; all files, if there are none.
        field: the field with the text, where a document has fields.
        changed: gets the number of what was changed or passed over.

    Raises:
        UserError: there is no such text, or it cannot be read.
    """
    for text in _texts(source, config, split, field, changed):
        text, marks = without_mark(text)
        text, newlines = with_newlines(text)
        # The sum has no entries of 0.
        changed += Counter({MARKS_REMOVED: marks, NEWLINES_CHANGED: newlines})
        yield text


def _texts(
    source: str, config: str | None, split: str, field: str, changed: Counter[str]
) -> Iterator[str]:
    files = files_of(source, split, changed)
    if not files:
        yield from _fields(_hub_rows(source, config, split), field)
    for file in files:
        if kind_of(file) == ".txt":
            yield decoded(file, b"".join(blocks(file)))
        else:
            yield from _fields(_rows(file), field)


def files_of(source: str, split: str, changed: Counter[str]) -> list[str]:
    """Return the files to read, sorted; [] if the source is none, and so may be a name on the hub.

    Args:
        source: as for `read_texts`.
        split: as for `read_texts`.
        changed: gets the number of files that are not read.

    Raises:
        UserError: there are files, but none of a kind that can be read.
    """
    folder = Path(source)
    if folder.is_dir():
        files = sorted(str(path) for path in folder.rglob("*") if path.is_file())
    else:
        files = sorted(glob.glob(source))

    readable = [file for file in files if kind_of(file)]
    if files and not readable:
        raise UserError(
            f"text={source!r} has no file of {', '.join(KINDS)}, plain or "
            f"{', '.join(PACKED)}: give such files"
        )
    chosen = readable
    if folder.is_dir():
        chosen = [file for file in readable if _is_of_split(file, folder, split)] or readable
    if len(chosen) < len(files):
        changed["files of another kind or split not read"] += len(files) - len(chosen)
    return chosen


def kind_of(file: str) -> str | None:
    """Return the suffix that says how a file is read; None if it cannot be."""
    path = Path(file)
    suffix = path.with_suffix("").suffix if path.suffix in PACKED else path.suffix
    return suffix if suffix in KINDS else None


def _is_of_split(file: str, folder: Path, split: str) -> bool:
    *folders, name = Path(file).relative_to(folder).parts
    return name.startswith(split) or split in folders


def _rows(file: str) -> Iterator[Row]:
    """Yield the rows of a file."""
    if kind_of(file) == ".parquet":
        return _parquet_rows(file)
    if kind_of(file) == ".json" and (listed := _listed(file)) is not None:
        return ((f"{file}, row {number}", row) for number, row in enumerate(listed, start=1))
    return json_rows(file)


def _listed(file: str) -> list[Any] | None:
    """Return the rows of a file that is one JSON list; None if it has one row a line."""
    content, _ = without_mark(decoded(file, b"".join(blocks(file))))
    return parsed(file, content) if content.lstrip().startswith("[") else None


def _parquet_rows(file: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            for batch in opened.iter_batches(ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}, row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise damaged(file, error) from None


def _hub_rows(source: str, config: str | None, split: str) -> Iterator[Row]:
    import datasets

    number = 0
    try:
        for row in datasets.load_dataset(source, config, split=split, streaming=True):
            number += 1
            yield f"text={source!r}, row {number}", row
    except Exception as error:  # whatever the hub, the network or a reader says is for the user
        reason = " ".join(str(error).split())
        raise UserError(
            f"text={source!r} is no file here, and as a data set of the hub cannot be read: "
            f"{reason}"
        ) from None


def _fields(rows: Iterable[Row], field: str) -> Iterator[str]:
    for place, row in rows:
        try:
            yield text_of(row, field, "text.field")
        except NoTextError as reason:
            raise UserError(f"{place}{reason}") from None
