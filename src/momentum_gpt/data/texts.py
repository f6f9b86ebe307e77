"""Text as it is, files or a set of the hub, as a stream of tokens: for measuring a model on what was never made into shards."""

from __future__ import annotations

import glob
import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from momentum_gpt.core.errors import UserError
from momentum_gpt.data.tokenizer import Tokenizer

BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
"""Suffix -> what reads such files in `datasets`; .txt files are read whole, a document each."""


class Texts:
    """Documents, each ended by the end-of-document token; read until there are n_tokens.

    Args:
        texts: (text of a document) ...
        name: what they are called in errors.

    Raises:
        UserError: there is none.
    """

    def __init__(
        self, texts: Iterable[str], tokenizer: Tokenizer, n_tokens: int, name: str
    ) -> None:
        self.name, self.tokenizer = name, tokenizer
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
        """Tokens start ... start + length - 1, int64."""
        return self.tokens[start : start + length]


def read_texts(source: str, config: str | None, split: str, field: str) -> Iterator[str]:
    """The documents of a file, of the files that a folder or a glob names, or of a set of the hub.

    Args:
        source: .txt (a document each), .jsonl, .json, .parquet, or .gz of them; or a name on the hub.
        config: of the hub's set.
        split: of the hub's set; of a folder, if files in it have a split's name, or are in a folder that has.
        field: the text's, where a document has fields.

    Raises:
        UserError: nothing is there, or it cannot be read.
    """
    folder = Path(source)
    files = (
        sorted(str(path) for path in folder.rglob("*") if path.is_file())
        if folder.is_dir()
        else sorted(glob.glob(source))
    )
    readable = [file for file in files if kind_of(file)]
    if folder.is_dir():
        names = {file: Path(file).relative_to(folder).parts for file in readable}
        readable = [
            file
            for file in readable
            if names[file][-1].startswith(split) or split in names[file][:-1]
        ] or readable
    if files and not readable:
        raise UserError(
            f"text={source!r} has no file of .txt, {', '.join(BUILDERS)}, plain or .gz: give such files"
        )
    try:
        if not readable:
            yield from (row[field] for row in _rows(source, config, split))
        for file in readable:
            yield from (
                [_whole(file)]
                if kind_of(file) == ".txt"
                else (row[field] for row in _rows(file, None, "train"))
            )
    except KeyError as missing:
        raise UserError(
            f"text={source!r}: a document has no field {missing}: name it with text.field="
        ) from None
    except (
        Exception
    ) as error:  # whatever the hub, the network or the reader says: it is for the user
        where = "" if readable else " is no file here, and as a set of the hub"
        raise UserError(
            f"text={source!r}{where} cannot be read: {' '.join(str(error).split())}"
        ) from None


def kind_of(file: str) -> str | None:
    """The suffix by which it is read, if it is."""
    suffix = Path(file.removesuffix(".gz")).suffix
    return suffix if suffix == ".txt" or suffix in BUILDERS else None


def _whole(file: str) -> str:
    data = Path(file).read_bytes()
    return (gzip.decompress(data) if file.endswith(".gz") else data).decode()


def _rows(source: str, config: str | None, split: str) -> Iterator[dict[str, str]]:
    import datasets

    builder = BUILDERS.get(kind_of(source) or "")
    if builder:
        yield from datasets.load_dataset(builder, data_files=source, split=split, streaming=True)
    else:
        yield from datasets.load_dataset(source, config, split=split, streaming=True)
