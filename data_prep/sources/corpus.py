"""What every source of text has in common.

A corpus is cut into parts that can be read independently, by any number of workers: files, byte
ranges of large files, or rows. The parts depend on the text alone, and so does what is made of
them.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from data_prep.sources.reading import sha256_of_range
from momentum_gpt.core.errors import UserError

WHOLE = 2**62
"""More bytes than any file has: a part size with which no file is cut."""


class Document(NamedTuple):
    """A text, and where it belongs if the corpus says so."""

    text: str
    split: str | None = None
    """ "train" or "validation" where the corpus has validation data of its own, else None."""


@dataclass(frozen=True)
class Part:
    """What is read in one go."""

    path: str
    """A file, or the name of a data set."""
    size: int
    """Approximate number of bytes: how much work it is."""
    start: int = 0
    """The first byte of a file, row group of a parquet file, or row or shard of a data set."""
    end: int | None = None
    """The first byte, row group, row or shard after the part; None: the part goes to the end."""
    split: str | None = None
    """The split of its documents, as in `Document`."""


@dataclass
class Faults:
    """What was wrong with the input. A fault is an error, or it is counted and left out."""

    skip: bool = False
    """Whether faults are counted instead of raised."""
    counts: Counter[str] = field(default_factory=Counter)
    """Number of faults by kind."""
    first: dict[str, str] = field(default_factory=dict)
    """The first message of each kind."""

    def met(self, kind: str, message: str) -> None:
        """Count a fault.

        Raises:
            UserError: faults are not to be skipped.
        """
        if not self.skip:
            raise UserError(f"{message}; or set on_error=skip to leave out such input")
        self.counts[kind] += 1
        self.first.setdefault(kind, message)


class Corpus(ABC):
    """A source of documents."""

    @abstractmethod
    def parts(self, part_bytes: int) -> Iterator[Part]:
        """Yield the parts, of about `part_bytes` bytes where a file can be cut."""

    @abstractmethod
    def read(self, part: Part, faults: Faults) -> Iterator[Document]:
        """Yield the documents of a part, in order."""

    def notes(self) -> list[str]:
        """Return sentences about what `parts` left out."""
        return []

    def documents(self) -> Iterator[Document]:
        """Yield all documents, in order."""
        for part in self.parts(WHOLE):
            yield from self.read(part, Faults())

    def sha256(self, part: Part) -> str | None:
        """Return the hash of the bytes of a part; None where there is no file."""
        path = Path(part.path)
        if not path.is_file():
            return None
        if path.suffix != ".parquet":
            return sha256_of_range(path, part.start, part.end)

        # Row groups are no byte ranges: the hash of the whole file is kept with its first part.
        return None if part.start else sha256_of_range(path, 0, None)


def split_of(text: str, validation_fraction: float) -> str:
    """Return the split of a document, "train" or "validation", by a hash of its text.

    Documents with equal text are always in the same split.
    """
    digest = hashlib.sha256(text.encode()).digest()
    drawn = int.from_bytes(digest[:8], "big")
    return "validation" if drawn < validation_fraction * 2**64 else "train"


def compiled(document_start: str) -> re.Pattern[str]:
    """Return the compiled option `corpus.document_start`.

    Raises:
        UserError: it is not a regular expression.
    """
    try:
        return re.compile(document_start)
    except re.error as error:
        raise UserError(
            f"corpus.document_start={document_start!r} is not a regular expression: {error}"
        ) from None
