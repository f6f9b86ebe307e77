"""Data sets of the Hugging Face hub, through its own client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from data_prep.settings import HubCorpusConfig
from data_prep.sources.assembly import Fragment, assembled, documents_of, texts_of
from data_prep.sources.corpus import Corpus, Document, Faults, Part, compiled
from momentum_gpt.core.errors import UserError
from momentum_gpt.data.text_files import check_packed


class HubCorpus(Corpus):
    """A data set of the hub, or a local folder with the hub's layout; no code of it is run."""

    def __init__(self, config: HubCorpusConfig) -> None:
        self.config = config

    @property
    def in_order(self) -> bool:
        """Whether the rows of a split must be read from first to last, by one task."""
        return bool(self.config.document_start or self.config.max_documents)

    def parts(self, part_bytes: int) -> Iterator[Part]:
        """Yield ranges of rows; when streaming, the data set's own shards."""
        compiled(self.config.document_start or "")
        check_packed(self.config.dataset)
        for name, split in self._splits():
            rows = self._load(name)
            if self.config.streaming:
                yield from self._streamed_parts(rows, split)
            else:
                yield from self._row_ranges(rows, split, part_bytes)

    def _streamed_parts(self, rows: Any, split: str | None) -> Iterator[Part]:
        count = 1 if self.in_order else rows.num_shards
        for number in range(count):
            # How large a shard is, is not known before it is read.
            yield Part(self.config.dataset, 0, number, number + 1, split)

    def _row_ranges(self, rows: Any, split: str | None, part_bytes: int) -> Iterator[Part]:
        size = rows.data.nbytes
        count = len(rows)
        # Rows are taken to be equally long.
        step = count if self.in_order else min(count, count * part_bytes // max(1, size))
        step = max(1, step)
        for start in range(0, count, step):
            end = min(count, start + step)
            yield Part(self.config.dataset, size * (end - start) // count, start, end, split)

    def read(self, part: Part, faults: Faults) -> Iterator[Document]:
        """Yield the documents of a part."""
        config = self.config
        texts = texts_of(self._named_rows(part), config.column, faults)
        if config.document_start:
            texts = _joined(texts, config.document_start, faults)

        documents = documents_of(texts, part.split, faults)
        yield from islice(documents, config.max_documents)

    def _named_rows(self, part: Part) -> Iterator[tuple[str, Any]]:
        """Yield the rows, each with its place."""
        where = f"data set {self.config.dataset!r}"
        first = part.start
        if self.config.streaming:
            # How many rows there are before a shard is not known.
            where += "" if self.in_order else f", shard {part.start + 1}"
            first = 0
        for number, row in enumerate(self._rows(part), start=first + 1):
            yield f"{where}, row {number}", row

    def _rows(self, part: Part) -> Any:
        names = {split: name for name, split in self._splits()}
        rows = self._load(names[part.split])
        if not self.config.streaming:
            assert part.end is not None
            return rows.select(range(part.start, part.end))
        if self.in_order or rows.num_shards == 1:
            return rows
        return rows.shard(num_shards=rows.num_shards, index=part.start)

    def _splits(self) -> list[tuple[str, str | None]]:
        """Return the data set's splits that are read, and our split of their documents."""
        if self.config.validation_split is None:
            return [(self.config.split, None)]
        return [(self.config.split, "train"), (self.config.validation_split, "validation")]

    def _load(self, split: str) -> Any:
        import datasets

        config = self.config
        try:
            return datasets.load_dataset(
                config.dataset,
                config.config,
                split=split,
                revision=config.revision,
                streaming=config.streaming,
            )
        except Exception as error:
            # The hub, the network and each reader have errors of their own.
            reason = " ".join(str(error).split())
            raise UserError(
                f"data set {config.dataset!r}, split {split!r} cannot be loaded: {reason}"
            ) from None


def _joined(texts: Iterable[str], document_start: str, faults: Faults) -> Iterator[str]:
    """Yield documents of several rows each; a row that the pattern matches begins one."""
    pattern = compiled(document_start)
    fragments = (Fragment(bool(pattern.match(text)), text.encode()) for text in texts)
    for _, data in assembled(fragments, faults):
        yield data.decode()
