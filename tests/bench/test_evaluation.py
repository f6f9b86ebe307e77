"""`bench evaluation`: what it makes to score, and a whole run of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from momentum_gpt.bench.evaluation import TRAIN, made_task, random_model, time_lengths
from momentum_gpt.core.config import IclConfig
from momentum_gpt.data import TokenShards, load_tokenizer
from momentum_gpt.evaluation.few_shot.prompts import prepare_task
from momentum_gpt.models import load_model
from tests.conftest import command


@pytest.fixture(scope="module")
def validation(data_folder: Path) -> TokenShards:
    return TokenShards(data_folder, "validation")


def test_a_made_task_is_text_of_the_shards_with_two_answers(
    validation: TokenShards, tmp_path: Path
) -> None:
    made = made_task(tmp_path / "made.yaml", validation, 10)
    tokenizer = validation.tokenizer
    icl = IclConfig(tasks=[str(made)], data=str(tmp_path), k=[4], seeds=1, queries=10)
    prompts = prepare_task(str(made), tokenizer, icl, 1024)
    assert len(prompts.queries.asked) == 10
    shown = (tmp_path / "made" / "train.jsonl").read_text().splitlines()
    asked = (tmp_path / "made" / "validation.jsonl").read_text().splitlines()
    assert (len(shown), len(asked)) == (TRAIN, 10)
    text = tokenizer.decode(validation.read(0, 8 * 20 * (TRAIN + 10)).tolist())
    for query in prompts.queries.asked:
        ((row, answers),) = query.example.rows
        words = row.removeprefix("Text: ").removesuffix(" Label:").split()
        assert " ".join(words) in " ".join(text.split())
        assert list(answers) == [" No", " Yes"]


def test_the_model_with_random_weights_reads_the_shards_tokens(
    data_folder: Path, tmp_path: Path
) -> None:
    folder = random_model(tmp_path / "model", str(data_folder))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode("def one") == load_tokenizer(data_folder).encode("def one")
    assert load_model(folder).config.vocab_size == tokenizer.vocab_size


def test_lengths_together_have_the_losses_of_each(
    data_folder: Path, tmp_path: Path, validation: TokenShards
) -> None:
    model = load_model(random_model(tmp_path / "model", str(data_folder)))
    ours: Any = SimpleNamespace(model=model, seq_len=64, tokens_per_forward=1000)
    timing = time_lengths(ours, validation, 640)
    assert timing.what == "perplexity at 16, 32, 64"
    assert timing.difference < 1e-6
    assert timing.ours > 0


def test_all_is_timed_beside_lm_eval(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: make test-harness does it")
    monkeypatch.delenv("LOCAL_RANK", raising=False)  # left by tests that train in this process
    options = [f"text={data_folder}", "queries=4", "tokens=2000"]
    done = command("momentum_gpt.bench.evaluation", *options, timeout=600)
    assert done.code == 0, done.err
    rows = done.out.strip().splitlines()[-3:]
    assert [row.split()[0] for row in rows] == ["made,", "whole", "perplexity"]
    assert all(float(row.split()[-1]) < 0.01 for row in rows)
