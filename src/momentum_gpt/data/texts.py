"""Plain text, from files or from the hub, as a stream of tokens.

It is for measuring a model on text that was never made into token shards.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from momentum_gpt.core.errors import UserError
from momentum_gpt.data.tokenizer import Tokenizer

BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
"""Suffix -> the reader of such files in `datasets`. A .txt file is read as one document."""


class Texts:
    """Documents, each ended by the end-of-document token.

    Args:
        texts: the text of each document.
        tokenizer: encodes them.
        n_tokens: documents are read until there are more tokens than this.
        name: what errors call the documents.

    Raises:
        UserError: there is no document.
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
        if not parts:
            raise UserError(f"{name} has no documents: give text")
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


def read_texts(source: str, config: str | None, split: str, field: str) -> Iterator[str]:
    """Yield the documents of a file, of a folder's or a glob's files, or of a data set on the hub.

    Args:
        source: .txt (one document a file), .jsonl, .json, .parquet, or .gz of them; or a name on
            the hub.
        config: configuration of the hub's data set.
        split: split of the hub's data set. In a folder, the files whose name begins with it, or
            that are in a folder of that name; all files, if there are none.
        field: the field with the text, where a document has fields.

    Raises:
        UserError: there is no such text, or it cannot be read.
    """
    files = files_of(source, split)
    try:
        if not files:
            yield from _field(_rows(source, config, split), field)
        for file in files:
            if kind_of(file) == ".txt":
                yield _whole(file)
            else:
                yield from _field(_rows(file, None, "train"), field)
    except KeyError as missing:
        raise UserError(
            f"text={source!r}: a document has no field {missing}: name it with text.field="
        ) from None
    except Exception as error:  # whatever the hub, the network or a reader says is for the user
        where = "" if files else " is no file here, and as a data set of the hub"
        reason = " ".join(str(error).split())
        raise UserError(f"text={source!r}{where} cannot be read: {reason}") from None


def files_of(source: str, split: str) -> list[str]:
    """Return the files to read, sorted; [] if the source is none, and so may be a name on the hub.

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
            f"text={source!r} has no file of .txt, {', '.join(BUILDERS)}, plain or .gz: "
            "give such files"
        )
    if not folder.is_dir():
        return readable
    return [file for file in readable if _is_of_split(file, folder, split)] or readable


def kind_of(file: str) -> str | None:
    """Return the suffix that says how a file is read; None if it cannot be."""
    suffix = Path(file.removesuffix(".gz")).suffix
    return suffix if suffix == ".txt" or suffix in BUILDERS else None


def _is_of_split(file: str, folder: Path, split: str) -> bool:
    *folders, name = Path(file).relative_to(folder).parts
    return name.startswith(split) or split in folders


def _whole(file: str) -> str:
    data = Path(file).read_bytes()
    return (gzip.decompress(data) if file.endswith(".gz") else data).decode()


def _rows(source: str, config: str | None, split: str) -> Iterator[dict[str, Any]]:
    import datasets

    builder = BUILDERS.get(kind_of(source) or "")
    if builder:
        yield from datasets.load_dataset(builder, data_files=source, split=split, streaming=True)
    else:
        yield from datasets.load_dataset(source, config, split=split, streaming=True)


def _field(rows: Iterable[dict[str, Any]], field: str) -> Iterator[str]:
    for row in rows:
        yield row[field]
