"""Text of local files, plain or packed: all of it, or an error that names the file.

What may be changed in a text is said by the functions that change it, in numbers.
"""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from momentum_gpt.core.errors import UserError

BLOCK = 1 << 20
"""Bytes read at once."""

PACKED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
"""Suffix -> what Arrow calls the way a file is packed."""

Row = tuple[str, Any]
"""The place of a row, for messages, and the row: a dictionary if all is well."""

MARK = "\ufeff"
"""The byte-order mark, with which some programs begin a text."""

MARKS_REMOVED = "byte-order marks removed"
NEWLINES_CHANGED = r"newlines \r\n or \r made \n"
"""What the two changes are called where they are counted."""

OTHER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
"""How a file in UTF-16 or UTF-32 begins, of whatever byte order; no UTF-8 does."""


class DamagedError(UserError):
    """A file that cannot be read to its end."""


class NoTextError(Exception):
    """A row without text; the message continues a sentence that begins with the row's place."""


def blocks(path: str, size: int = BLOCK) -> Iterator[bytes]:
    """Yield the unpacked bytes of a file, block by block.

    Raises:
        DamagedError: the file cannot be read to its end.
    """
    return _reading(path, lambda file: iter(lambda: file.read(size), b""))


def lines(path: str, start: int = 0) -> Iterator[tuple[int, bytes]]:
    r"""Yield the lines that begin at byte `start` or later, each with the byte it begins at.

    A line ends with \n, \r\n or \r, as the first two characters say of a text from another system.

    Raises:
        DamagedError: the file cannot be read to its end.
    """

    def act(file: Any) -> Iterator[tuple[int, bytes]]:
        offset = max(0, start - 1)
        if offset:
            file.seek(offset)
        for until_newline in file:
            for line in until_newline.splitlines(keepends=True):
                # With the byte before `start` ends the line that begins before it.
                if offset >= start:
                    yield offset, line
                offset += len(line)

    return _reading(path, act)


def _reading(path: str, act: Callable[[Any], Iterator[Any]]) -> Iterator[Any]:
    """Yield what `act` reads from the unpacked file."""
    import pyarrow as pa

    try:
        with _unpacked(Path(path)) as file:
            yield from act(file)
    except (OSError, EOFError, pa.ArrowException) as error:
        raise damaged(path, error) from None


def _unpacked(path: Path) -> Any:
    """Return the opened file, or one that reads its unpacked bytes."""
    import pyarrow as pa

    codec = PACKED.get(path.suffix)
    if codec is None:
        return path.open("rb")
    if not path.stat().st_size:
        raise EOFError("it is empty")
    # Arrow reads all frames, and finds one that is cut short; zstandard's reader just ends there.
    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), codec))


def check_packed(place: str) -> None:
    """Read every .zst file of a local data set to its end; a data set of the hub is no folder.

    `datasets` takes one that is cut short for a complete one. Other damage it finds itself.

    Raises:
        DamagedError: a file cannot be read to its end.
    """
    for path in sorted(Path(place).rglob("*.zst")):
        for _ in blocks(str(path)):
            pass


def damaged(path: str | Path, error: Exception) -> DamagedError:
    """Return the error to raise where reading a file failed."""
    return DamagedError(
        f"{path} cannot be read ({error}): it is damaged or cut short; fetch it again"
    )


def json_rows(path: str) -> Iterator[Row]:
    """Yield the rows of a .jsonl file.

    Raises:
        UserError: a line is not UTF-8 or not JSON, or the file cannot be read to its end.
    """
    for number, (offset, line) in enumerate(lines(path), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            yield place, parsed(place, decoded(path, line, offset))


def decoded(path: str, data: bytes, before: int = 0) -> str:
    """Return bytes of a file as text.

    Args:
        path: the file.
        data: the bytes.
        before: number of bytes before them in the file.

    Raises:
        UserError: they are not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(why_not_utf8(path, error, before)) from None


def parsed(place: str, text: str) -> Any:
    """Return the value of JSON.

    Raises:
        UserError: it is no JSON.
    """
    try:
        return json.loads(without_mark(text)[0])
    except json.JSONDecodeError as error:
        raise UserError(f"{place} is not JSON ({error}): correct or remove it") from None


def why_not_utf8(path: str | Path, error: UnicodeDecodeError, before: int) -> str:
    """Return what to tell of bytes that are not UTF-8.

    Args:
        path: their file.
        error: what is wrong with them.
        before: number of bytes before them in the file.
    """
    if before == 0 and error.object.startswith(OTHER_MARKS):
        return f"{path} is UTF-16 or UTF-32: convert it first, with iconv -f UTF-16 -t UTF-8"
    return (
        f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset "
        f"{before + error.start}; convert it first, for instance with "
        "iconv -f ISO-8859-1 -t UTF-8"
    )


def without_mark(text: str) -> tuple[str, int]:
    """Return a text without the byte-order marks that it begins with, and their number.

    Further on in a text the character is a space of no width, and stays.
    """
    rest = text.lstrip(MARK)
    return rest, len(text) - len(rest)


def with_newlines(text: str) -> tuple[str, int]:
    r"""Return a text with \n for \r\n and \r, and the number of those."""
    count = text.count("\r")
    return text.replace("\r\n", "\n").replace("\r", "\n"), count


def text_of(row: Any, field: str, option: str) -> str:
    """Return the text of a row.

    Args:
        row: a dictionary, if all is well.
        field: the key of the text.
        option: the option that names the field, for the message.

    Raises:
        NoTextError: there is none.
    """
    kind = option.rpartition(".")[2]  # "column" or "field"
    if not isinstance(row, dict):
        raise NoTextError(f" has no {kind} {field!r}: it is no JSON object")
    if field not in row:
        names = ", ".join(row)
        raise NoTextError(f" has no {kind} {field!r}: its {kind}s are {names}; set {option}")

    text = row[field]
    if text is None:
        raise NoTextError(f": {kind} {field!r} is null: leave out the row")
    if not isinstance(text, str):
        found = type(text).__name__
        raise NoTextError(f": {kind} {field!r} holds {found}, not text; set {option}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise NoTextError(
            f": the text holds half a surrogate pair ({error.reason}): correct or remove it"
        ) from None
    return text
