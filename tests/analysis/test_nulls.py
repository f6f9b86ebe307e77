"""What replaces one side of a pair: of the same length, with mean 0, and never the query's own."""

from __future__ import annotations

import math

import pytest
import torch

from momentum_gpt.analysis.nulls import gaussian, mismatched, partners, uniform
from momentum_gpt.analysis.similarity import (
    Pair,
    attention_changes,
    cosine,
    kendall,
    output_updates,
)
from momentum_gpt.core.errors import UserError
from tests.analysis.passes import Q, random_pass

PASSES = tuple(random_pass(seed) for seed in (1, 2, 3))


@pytest.mark.parametrize("n", [2, 3, 10, 101])
def test_two_queries_are_each_other_s_partners(n: int) -> None:
    for seed in range(20):
        chosen = partners(n, seed)
        assert torch.equal(chosen[chosen], torch.arange(n))
        assert int((chosen == torch.arange(n)).sum()) == n % 2
    assert torch.equal(partners(n, 3), partners(n, 3))


def test_any_other_query_may_be_the_partner() -> None:
    chosen = torch.stack([partners(4, seed) for seed in range(200)])
    for query in range(4):
        assert set(chosen[:, query].tolist()) == set(range(4)) - {query}


def test_a_single_query_has_no_partner() -> None:
    with pytest.raises(UserError, match="at least 2"):
        partners(1, 0)


def test_mismatched_is_the_cosine_with_the_finetuning_of_the_partner() -> None:
    pair = output_updates(*PASSES)
    found = cosine(mismatched(pair, seed=5))
    alone = 0
    for query, other in enumerate(partners(Q, 5).tolist()):
        if other == query:
            alone += 1
            assert found[query].isnan().all()
        else:
            expected = torch.cosine_similarity(pair.icl[query], pair.finetuned[other], dim=-1)
            torch.testing.assert_close(found[query], expected)
    assert alone == Q % 2


def test_noise_has_the_length_of_what_it_replaces_and_its_gaps() -> None:
    pair = attention_changes(*PASSES)
    noisy = gaussian(pair, seed=0)
    assert torch.equal(noisy.finetuned.isnan(), pair.finetuned.isnan())
    torch.testing.assert_close(
        noisy.finetuned.nan_to_num().norm(dim=-1), pair.finetuned.nan_to_num().norm(dim=-1)
    )
    assert torch.equal(noisy.icl.nan_to_num(), pair.icl.nan_to_num())
    assert torch.equal(uniform(pair, 0).finetuned.isnan(), pair.finetuned.isnan())


def test_the_paper_s_noise_looks_like_an_update_with_a_mean_and_normal_noise_does_not() -> None:
    """An update with the mean 1 and the variance 1: its cosine with the noise is sqrt(3/8)."""
    update = 1 + torch.randn(400, 2, 256, generator=torch.Generator().manual_seed(0))
    pair = Pair(update, update)
    of_paper = cosine(uniform(pair, 1)).mean().item()
    assert of_paper == pytest.approx(math.sqrt(3 / 8), abs=0.01)
    assert cosine(gaussian(pair, 1)).mean().item() == pytest.approx(0, abs=0.01)


def test_attention_to_demonstrations_is_unlike_noise() -> None:
    logits = torch.randn(100, 3, 40, generator=torch.Generator().manual_seed(0))
    pair = Pair(logits, logits)
    assert kendall(uniform(pair, 1)).mean().item() == pytest.approx(0, abs=0.03)
    assert kendall(mismatched(pair, 1)).mean().item() == pytest.approx(0, abs=0.03)
