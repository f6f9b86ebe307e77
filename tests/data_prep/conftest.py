"""What the tests of the preparation share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.prepare import prepare
from data_prep.settings import ExecutorConfig, PrepareConfig, TokenizerConfig
from data_prep.sources import Corpus, build_corpus


@pytest.fixture
def numbered() -> list[str]:
    """Four hundred documents that are all different."""
    letters = np.random.default_rng(0).choice(list("abcdefghij"), (400, 300))
    return [f"document {number}: " + "".join(row) for number, row in enumerate(letters)]


@pytest.fixture(scope="session")
def straight(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token shards of the text folder with the options SMALL, made at once in one process."""
    output = tmp_path_factory.mktemp("straight") / "shards"
    config = PrepareConfig(
        output=str(output),
        # As `corpus=text corpus.paths=FOLDER` composes it.
        corpus={
            "kind": "text",
            "paths": str(text_folder),
            "validation_paths": None,
            "separator": None,
            "document_start": None,
            "column": "text",
        },
        tokenizer=TokenizerConfig(vocab_size=400),
        executor=ExecutorConfig(workers=1),
        validation_fraction=0.25,
        shard_tokens=20_000,
        piece_bytes=60_000,
    )
    assert prepare(config) == 0
    return output


@pytest.fixture
def corpus_of(tmp_path: Path) -> Callable[..., Corpus]:
    """Return a function that builds a text corpus of the temporary folder."""

    def build(**options: object) -> Corpus:
        return build_corpus({"kind": "text", "paths": [str(tmp_path)], **options})

    return build
