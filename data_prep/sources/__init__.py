"""Where documents come from: one file for each kind of source."""

from data_prep.sources.corpus import Corpus, Document, Faults, Part, split_of
from data_prep.sources.mix import CORPORA, Source, build_corpus, build_sources

__all__ = [
    "CORPORA",
    "Corpus",
    "Document",
    "Faults",
    "Part",
    "Source",
    "build_corpus",
    "build_sources",
    "split_of",
]
