"""The standard library of the running Python, file by file."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from data_prep.settings import StdlibCorpusConfig
from data_prep.sources.assembly import documents_of, unmarked
from data_prep.sources.corpus import Corpus, Document, Faults, Part

SUFFIXES = (".py", ".txt", ".rst")

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
"""Folders that are not read: tests, and packages that were installed into the library."""


class StdlibCorpus(Corpus):
    """The source and the documentation of the standard library, which every machine has."""

    def __init__(self, config: StdlibCorpusConfig) -> None:
        self.config = config

    def parts(self, part_bytes: int) -> Iterator[Part]:
        """Yield the files."""
        root = Path(sysconfig.get_path("stdlib"))
        for path in sorted(root.rglob("*")):
            folders = set(path.relative_to(root).parts[:-1])
            if path.suffix in SUFFIXES and not LEFT_OUT & folders and path.is_file():
                yield Part(str(path), path.stat().st_size)

    def read(self, part: Part, faults: Faults) -> Iterator[Document]:
        """Yield a file as one document."""
        try:
            text = Path(part.path).read_bytes().decode()
        except UnicodeDecodeError:
            # A few files of the library are in other encodings, which is no mistake of the user.
            faults.counts["not UTF-8"] += 1
            return
        yield from documents_of([unmarked(text, faults)], part.split, faults)
