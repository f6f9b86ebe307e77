"""Files: atomic writes, JSON, JSON lines and sha256. The only home of each of them.

A file is written beside its final name, synced to disk and renamed. A reader, or a run that is
killed in between, sees either the old file or the new one and never half of one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]

CLONE = PACKAGE.parents[1]
"""The repository's root, if the package is used from a clone."""

MOST_JSON_BYTES = 1 << 26
"""Size of the largest JSON file that is read: the manifest of 10 TB of tokens has 20 MiB."""


def conf_folder() -> Path:
    """Return the folder of YAML files: that of the clone, or its copy in an installed wheel."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else CLONE / "conf"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the name `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
    """Return the records of a file with one JSON object a line; [] if there is no file.

    Reading stops at the first line that is not JSON: a process that was killed may have cut its
    last line short.
    """
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def append_json_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Append one JSON object a line, after dropping a last line that a killed process cut short."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and not _ends_with_newline(path):
        complete = path.read_text(encoding="utf-8").rpartition("\n")
        write_text(path, complete[0] + complete[1])
    with path.open("a", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record) + "\n")


def keep_json_lines(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the records that are not wanted."""
    kept = [record for record in read_json_lines(path) if wanted(record)]
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))


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


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read() in (b"", b"\n")
