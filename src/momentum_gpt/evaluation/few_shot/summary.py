"""Accuracies and shares from the candidates' log-probabilities, or from what a model wrote.

Arrays of candidates have one entry for each candidate of a query, nats; queries may differ in their
number of candidates, so that there is a list of arrays and not one matrix.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from momentum_gpt.evaluation.few_shot.correctness import contains, exact, f1
from momentum_gpt.evaluation.few_shot.queries import Queries, Query

Gold = tuple[int, ...]
"""Numbers of a query's right candidates."""

EXAMPLES = 20
"""Queries of each setting that are kept as text."""

LEAST_SHARE = 1e-30
"""Smallest share whose logarithm is taken."""


@dataclass
class Scores:
    """Log-probabilities of the candidates, nats, in one setting; an entry for each query."""

    asked: list[np.ndarray]
    """After the demonstrations and the query's prompt."""
    chosen: list[np.ndarray]
    """Whether the model would write the candidate, each token being the likeliest."""
    alone: list[np.ndarray] = field(default_factory=list)
    """After a prompt without content and without demonstrations; [] where that says nothing."""
    bias: dict[int, np.ndarray] = field(default_factory=dict)
    """Place of a query -> what demonstrations alone give the candidates, see `log_bias`."""
    flipped: list[np.ndarray] | None = None
    """After demonstrations with wrong answers, where these were asked for."""

    @classmethod
    def of(cls, n: int) -> Scores:
        """Return the scores of n queries, to be filled in."""
        return cls([np.empty(0)] * n, [np.empty(0)] * n)


@dataclass
class Summary:
    """What a record says of one setting; `FewShotRecord` documents the entries."""

    accuracies: dict[str, float]
    right: list[int]
    by_group: dict[str, float] | None
    chosen: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    soft: float | None = None
    majority: float | None = None
    f1: list[float] | None = None
    ppl: float | None = None
    scores: dict[str, list[list[float]]] | None = None
    written: list[str] | None = None
    examples: list[dict[str, Any]] | None = None


def summarize(scores: Scores, queries: Queries) -> Summary:
    """Return the accuracies by each score, and what each query's candidates got."""
    gold = gold_of(queries)
    headline = queries.task.headline
    kinds = kinds_of(scores.asked, scores.alone, queries)

    accuracies = {kind: accuracy(values, gold) for kind, values in kinds.items()}
    if scores.bias:
        # Demonstrations alone may favour a candidate; its advantage is taken away from all queries.
        per_token = enumerate(kinds["per_token"])
        unbiased = [values - scores.bias[place] for place, values in per_token]
        accuracies["calibrated"] = accuracy(unbiased, gold)
    if scores.flipped is not None:
        after_wrong = kinds_of(scores.flipped, scores.alone, queries)
        accuracies["flipped"] = accuracy(after_wrong[headline], gold)

    best = kinds[headline]
    right_shares = []
    for values, numbers in zip(best, gold, strict=True):
        right_shares.append(_softmax(values)[list(numbers)].sum())

    right_share = np.array(right_shares)  # (queries,)
    choices = [values.argmax() for values in best]  # of ties the first
    right = right_of(best, gold)
    # The other scores follow from the sum and the candidates' sizes.
    kept = [kind for kind in ("sum", "pmi") if kind in kinds]
    return Summary(
        accuracies=accuracies,
        right=right,
        by_group=by_group(right, queries),
        chosen=np.bincount(choices, minlength=max(map(len, best))).tolist(),
        loss=np.round(-np.log(np.maximum(right_share, LEAST_SHARE)), 5).tolist(),
        soft=float(right_share.mean()),
        majority=majority(gold),
        scores={kind: _rounded(kinds[kind]) for kind in kept},
        examples=examples(queries, list(map(int, choices)), right),
    )


def summarize_foreseen(scores: Scores, queries: Queries) -> Summary:
    """Return how likely each query's only candidate is, and how often the model would write it."""
    logp = np.concatenate(scores.asked)  # (queries,)
    right = np.concatenate(scores.chosen).astype(int).tolist()
    return Summary(
        accuracies={"greedy": float(np.mean(right))},
        right=right,
        by_group=by_group(right, queries),
        loss=np.round(-logp, 5).tolist(),
        soft=float(np.exp(logp).mean()),
        ppl=float(np.exp(-logp.mean())),
        scores={"sum": _rounded(scores.asked)},
    )


