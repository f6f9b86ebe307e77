"""Accuracies from scores that are given."""

from __future__ import annotations

import numpy as np
import pytest

from momentum_gpt.evaluation.few_shot.queries import Queries, Query
from momentum_gpt.evaluation.few_shot.rows import Example
from momentum_gpt.evaluation.few_shot.summary import Scores, accuracy, kinds_of, log_bias, summarize
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


def test_a_summary_is_what_its_scores_give_on_paper() -> None:
    """Two queries of two one-token candidates: " a" is right in the first, " b" in the second.

    | score, in shares | query 1       | query 2       |
    | asked            | (0.6, 0.4)    | (0.75, 0.25)  |
    | alone            | (0.75, 0.25)  | (0.9, 0.1)    |
    | asked / alone    | (0.8, 1.6)    | (0.83, 2.5)   |
    | calibration      | (0.7, 0.3), (0.9, 0.1): on average (0.8, 0.2) |
    | asked / that     | (0.75, 2)     | (0.94, 1.25)  |
    | flipped          | (0.1, 0.9)    | (0.9, 0.1)    |
    """
    asked_of = []
    for right in (0, 1):
        example = Example("x", (" a", " b"), (right,))
        asked_of.append(Query(example, [([5 + right], [[1], [2]])]))
    queries = Queries(load_task("sst2"), asked_of)
    asked = [np.log([0.6, 0.4]), np.log([0.75, 0.25])]
    alone = [np.log([0.75, 0.25]), np.log([0.9, 0.1])]
    bias = log_bias(np.log([[0.7, 0.3], [0.9, 0.1]]), asked_of[0])
    assert np.exp(bias).tolist() == pytest.approx([0.8, 0.2])
    flipped = [np.log([0.1, 0.9]), np.log([0.9, 0.1])]
    is_chosen = [np.array([True, False])] * 2
    scores = Scores(asked, is_chosen, alone, {0: bias, 1: bias}, flipped)
    summary = summarize(scores, queries)

    as_asked = dict.fromkeys(("sum", "per_token", "per_char", "per_byte"), 0.5)
    assert summary.accuracies == as_asked | {"pmi": 0.5, "calibrated": 0.5, "flipped": 0.0}
    assert summary.soft == pytest.approx((0.6 + 0.25) / 2)
    assert summary.majority == 0.5
    assert summary.chosen == [2, 0]
    assert summary.right == [1, 0]
    assert summary.loss == [0.51083, 1.38629]  # -ln 0.6, -ln 0.25
    assert summary.scores is not None
    assert summary.scores["sum"] == [[-0.51083, -0.91629], [-0.28768, -1.38629]]
    assert summary.scores["pmi"] == [[-0.22314, 0.47], [-0.18232, 0.91629]]


def test_a_summary_has_only_what_was_asked_for() -> None:
    query = Query(Example("x", (" a", " b", " c"), (2,)), [([5], [[1], [2], [3]])])
    queries = Queries(load_task("sst2"), [query])
    certain = [np.array([-800.0, -1000.0, -1200.0])]  # exp(-800) is 0 in floating point
    summary = summarize(Scores(certain, [np.array([True, False, False])], certain), queries)
    assert not {"calibrated", "flipped"} & set(summary.accuracies)
    assert summary.chosen == [1, 0, 0]
    assert summary.majority == 1.0
    assert summary.loss == [pytest.approx(30 * np.log(10), abs=1e-4)]  # shares end at 1e-30
