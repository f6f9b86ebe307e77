"""Losses by how frequent a token is: ranks against a sorted list, losses against a loop."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from momentum_gpt.core.config import EvaluationConfig
from momentum_gpt.data import Texts, TokenShards
from momentum_gpt.evaluation import frequency
from momentum_gpt.evaluation.frequency import by_frequency, frequency_ranks
from momentum_gpt.evaluation.perplexity import nats_of, perplexity, plan_passes
from momentum_gpt.evaluation.targets import choose_targets
from tests.evaluation.test_perplexity import small_model


@pytest.fixture(scope="module")
def validation(data_folder: Path) -> TokenShards:
    return TokenShards(data_folder, "validation")


def sorted_ids(folder: Path, most: int) -> list[int]:
    """Return all token ids, the most frequent of the first training tokens first."""
    shards = TokenShards(folder, "train")
    counts = Counter(shards.read(0, min(most, len(shards))).tolist())
    return sorted(range(shards.vocab_size), key=lambda token: (-counts[token], token))


def test_ranks_are_the_places_in_the_order_of_frequency(
    data_folder: Path, validation: TokenShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = frequency_ranks(validation)
    assert ranks is not None
    assert np.argsort(ranks).tolist() == sorted_ids(data_folder, 10**7)

    # Only the beginning is counted; the shards hold 20,000 tokens each, and the blocks fewer.
    frequency._ranks.cache_clear()
    monkeypatch.setattr(frequency, "COUNTED", 25_000)
    monkeypatch.setattr(frequency, "BLOCK", 7_000)
    ranks = frequency_ranks(validation)
    frequency._ranks.cache_clear()
    assert ranks is not None
    assert np.argsort(ranks).tolist() == sorted_ids(data_folder, 25_000)


def test_a_loss_by_frequency_is_the_mean_over_targets_of_these_ranks() -> None:
    """Of 150 tokens, the 10 most frequent, the next 90 and the last 50; 10 is none of the first."""
    ranks = np.arange(150)
    tokens = np.array([0, 9, 10, 99, 100, 149])
    nats = np.array([1.0, 2.0, 3.0, 5.0, 8.0, 13.0])
    found = by_frequency(nats, tokens, ranks)
    expected = {"val/loss@rank10": 1.5, "val/loss@rank100": 4.0, "val/loss@rank1000": 10.5}
    assert found == expected
    assert list(by_frequency(nats[:2], tokens[:2], ranks)) == ["val/loss@rank10"]


def test_an_evaluation_has_the_losses_by_frequency(
    data_folder: Path, validation: TokenShards
) -> None:
    model, config = small_model(64), EvaluationConfig(tokens=640, context_lengths=[16, 64])
    targets = choose_targets(validation, config, 64)
    passes = plan_passes(targets, config, 64)
    metrics, _ = perplexity(model, targets, passes, 64, 1000)

    place = {token: rank for rank, token in enumerate(sorted_ids(data_folder, 10**7))}
    nats = nats_of(model, targets, passes[0].layout, 1000)  # all windows of 64
    sums: dict[int, list[float]] = {10: [], 100: [], 1000: []}
    for token, one in zip(targets.tokens.tolist(), nats.tolist(), strict=True):
        end = next(end for end in sums if place[token] < end)
        sums[end].append(one)
    for end, values in sums.items():
        assert metrics[f"val/loss@rank{end}"] == pytest.approx(np.mean(values), rel=1e-6)
    total = sum(metrics[f"val/loss@rank{end}"] * len(values) for end, values in sums.items())
    assert total / 640 == pytest.approx(metrics["val/loss"], rel=1e-6)


def test_text_without_a_training_split_has_none(
    data_folder: Path, validation: TokenShards, tmp_path: Path
) -> None:
    assert frequency_ranks(Texts(["one two"], validation.tokenizer, 10, "texts")) is None
    copy = Path(shutil.copytree(data_folder, tmp_path / "copy"))
    (copy / "train_00001.npy").unlink()
    assert frequency_ranks(TokenShards(copy, "validation")) is None