def summarize_written(texts: Sequence[str], queries: Queries) -> Summary:
    """Return how right the answers are that a model wrote."""
    found: dict[str, list[int]] = {"exact": [], "contains": []}
    overlap = []
    for text, query in zip(texts, queries.asked, strict=True):
        answers = query.example.candidates
        found["exact"].append(int(exact(text, answers)))
        found["contains"].append(int(contains(text, answers)))
        overlap.append(round(f1(text, answers), 5))

    right = found[queries.task.headline]
    return Summary(
        accuracies={kind: float(np.mean(values)) for kind, values in found.items()},
        right=right,
        by_group=by_group(right, queries),
        f1=overlap,
        written=list(texts),
        examples=examples(queries, texts, right),
    )


def examples(
    queries: Queries, answers: Sequence[int | str], right: Sequence[int]
) -> list[dict[str, Any]]:
    """Return the first queries as text, with what the model answered.

    Args:
        answers: the number of the candidate that was chosen, or the text that was written.
        right: 1 or 0 for each query.
    """
    found = []
    for query, answer, is_right in zip(queries.asked[:EXAMPLES], answers, right, strict=False):
        example = query.example
        candidates = example.candidates
        found.append(
            {
                "query": example.number,
                "prompt": example.asks,
                "right": candidates[example.gold[0]],
                "answer": answer if isinstance(answer, str) else candidates[answer],
                "is_right": is_right,
            }
        )
    return found


def gold_of(queries: Queries) -> list[Gold]:
    """Return the numbers of the right candidates of each query."""
    return [query.example.gold for query in queries.asked]


def kinds_of(
    scores: list[np.ndarray], alone: list[np.ndarray], queries: Queries
) -> dict[str, list[np.ndarray]]:
    """Return the scores of a task, query by query, from the sums of nats.

    Characters are counted without the space before a candidate; bytes with it. Where the candidates
    are not what is scored, only the sum says something.
    """
    kinds: dict[str, list[np.ndarray]] = {"sum": scores}
    if queries.task.asking == "gap":
        return kinds

    for kind in ("per_token", "per_char", "per_byte"):
        kinds[kind] = []
    for values, query in zip(scores, queries.asked, strict=True):
        texts = query.example.candidates
        kinds["per_token"].append(values / _sizes(query.scored))
        kinds["per_char"].append(values / _sizes([text.lstrip() for text in texts]))
        kinds["per_byte"].append(values / _sizes([text.encode() for text in texts]))

    # What the query adds to a candidate: its pointwise mutual information with the query.
    kinds["pmi"] = [values - given for values, given in zip(scores, alone, strict=True)]
    return kinds


def accuracy(scores: list[np.ndarray], gold: Sequence[Gold]) -> float:
    """Return the share of queries whose best candidate is a right one."""
    return float(np.mean(right_of(scores, gold)))


def right_of(scores: list[np.ndarray], gold: Sequence[Gold]) -> list[int]:
    """Return 1 for each query whose best candidate, of ties the first, is a right one, else 0."""
    return [int(values.argmax() in right) for values, right in zip(scores, gold, strict=True)]


def majority(gold: Sequence[Gold]) -> float:
    """Return the accuracy of the best candidate number, if it is chosen for every query."""
    counts = Counter(number for right in gold for number in right)
    return max(counts.values()) / len(gold)


def by_group(right: list[int], queries: Queries) -> dict[str, float] | None:
    """Return the accuracy in each part of a task; None of a task without parts."""
    if queries.task.by is None:
        return None
    values = np.array(right)
    return {group: float(values[places].mean()) for group, places in queries.groups.items()}


def log_bias(calibration: np.ndarray, query: Query) -> np.ndarray:
    """Return the log of the candidates' mean share after prompts without content, (candidates,).

    Subtracting it is the contextual calibration of Zhao et al. ("Calibrate Before Use", 2021).

    Args:
        calibration: log-probabilities after each of these prompts, (prompts, candidates).
        query: any one; all have the same candidates here.
    """
    shares = [_softmax(values) for values in calibration / _sizes(query.scored)]
    return np.log(np.mean(shares, axis=0))


def _sizes(items: Sequence[Sized]) -> np.ndarray:
    return np.array([len(item) for item in items])


def _rounded(scores: list[np.ndarray]) -> list[list[float]]:
    return [np.round(values, 5).tolist() for values in scores]


def _softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max())  # the largest is 1, so that nothing overflows
    return weights / weights.sum()
