"""Files: atomic writes, JSON, JSON lines and sha256. The only home of each of them.

A file is written beside its final name, synced to disk and renamed. A reader, or a run that is
killed in between, sees either the old file or the new one and never half of one. A disk that is
full, or a folder that cannot be written, leaves the old file and raises a MachineError.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from momentum_gpt.core.disk import refuse_link, writing

PACKAGE = Path(__file__).resolve().parents[1]

CLONE = PACKAGE.parents[1]
"""The repository's root, if the package is used from a clone."""

MOST_JSON_BYTES = 1 << 26
"""Size of the largest JSON file that is read: the manifest of 10 TB of tokens has 20 MiB."""


def conf_folder() -> Path:
    """Return the folder of YAML files: that of the clone, or its copy in an installed wheel."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else CLONE / "conf"


def launch_folder() -> Path:
    """Return the folder of launch scripts: that of the clone, or its copy in an installed wheel."""
    installed = PACKAGE / "launch"
    return installed if installed.is_dir() else CLONE / "launch"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the name `path` when the block ends without an error.

    Raises:
        MachineError: the disk is full, or the folder cannot be written. `path` is as it was.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            sync(partial)
            partial.replace(path)
    finally:
        with suppress(OSError):  # there is none, or its folder cannot be written
            partial.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing, UTF-8."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as an indented JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        ValueError: it is not JSON, is larger than MOST_JSON_BYTES, or is nested too deeply.
    """
    size = path.stat().st_size
    if size > MOST_JSON_BYTES:
        raise ValueError(f"{path} has {size:,} bytes, and at most {MOST_JSON_BYTES:,} are read")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file with one a line; [] if there is no file.

    A record is a JSON object with an integer `step`. A line that holds anything else is left out
    and named on stderr, once. A last line that a killed process cut short is left out without a
    word.
    """
    return [record for _, record in numbered_json_lines(path)]


def numbered_json_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Return what `read_json_lines` does, each record with the number of its line."""
    records = []
    for number, (_, record) in enumerate(_read_lines(path), start=1):
        if record is not None:
            records.append((number, record))
    return records


def append_json_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Append one JSON object a line: all of the records, or none if that fails.

    A last line that a killed process cut short is dropped before.

    Raises:
        MachineError: the disk is full, or the folder cannot be written. The file's lines are as
            they were.
        UserError: the file is a link.
    """
    refuse_link(path)
    added = "".join(json.dumps(record) + "\n" for record in records).encode()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a buffer, which would be written once more when the file is closed.
        with path.open("a+b", buffering=0) as file:
            whole = _end_last_line(file)
            try:
                _write_all(file, added)
            except BaseException:
                file.truncate(whole)
                raise


def keep_json_lines(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the records that are not wanted, and a last line that was cut short.

    A line that is no record is named on stderr and stays where it is.

    Raises:
        MachineError: the disk is full, or the folder cannot be written. The file is as it was.
    """
    kept = []
    for line, record in _read_lines(path):
        if record is None or wanted(record):
            kept.append(line + b"\n")
    with replacing(path) as partial:
        partial.write_bytes(b"".join(kept))


def sha256_of_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_lines(path: Path) -> list[tuple[bytes, dict[str, Any] | None]]:
    """Return each line with its record; None where there is none. Name such lines on stderr.

    A last line that was cut short is left out.
    """
    if not path.is_file():
        return []
    *complete, last = path.read_bytes().split(b"\n")
    lines = [(line, record_of(line)) for line in complete]
    if (record := record_of(last)) is not None:  # only the newline is missing
        lines.append((last, record))

    bad = []
    for number, (line, record) in enumerate(lines, start=1):
        if record is None and line.strip():
            bad.append(number)
    if bad:
        _say_once(_bad_lines(path, bad))
    return lines


def record_of(line: bytes) -> dict[str, Any] | None:
    """Return the record that a line holds; None if it holds anything else."""
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    has_step = isinstance(record, dict) and isinstance(record.get("step"), int)
    return record if has_step else None


def _bad_lines(path: Path, numbers: list[int]) -> str:
    first = ", ".join(str(number) for number in numbers[:5])
    if len(numbers) == 1:
        return f"{path}: line {first} is no record (a JSON object with a step): left out"
    more = ", ..." if len(numbers) > 5 else ""
    return (
        f"{path}: {len(numbers)} lines are no records (JSON objects with a step): left out, "
        f"lines {first}{more}"
    )


@cache
def _say_once(text: str) -> None:
    """Print on stderr what was not said before: a file is read more than once."""
    print(text, file=sys.stderr, flush=True)


def _end_last_line(file: io.FileIO) -> int:
    """Give the last line its newline, or drop it if it was cut short; return the file's size."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if file.read() in (b"", b"\n"):
        return size

    file.seek(0)
    last = file.readall().rpartition(b"\n")[2]
    if record_of(last) is not None:
        return size + file.write(b"\n")
    return file.truncate(size - len(last))


def _write_all(file: io.FileIO, content: bytes) -> None:
    """Write to the end of an unbuffered file, which may take a part at a time."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
