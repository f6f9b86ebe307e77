"""The tokenizer of the tests of the analysis, and their task."""

from __future__ import annotations

from pathlib import Path

import pytest

from momentum_gpt.data import Tokenizer, load_tokenizer
from momentum_gpt.evaluation.few_shot.prompts import Prompts
from tests.analysis.cases import small_task


@pytest.fixture(scope="session")
def tokenizer(data_folder: Path) -> Tokenizer:
    return load_tokenizer(data_folder)


@pytest.fixture(scope="session")
def prompts(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Prompts:
    return small_task(tmp_path_factory.mktemp("task"), tokenizer)
