"""Choosing corpora: each kind with its options, and several in a mix."""

from __future__ import annotations

from typing import Any

import pytest

from data_prep.settings import CORPUS_CONFIGS
from data_prep.sources import CORPORA, build_sources
from momentum_gpt.core.errors import UserError


def test_every_kind_but_a_mix_has_a_corpus() -> None:
    assert set(CORPORA) == set(CORPUS_CONFIGS) - {"mix"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "web"}, r"corpus\.kind must be one of stdlib, text, hub, mix, got 'web'"),
        (
            {"kind": "text", "path": "a"},
            r"corpus\.kind=text has no option 'corpus\.path': did you mean 'corpus\.paths'\?",
        ),
        (
            {"kind": "text", "path": "a"},
            r"it has paths, validation_paths, separator, document_start, column$",
        ),
        ({"kind": "stdlib", "depth": 3}, r"no option 'corpus\.depth': it has none"),
        ({"kind": "text"}, r"corpus\.paths is not set: add corpus\.paths=\.\.\."),
        ({"kind": "hub", "dataset": "???"}, r"corpus\.dataset is not set: add corpus\.dataset="),
        (
            {"kind": "hub", "dataset": "a", "streaming": "perhaps"},
            r"corpus\.streaming: .*(could not be converted|not a valid bool)",
        ),
        (
            {"kind": "hub", "dataset": "a", "max_documents": 0},
            r"corpus\.max_documents must be at least 1, got 0",
        ),
        ({"kind": "mix", "sources": {}}, r"corpus\.sources must name the corpora of the mix"),
        ({"kind": "mix", "sources": {"a": "b"}}, r"corpus\.sources\.a must be \{kind: "),
        (
            {"kind": "mix", "sources": {"a": {"kind": "mix"}}},
            r"corpus\.sources\.a\.kind must be one of stdlib, text, hub, got 'mix'",
        ),
        (
            {"kind": "mix", "sources": {"a": {"kind": "text"}}},
            r"corpus\.sources\.a\.paths is not set: write \{kind: text, paths: \.\.\.\}",
        ),
        (
            {"kind": "mix", "sources": {"a": {"kind": "stdlib", "weight": -1}}},
            r"corpus\.sources\.a\.weight must be a number above 0, got -1",
        ),
        (
            {"kind": "mix", "sources": {"a": {"kind": "stdlib", "max_epochs": "many"}}},
            r"corpus\.sources\.a\.max_epochs must be a number above 0, got 'many'",
        ),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_sources(options)


def test_all_sources_of_a_mix_have_a_weight_or_none_has() -> None:
    many = {"kind": "stdlib"}
    few = {"kind": "text", "paths": "few/", "weight": 2, "max_epochs": 2.5}
    with pytest.raises(UserError, match="give each a weight or none; many have none"):
        build_sources({"kind": "mix", "sources": {"many": many, "few": few}})

    sources = build_sources({"kind": "mix", "sources": {"many": {**many, "weight": 1}, "few": few}})
    shares = [(source.name, source.weight, source.max_epochs) for source in sources]
    assert shares == [("many", 1, 1.0), ("few", 2, 2.5)]
