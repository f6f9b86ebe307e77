"""Documents from fragments of bytes, from records and from rows, with every fault reported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_prep.sources.corpus import Faults

LONGEST_DOCUMENT = 1 << 24
"""Bytes of the longest document, 16 MiB.

A longer one is cut into several, at the end of a line or at a space, to bound the memory.
"""

Fragment = tuple[bool, bytes]
"""Whether these bytes begin a new document, and the bytes."""


def assembled(fragments: Iterable[Fragment], faults: Faults) -> Iterator[tuple[int, bytes]]:
    """Yield documents, each with the number of bytes before it.

    What comes before the first beginning is a document of its own. A document that is longer than
    LONGEST_DOCUMENT is cut.
    """
    held: list[bytes] = []
    size = 0
    done = 0
    for begins, data in fragments:
        if begins and held:
            yield done, b"".join(held)
            done += size
            held = []
            size = 0

        held.append(data)
        size += len(data)
        # What is left after a cut may still be too long.
        while size > LONGEST_DOCUMENT:
            whole = b"".join(held)
            cut = _cut_place(whole)
            faults.counts[f"cut: longer than {LONGEST_DOCUMENT >> 20} MiB"] += 1
            yield done, whole[:cut]
            done += cut
            held = [whole[cut:]]
            size -= cut
    if held:
        yield done, b"".join(held)


def _cut_place(data: bytes) -> int:
    """Return where to cut: after a newline, else before a space, else between two characters.

    The last such place among the first LONGEST_DOCUMENT bytes is taken.
    """
    head = data[:LONGEST_DOCUMENT]
    after_newline = head.rfind(b"\n") + 1
    if after_newline:
        return after_newline

    space = head.rfind(b" ")
    if space > 0:
        return space

    cut = len(head)
    # Bytes 10xxxxxx continue a character in UTF-8.
    while cut < len(data) and data[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut or len(head)


def decoded(documents: Iterable[tuple[int, bytes]], path: Path, faults: Faults) -> Iterator[str]:
    """Yield the texts of documents; one that is not UTF-8 is a fault.

    Args:
        documents: (number of bytes before it in the file, its bytes).
        path: the file, for the message.
        faults: what was wrong so far.
    """
    for before, data in documents:
        try:
            yield data.decode("utf-8")
        except UnicodeDecodeError as error:
            faults.met(
                "not UTF-8",
                f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset "
                f"{before + error.start}; convert it first, for instance with "
                "iconv -f ISO-8859-1 -t UTF-8",
            )


def texts_of(rows: Iterable[Any], column: str, where: str, faults: Faults) -> Iterator[str]:
    """Yield the texts of records; one without text is a fault.

    Args:
        rows: the records, dictionaries if all is well.
        column: the key of the text.
        where: where the records are, for the message.
        faults: what was wrong so far.
    """
    for row in rows:
        problem = _problem(row, column)
        if problem is not None:
            faults.met("no text", f"{where}{problem}")
            continue

        text = row[column]
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            faults.met(
                "not UTF-8",
                f"{where}: the text holds half a surrogate pair ({error.reason}): "
                "correct or remove it",
            )
            continue

        if len(data) <= LONGEST_DOCUMENT:
            yield text
        else:
            for _, shorter in assembled([(True, data)], faults):
                yield shorter.decode()


def _problem(row: Any, column: str) -> str | None:
    """Return why a record has no text, to follow the name of its place; None if it has one."""
    if not isinstance(row, dict):
        return f" has no column {column!r}: it is no JSON object"
    if column not in row:
        names = ", ".join(row)
        return f" has no column {column!r}: its columns are {names}; set corpus.column"
    if not isinstance(row[column], str):
        found = type(row[column]).__name__
        return f": column {column!r} holds {found}, not text; set corpus.column"
    return None
