"""Scores after a shared prefix do not depend on how requests are batched."""

from __future__ import annotations

import numpy as np

from momentum_gpt.evaluation.few_shot.shared_prefix import (
    n_tokens_of,
    requests_of,
    score_and_choose,
)
from tests.evaluation.few_shot.cases import model_of


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


def test_progress_counts_the_prefix_once_and_each_request_once() -> None:
    requests = requests_of([([5, 6], [[1], [2, 3, 4]]), ([7], [[1], [2]])])
    # Two tokens, and two answers with two more tokens each; then a token, and nothing more.
    assert n_tokens_of(requests) == (2 + 2 * 2) + 1

    amounts: list[float] = []
    score_and_choose(model_of({"name": "vanilla"}), [4, 5, 6], requests, 8, amounts.append)
    assert sum(amounts) == 3 + 7
