"""Accuracies and shares from the candidates' log-probabilities.

Arrays of candidates have one entry for each candidate of a query, nats; queries may differ in their
number of candidates, so that there is a list of arrays and not one matrix.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass, field

import numpy as np

from momentum_gpt.evaluation.few_shot.queries import Queries

HEADLINE = "per_token"
"""The score that `acc` counts, as in Dai et al.'s code; the same as sum for one-token answers."""

LEAST_SHARE = 1e-30
"""Smallest share whose logarithm is taken."""


@dataclass
class Scores:
    """Log-probabilities of the candidates, nats, in one setting."""

    asked: list[np.ndarray]
    """Of each query, after the demonstrations and its prompt."""
    alone: list[np.ndarray]
    """Of each query, after a prompt without content and without demonstrations."""
    calibration: list[np.ndarray] = field(default_factory=list)
    """After the demonstrations and each prompt without content; [] where there are none."""
    flipped: list[np.ndarray] | None = None
    """Of each query, after demonstrations with wrong answers, where these were asked for."""


@dataclass
class Summary:
    """What a record says of one setting; `FewShotRecord` documents the entries."""

    accuracies: dict[str, float]
    soft: float
    majority: float
    chosen: list[int]
    right: list[int]
    loss: list[float]
    scores: dict[str, list[list[float]]]


def summarize(scores: Scores, queries: Queries) -> Summary:
    """Return the accuracies by each score, and what each query's candidates got."""
    gold = queries.gold
    kinds = normalized(scores.asked, queries)
    headline = kinds[HEADLINE]
    pairs = zip(scores.asked, scores.alone, strict=True)
    # What the query adds to a candidate: its pointwise mutual information with the query.
    kinds["pmi"] = [values - alone for values, alone in pairs]

    accuracies = {kind: accuracy(values, gold) for kind, values in kinds.items()}
    if scores.calibration:
        # Demonstrations alone may favour a candidate; its advantage is taken away from all queries.
        bias = log_bias(scores.calibration, queries)
        accuracies["calibrated"] = accuracy([values - bias for values in headline], gold)
    if scores.flipped is not None:
        after_wrong = normalized(scores.flipped, queries)[HEADLINE]
        accuracies["flipped"] = accuracy(after_wrong, gold)

    right_shares = []
    choices = []
    for values, right in zip(headline, gold, strict=True):
        right_shares.append(_softmax(values)[right])
        choices.append(values.argmax())  # of ties the first

    right_share = np.array(right_shares)  # (queries,)
    chosen = np.array(choices)  # (queries,)
    n_candidates = max(map(len, headline))
    return Summary(
        accuracies=accuracies,
        soft=float(right_share.mean()),
        majority=float(np.bincount(gold).max() / len(gold)),
        chosen=np.bincount(chosen, minlength=n_candidates).tolist(),
        right=(chosen == gold).astype(int).tolist(),
        loss=np.round(-np.log(np.maximum(right_share, LEAST_SHARE)), 5).tolist(),
        # The other scores follow from the sum and the candidates' sizes.
        scores={"sum": _rounded(kinds["sum"]), "pmi": _rounded(kinds["pmi"])},
    )


def normalized(scores: list[np.ndarray], queries: Queries) -> dict[str, list[np.ndarray]]:
    """Return the sums of nats divided by each candidate's size, query by query.

    Characters are counted without the space before a candidate; bytes with it.
    """
    kinds: dict[str, list[np.ndarray]] = {
        "sum": scores,
        "per_token": [],
        "per_char": [],
        "per_byte": [],
    }
    rows = zip(scores, queries.candidates, queries.examples, strict=True)
    for values, answers, example in rows:
        texts = example.candidates
        kinds["per_token"].append(values / _sizes(answers))
        kinds["per_char"].append(values / _sizes([text.lstrip() for text in texts]))
        kinds["per_byte"].append(values / _sizes([text.encode() for text in texts]))
    return kinds


def accuracy(scores: list[np.ndarray], gold: np.ndarray) -> float:
    """Return the share of queries whose best candidate is right; of ties the first one is taken."""
    pairs = zip(scores, gold, strict=True)
    return float(np.mean([values.argmax() == right for values, right in pairs]))


def log_bias(calibration: list[np.ndarray], queries: Queries) -> np.ndarray:
    """Return the log of the candidates' mean share after prompts without content, (candidates,).

    Subtracting it is the contextual calibration of Zhao et al. ("Calibrate Before Use", 2021).
    """
    # All queries have the same candidates here.
    lengths = _sizes(queries.candidates[0])
    shares = [_softmax(values / lengths) for values in calibration]
    return np.log(np.mean(shares, axis=0))


def _sizes(items: Sequence[Sized]) -> np.ndarray:
    return np.array([len(item) for item in items])


def _rounded(scores: list[np.ndarray]) -> list[list[float]]:
    return [np.round(values, 5).tolist() for values in scores]


def _softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max())  # the largest is 1, so that nothing overflows
    return weights / weights.sum()
