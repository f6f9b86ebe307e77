"""Documents from fragments of bytes, from records and from rows, with every fault reported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.sources.corpus import Document, Faults
from momentum_gpt.data.text_files import (
    MARKS_REMOVED,
    NoTextError,
    text_of,
    why_not_utf8,
    without_mark,
)

LONGEST_DOCUMENT = 1 << 24
"""Bytes of the longest document, 16 MiB.

A longer one is cut into several, at the end of a line or at a space, to bound the memory.
"""


class Fragment(NamedTuple):
    """Some bytes of a document."""

    begins: bool
    """Whether they begin a new document."""
    data: bytes
    offset: int = 0
    """Where they stand in the file."""


def assembled(fragments: Iterable[Fragment], faults: Faults) -> Iterator[tuple[int, bytes]]:
    """Yield documents, each with the byte of the file at which it begins.

    What comes before the first beginning is a document of its own. A document that is longer than
    LONGEST_DOCUMENT is cut.
    """
    held: list[bytes] = []
    size = 0
    done = 0
    for begins, data, offset in fragments:
        if begins and held:
            yield done, b"".join(held)
            held = []
            size = 0

        if not held:
            done = offset
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
    """Yield the texts of documents, without byte-order marks; one that is not UTF-8 is a fault.

    Args:
        documents: (the byte of the file at which it begins, its bytes).
        path: the file, for the message.
        faults: what was wrong so far.
    """
    for before, data in documents:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            faults.met("not UTF-8", why_not_utf8(path, error, before))
        else:
            yield unmarked(text, faults)


def texts_of(rows: Iterable[tuple[str, Any]], column: str, faults: Faults) -> Iterator[str]:
    """Yield the texts of records, without byte-order marks; one without text is a fault.

    Args:
        rows: (its place for the message, the record: a dictionary if all is well).
        column: the key of the text.
        faults: what was wrong so far.
    """
    for place, row in rows:
        try:
            text = unmarked(text_of(row, column, "corpus.column"), faults)
        except NoTextError as reason:
            faults.met("no text", f"{place}{reason}")
            continue

        data = text.encode()
        if len(data) <= LONGEST_DOCUMENT:
            yield text
        else:
            for _, shorter in assembled([Fragment(True, data)], faults):
                yield shorter.decode()


def unmarked(text: str, faults: Faults) -> str:
    """Return a text without the byte-order marks that it begins with, which are counted."""
    rest, count = without_mark(text)
    if count:
        faults.counts[MARKS_REMOVED] += count
    return rest


def documents_of(texts: Iterable[str], split: str | None, faults: Faults) -> Iterator[Document]:
    """Yield the documents; those without text are left out and counted."""
    for text in texts:
        if text.strip():
            yield Document(text, split)
        else:
            faults.counts["empty"] += 1
