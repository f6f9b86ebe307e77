"""Local files: which of them are text, and the row groups of those that are parquet files."""

from __future__ import annotations

import codecs
import glob
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from momentum_gpt.core.errors import UserError
from momentum_gpt.data.text_files import BLOCK, OTHER_MARKS, PACKED, DamagedError, blocks, damaged

HEAD = 1 << 13
"""Bytes at the beginning of a file by which text is told from other content."""

KNOWN = re.compile(rf"\.(txt|jsonl)({'|'.join(map(re.escape, PACKED))})?$|\.parquet$")
"""Names of files that are read whatever they hold, so that a damaged one is not passed over."""

CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
"""Control characters that text in any encoding of one byte per character hardly ever has."""


@dataclass
class Skipped:
    """Files of a folder or a glob that are not read."""

    paths: dict[str, list[Path]] = field(default_factory=dict)
    """The files, by the reason: "hidden" or "binary"."""

    def add(self, reason: str, path: Path) -> None:
        """Note a file that is not read."""
        self.paths.setdefault(reason, []).append(path)

    def notes(self) -> list[str]:
        """Return a sentence for each reason."""
        sentences = []
        for reason, paths in sorted(self.paths.items()):
            files = "file" if len(paths) == 1 else "files"
            sentences.append(f"skipped {len(paths):,} {reason} {files}, such as {paths[0]}")
        return sentences


def find_files(given: str, option: str, skipped: Skipped) -> list[Path]:
    """Return the files that a path of an option stands for, sorted.

    Args:
        given: a file, which may have any name; a folder; or a glob.
        option: the option's name, for the error message.
        skipped: gets the hidden and binary files of a folder or a glob.

    Raises:
        UserError: there is no such file.
    """
    path = Path(given).expanduser()
    if path.is_file():
        return [path]

    if path.is_dir():
        candidates = sorted(found for found in path.rglob("*") if found.is_file())
        candidates = _without_hidden(candidates, path, skipped)
    else:
        # A glob does not match hidden files unless it is written to.
        names = glob.glob(str(path), recursive=True)
        candidates = sorted(Path(name) for name in names if Path(name).is_file())

    files = []
    for candidate in candidates:
        if KNOWN.search(candidate.name) or not is_binary(candidate):
            files.append(candidate)
        else:
            skipped.add("binary", candidate)
    if not files:
        raise UserError(
            f"{option}: {given!r} is no file, no folder with text files and no glob that matches "
            "any: check the path"
        )
    return files


def _without_hidden(files: list[Path], folder: Path, skipped: Skipped) -> list[Path]:
    """Return the files without those that are hidden, or in a hidden folder, below `folder`."""
    visible = []
    for file in files:
        names = file.relative_to(folder).parts
        if any(name.startswith(".") for name in names):
            skipped.add("hidden", file)
        else:
            visible.append(file)
    return visible


def is_binary(path: Path) -> bool:
    """Return whether a file, by its first bytes, is something other than text.

    Text in another encoding than UTF-8 is not binary: reading it is an error that names the file.
    """
    try:
        head = next(blocks(str(path), HEAD), b"")
    except DamagedError:
        return False  # reading it says what is wrong
    if head.startswith(OTHER_MARKS):
        return False
    if b"\0" in head:
        return True

    # The last character of the head may be cut off.
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(head, final=len(head) < HEAD)
    except UnicodeDecodeError:
        return bool(CONTROL.search(head))
    return False


def row_groups(path: Path, part_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Yield ranges of a parquet file's row groups: first, last + 1, and bytes.

    Args:
        path: the file.
        part_bytes: about how many bytes a range should have.

    Raises:
        UserError: the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from None

    start = 0
    size = 0
    last = metadata.num_row_groups - 1
    for group in range(metadata.num_row_groups):
        size += metadata.row_group(group).total_byte_size
        if size >= part_bytes or group == last:
            yield start, group + 1, size
            start = group + 1
            size = 0
    if last < 0:
        yield 0, 0, 0  # one empty part, so that the file is in the manifest


def sha256_of_range(path: Path, start: int, end: int | None) -> str:
    """Return the sha256 of bytes start ... end - 1 of a file; None: to the end.

    Raises:
        UserError: the file has become shorter.
    """
    digest = hashlib.sha256()
    left = (path.stat().st_size if end is None else end) - start
    with path.open("rb") as file:
        file.seek(start)
        while left > 0:
            block = file.read(min(left, BLOCK))
            if not block:
                raise UserError(f"{path} became shorter while it was read: run the command again")
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()
