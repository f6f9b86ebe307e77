"""Local files: text, JSON lines and parquet."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path

from data_prep.settings import TextCorpusConfig
from data_prep.sources.assembly import Fragment, assembled, decoded, documents_of, texts_of
from data_prep.sources.corpus import Corpus, Document, Faults, Part, compiled
from data_prep.sources.reading import Skipped, find_files, row_groups
from momentum_gpt.core.errors import UserError
from momentum_gpt.data.text_files import BLOCK, MARK, PACKED, DamagedError, blocks, damaged, lines

PARQUET_ROWS = 256
"""Rows of a parquet file that are held at once."""

NEWLINE = rb"(?>\r\n|\n|\r)"
"""The end of a line; the group keeps \\r\\n whole."""


class TextCorpus(Corpus):
    """Text files of any name, `.jsonl` files (plain or packed) and `.parquet` files."""

    def __init__(self, config: TextCorpusConfig) -> None:
        self.config = config
        self.skipped = Skipped()

    def notes(self) -> list[str]:
        """Return how many files `parts` skipped, and why."""
        return self.skipped.notes()

    def parts(self, part_bytes: int) -> Iterator[Part]:
        """Yield the files, or ranges of those that can be cut."""
        config = self.config
        compiled(config.document_start or "")
        self.skipped = Skipped()

        # With validation files of its own, all other documents are for training.
        split = None if config.validation_paths is None else "train"
        for given in config.paths:
            for path in find_files(given, "corpus.paths", self.skipped):
                yield from self._parts_of(path, split, part_bytes)
        for given in config.validation_paths or []:
            for path in find_files(given, "corpus.validation_paths", self.skipped):
                yield from self._parts_of(path, "validation", part_bytes)

    def _parts_of(self, path: Path, split: str | None, part_bytes: int) -> Iterator[Part]:
        size = path.stat().st_size
        if path.suffix == ".parquet":
            for start, end, group_bytes in row_groups(path, part_bytes):
                yield Part(str(path), group_bytes, start, end, split)
        elif self._has_line_starts(path):
            # An empty file is one empty part, so that it is in the manifest.
            edges = [*range(0, size, part_bytes), size] if size else [0, 0]
            for start, end in pairwise(edges):
                yield Part(str(path), end - start, start, end, split)
        else:
            yield Part(str(path), size, split=split)

    def _has_line_starts(self, path: Path) -> bool:
        """Return whether documents begin at lines that can be found from any byte of the file."""
        if path.suffix in PACKED:
            return False
        return path.suffix == ".jsonl" or bool(self.config.document_start)

    def read(self, part: Part, faults: Faults) -> Iterator[Document]:
        """Yield the documents that begin in the part."""
        path = Path(part.path)
        if path.suffix == ".parquet":
            texts = self._parquet(part, faults)
        elif ".jsonl" in path.suffixes:
            texts = self._jsonl(part, faults)
        else:
            texts = decoded(assembled(self._fragments(part), faults), path, faults)

        try:
            yield from documents_of(texts, part.split, faults)
        except DamagedError as damage:
            # The document that was being read is not complete, and is left out.
            faults.met("damaged", str(damage))
        else:
            if not part.size:
                faults.counts["empty files"] += 1

    def _fragments(self, part: Part) -> Iterator[Fragment]:
        """Yield the bytes of a text file, and where new documents begin."""
        if self.config.document_start:
            return self._fragments_by_start(part, self.config.document_start)
        separator = (self.config.separator or "").replace("\\n", "\n").replace("\\t", "\t")
        if separator:
            return _fragments_by_separator(part, separator)
        return _fragments_by_block(part)

    def _fragments_by_start(self, part: Part, document_start: str) -> Iterator[Fragment]:
        """Yield lines; one that the regular expression matches begins a document."""
        pattern = compiled(document_start)
        # A document that began before this part belongs to an earlier part.
        started = part.start == 0
        for offset, line in lines(part.path, part.start):
            begins = bool(pattern.match(_as_matched(line)))
            if begins and part.end is not None and offset >= part.end:
                return
            started = started or begins
            if started:
                yield Fragment(begins, line, offset)

    def _jsonl(self, part: Part, faults: Faults) -> Iterator[str]:
        for number, (offset, line) in enumerate(lines(part.path, part.start), start=1):
            if part.end is not None and offset >= part.end:
                return
            if not line.strip():
                continue

            # The number of a line is not known in the middle of a file.
            place = f"the line at byte {offset}" if part.start else f"line {number}"
            where = f"{part.path}, {place}"
            for text in decoded([(offset, line)], Path(part.path), faults):
                try:
                    record = json.loads(text)
                except json.JSONDecodeError as error:
                    message = f"{where} is not JSON ({error}): correct or remove the line"
                    faults.met("not JSON", message)
                    continue
                yield from texts_of([(where, record)], self.config.column, faults)

    def _parquet(self, part: Part, faults: Faults) -> Iterator[str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        column = self.config.column
        try:
            with pq.ParquetFile(part.path, page_checksum_verification=True) as file:
                names = file.schema_arrow.names
                if column not in names:
                    raise UserError(
                        f"{part.path} has no column {column!r}: its columns are "
                        f"{', '.join(names)}; set corpus.column"
                    )
                end = file.num_row_groups if part.end is None else part.end
                batches = file.iter_batches(
                    batch_size=PARQUET_ROWS,
                    row_groups=list(range(part.start, end)),
                    columns=[column],
                )
                before = sum(file.metadata.row_group(group).num_rows for group in range(part.start))
                rows = chain.from_iterable(batch.to_pylist() for batch in batches)
                named = ((f"{part.path}, row {n}", row) for n, row in enumerate(rows, before + 1))
                yield from texts_of(named, column, faults)
        except (pa.ArrowException, OSError) as error:
            raise damaged(part.path, error) from None


def _as_matched(line: bytes) -> str:
    r"""Return a line as `document_start` sees it: with \n at its end, without byte-order marks."""
    text = line.rstrip(b"\r\n").decode("utf-8", errors="replace")
    return text.lstrip(MARK) + "\n"


def _fragments_by_block(part: Part) -> Iterator[Fragment]:
    """Yield the file as one document."""
    offset = 0
    for block in blocks(part.path):
        yield Fragment(False, block, offset)
        offset += len(block)


def _fragments_by_separator(part: Part, separator: str) -> Iterator[Fragment]:
    """Yield what stands between separators, in fragments of bounded size."""
    pattern = re.compile(re.escape(separator.encode()).replace(b"\\\n", NEWLINE))
    longest = 2 * len(separator.encode())  # a newline may be two characters
    rest = b""
    offset = 0
    begins = True
    for block in chain(blocks(part.path), [b""]):
        data = rest + block
        start = 0
        for found in pattern.finditer(data):
            # At the end of a block, more of a newline may follow.
            if block and found.end() == len(data):
                break
            yield Fragment(begins, data[start : found.start()], offset + start)
            start = found.end()
            begins = True

        # The last document may continue in the next block.
        rest = data[start:]
        offset += start
        if len(rest) > 2 * BLOCK:
            # Hold back what may be the beginning of a separator.
            yield Fragment(begins, rest[:-longest], offset)
            offset += len(rest) - longest
            rest = rest[-longest:]
            begins = False
    if rest:
        yield Fragment(begins, rest, offset)
