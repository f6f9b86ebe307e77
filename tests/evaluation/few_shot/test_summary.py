"""Accuracies from scores that are given."""

from __future__ import annotations

import numpy as np
import pytest

from momentum_gpt.evaluation.few_shot.queries import Queries, Query
from momentum_gpt.evaluation.few_shot.rows import Example
from momentum_gpt.evaluation.few_shot.summary import accuracy, kinds_of
from momentum_gpt.evaluation.few_shot.tasks import load_task


def test_scores_are_divided_by_what_their_names_say() -> None:
    """ " a" is 1 character and 2 bytes, " naïve" 5 and 7.

    Characters are counted without the space before, bytes with it.
    """
    query = Query(Example("x", (" a", " naïve"), (0,)), [([5], [[1], [2, 3, 4]])])
    queries = Queries(load_task("sst2"), [query])
    alone = [np.array([-1.5, -5.0])]
    kinds = kinds_of([np.array([-2.0, -4.2])], alone, queries)
    expected = {
        "sum": [-2.0, -4.2],
        "per_token": [-2.0, -1.4],
        "per_char": [-2.0, -0.84],
        "per_byte": [-1.0, -0.6],
        "pmi": [-0.5, 0.8],
    }
    assert set(kinds) == set(expected)
    for kind, values in expected.items():
        assert kinds[kind][0].tolist() == pytest.approx(values)


def test_of_tied_candidates_the_first_is_taken() -> None:
    scores = [np.array([-1.0, -1.0]), np.array([-2.0, -1.0]), np.array([-1.0, -1.0])]
    assert accuracy(scores, [(0,), (1,), (1,)]) == pytest.approx(2 / 3)
