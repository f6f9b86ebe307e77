"""Scores after a shared prefix are those of plain passes, however requests are batched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from momentum_gpt.core import distributed
from momentum_gpt.evaluation.few_shot.shared_prefix import (
    Request,
    batched,
    n_tokens_of,
    requests_of,
    score_and_choose,
    tokens_beside_scores,
)
from momentum_gpt.models import GPT
from tests.evaluation.few_shot.cases import model_of
from tests.training.ranks import on_ranks


def test_batches_and_order_change_nothing() -> None:
    generator = np.random.default_rng(0)
    prompts = [generator.integers(4, 500, n).tolist() for n in (3, 40, 7, 1, 22)]
    candidates = []
    for _ in prompts:
        candidates.append([generator.integers(4, 500, n).tolist() for n in (2, 1, 5)])

    requests = requests_of(list(zip(prompts, candidates, strict=True)))
    prefix = list(range(4, 44))
    model = model_of({"name": "momentum", "ema_decay": 0.9})
    one_by_one, _ = score_and_choose(model, prefix, requests, 1)
    for tokens_per_forward in (200, 10**6):
        other, _ = score_and_choose(model, prefix, requests, tokens_per_forward)
        np.testing.assert_allclose(other, one_by_one, atol=1e-5)
    backwards, _ = score_and_choose(model, prefix, requests[::-1], 200)
    np.testing.assert_allclose(backwards, one_by_one, atol=1e-5)


@torch.no_grad()
def plain_scores(
    model: GPT, prefix: list[int], requests: list[Request]
) -> tuple[list[float], list[bool]]:
    """Score each answer in a pass of its own, without a cache; and compare it with the argmax."""
    scores = []
    chosen = []
    for request in requests:
        for answer in request.answers:
            context = [*prefix, *request.tokens]
            logits = model(torch.tensor([[*context, *answer]]))[0, len(context) - 1 : -1]  # (M, V)
            places = torch.arange(len(answer))
            scores.append(logits.log_softmax(-1)[places, answer].sum().item())
            chosen.append(logits.argmax(-1).tolist() == answer)
    return scores, chosen


@torch.no_grad()
def greedy(model: GPT, context: list[int], n: int) -> list[int]:
    """Return the n tokens that the model would choose after a context."""
    tokens = list(context)
    for _ in range(n):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(context) :]


@pytest.mark.parametrize("prefix", [[], list(range(4, 44))], ids=["no prefix", "prefix"])
@pytest.mark.parametrize("longest", [1, 3])
def test_scores_and_choices_are_those_of_plain_passes(prefix: list[int], longest: int) -> None:
    """Of each prompt's answers, one is what the model would say, and one begins like it.

    The last prompt, a batch of its own, has only answers of one token.
    """
    model = model_of({"name": "momentum", "ema_decay": 0.9})
    prompts = [[5, 6, 7], [8], [9, 10]]
    candidates = []
    for number, prompt in enumerate(prompts):
        said = greedy(model, [*prefix, *prompt], longest)
        other = [*said[:-1], (said[-1] + 1) % 512]
        shorter = [300 + number] * max(1, longest - 1)
        candidates.append([other, said, shorter])

    rows = [*zip(prompts, candidates, strict=True), ([11], [[300], [301]])]
    requests = requests_of(rows)
    scores, chosen = score_and_choose(model, prefix, requests, 6)
    expected_scores, expected_chosen = plain_scores(model, prefix, requests)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-5)
    assert chosen.tolist() == expected_chosen
    assert sum(expected_chosen) == 3


def three_batches(ranks: int) -> list[float]:
    """Score on this rank: three batches, so that the second rank has none in the last round."""
    assert distributed.world_size() == ranks
    requests = requests_of([(prompt, [[1], [2, 3]]) for prompt in ([5, 6], [7], [8, 9, 10])])
    scores, _ = score_and_choose(model_of({"name": "vanilla"}), [4, 5], requests, 1)
    return scores.tolist()


def test_ranks_share_the_batches_and_all_get_all_scores(tmp_path: Path) -> None:
    alone = three_batches(1)
    for scores in on_ranks(2, three_batches, tmp_path, 2):
        assert scores == pytest.approx(alone, abs=1e-9)


def test_batches_hold_alike_requests_and_no_more_tokens_than_allowed() -> None:
    """Requests of 6, 3, 3, 2 and 1 tokens, where 7 may go at once."""
    sizes = [1, 3, 6, 2, 3]
    requests = requests_of([([5] * n, [[1]]) for n in sizes])
    found = [[one.n_tokens for one in batch] for batch in batched(requests, 7)]
    assert found == [[6], [3, 3], [2, 1]]

    found = [[one.n_tokens for one in batch] for batch in batched(requests, 6)]
    assert found == [[6], [3, 3], [2, 1]]
    found = [[one.n_tokens for one in batch] for batch in batched(requests, 5)]
    assert found == [[6], [3], [3], [2, 1]]


def test_a_long_prefix_leaves_room_for_fewer_tokens() -> None:
    """The model has 2 heads and 512 pieces; 3 copies of 2 scores for each token of the prefix."""
    model = model_of({"name": "vanilla"})
    assert tokens_beside_scores(model, 0, 6000) == 6000
    assert tokens_beside_scores(model, 85, 6000) == 6000  # 510 scores
    assert tokens_beside_scores(model, 256, 6000) == 2000  # 1536 scores
    assert tokens_beside_scores(model, 256, 1000) == 333


def test_progress_counts_the_prefix_once_and_each_request_once() -> None:
    requests = requests_of([([5, 6], [[1], [2, 3, 4]]), ([7], [[1], [2]])])
    # Two tokens, and two answers with two more tokens each; then a token, and nothing more.
    assert n_tokens_of(requests) == (2 + 2 * 2) + 1

    amounts: list[float] = []
    score_and_choose(model_of({"name": "vanilla"}), [4, 5, 6], requests, 8, amounts.append)
    assert sum(amounts) == 3 + 7
