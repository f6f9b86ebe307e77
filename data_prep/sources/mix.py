"""The sources of a preparation: one corpus, or several in a mix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from data_prep.settings import CORPUS_CONFIGS, MixConfig, MixShareConfig, corpus_config
from data_prep.sources.corpus import Corpus
from data_prep.sources.hub import HubCorpus
from data_prep.sources.stdlib import StdlibCorpus
from data_prep.sources.text import TextCorpus
from momentum_gpt.core.errors import UserError

CORPORA: dict[str, Any] = {"stdlib": StdlibCorpus, "text": TextCorpus, "hub": HubCorpus}
"""The corpus of each `corpus.kind` except for a mix, which consists of them."""

SHARE_OPTIONS = [entry.name for entry in fields(MixShareConfig)]


@dataclass
class Source:
    """A corpus, by itself or in a mix."""

    name: str
    corpus: Corpus
    weight: float | None = None
    """Share of the training tokens, relative to the other weights. None: all text, once."""
    max_epochs: float = 1.0
    """How often a document may be repeated, on average, to reach the weight."""


def build_corpus(options: Mapping[str, Any], section: str = "corpus") -> Corpus:
    """Return the corpus that the options describe.

    Args:
        options: `kind`, other than "mix", and the options of that kind.
        section: what the options' names begin with on the command line.

    Raises:
        UserError: an unknown kind, an unknown or missing option, or a value of a wrong type.
    """
    config = corpus_config(options, section, tuple(CORPORA))
    return CORPORA[options["kind"]](config)


def build_sources(options: Mapping[str, Any]) -> list[Source]:
    """Return the sources of the option `corpus`: one, or those of a mix.

    Raises:
        UserError: see `build_corpus`; or only some sources of a mix have a weight.
    """
    # With the mix among the kinds, a wrong kind is answered with the complete list.
    config = corpus_config(options, kinds=tuple(CORPUS_CONFIGS))
    kind = str(options["kind"])
    if not isinstance(config, MixConfig):
        return [Source(kind, CORPORA[kind](config))]

    if not config.sources:
        raise UserError(
            "corpus.sources must name the corpora of the mix: "
            "{NAME: {kind: text, paths: [...], weight: 1}, ...}"
        )
    sources = [_source(str(name), given) for name, given in config.sources.items()]

    without = [source.name for source in sources if source.weight is None]
    if without and len(without) < len(sources):
        names = ", ".join(without)
        raise UserError(
            f"corpus.sources: give each a weight or none; {names} have none, the others have one"
        )
    return sources


def _source(name: str, given: Any) -> Source:
    """Return one source of a mix.

    Args:
        name: its name in the mix.
        given: its options: those of its kind, `weight` and `max_epochs`.
    """
    section = f"corpus.sources.{name}"
    if not isinstance(given, dict):
        raise UserError(f"{section} must be {{kind: ..., ...}}, got {given!r}")

    share: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for option, value in given.items():
        (share if option in SHARE_OPTIONS else options)[option] = value

    for option, value in share.items():
        if value is not None and not (isinstance(value, int | float) and value > 0):
            raise UserError(f"{section}.{option} must be a number above 0, got {value!r}")
    return Source(name, build_corpus(options, section), **share)
