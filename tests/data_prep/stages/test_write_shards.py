"""The proportions of a mix in the shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import prepare
from data_prep.provenance import provenance_of
from momentum_gpt.data import TokenShards
from momentum_gpt.data.shards import read_manifest
from tests.conftest import Result
from tests.data_prep.samples import ONE_PROCESS, documents, write_json_lines

Invoke = Callable[..., Result]


def test_a_mix_has_the_requested_weights_within_the_epoch_caps(
    invoke: Invoke,
    numbered: list[str],
    tmp_path: Path,
) -> None:
    many = write_json_lines(tmp_path / "many.jsonl", numbered[:300])
    few = write_json_lines(tmp_path / "few.jsonl", numbered[300:])
    sources = (
        f"{{many: {{kind: text, paths: {many}, weight: 1}}, "
        f"few: {{kind: text, paths: {few}, weight: 1, max_epochs: 2.5}}}}"
    )
    output = tmp_path / "out"
    command = ["corpus=mix", "tokenizer.vocab_size=300", ONE_PROCESS]
    done = invoke(prepare.main, *command, f"corpus.sources={sources}", f"output={output}")
    assert done.code == 0, done.err

    found = documents(output)
    copies = Counter(found)
    assert {copies[text] for text in numbered[300:] if text in copies} == {2, 3}
    assert {copies[text] for text in numbered[:300] if text in copies} == {1}
    mix = {source.source: source for source in provenance_of(read_manifest(output)).mix}
    assert mix["few"].epochs == pytest.approx(2.5, abs=0.25)
    assert mix["few"].tokens_taken / mix["many"].tokens_taken == pytest.approx(1, abs=0.15)
    assert sum(source.tokens_taken for source in mix.values()) == len(TokenShards(output))

    # No document stands beside its copy.
    first_copies = found[: len(copies)]
    assert len(set(first_copies)) == len(first_copies)
    assert len(found) > len(first_copies)

    partly = sources.replace(", weight: 1}", "}")
    refused = invoke(prepare.main, *command, f"corpus.sources={partly}", f"output={tmp_path}/b")
    assert refused.code == 2
    assert "give each a weight or none; many have none" in refused.err
