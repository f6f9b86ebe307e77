"""How often a null is told from what it is the null of: `python -m tests.analysis.coverage`.

Each study draws queries and demonstrations of a model in which ICL and finetuning have nothing to
do with each other, query by query, and measures it as `momentum_gpt.analysis` does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from momentum_gpt.analysis.nulls import gaussian, mismatched, partners, uniform
from momentum_gpt.analysis.similarity import Pair, correlation, cosine, kendall
from momentum_gpt.analysis.summary import finding, recall_finding
from momentum_gpt.evaluation.finding import Finding

L, H, C, M = 2, 2, 16, 12
"""Layers, heads, entries of a vector, tokens of the demonstrations."""

Study = Callable[[np.random.Generator, int, int], Finding]
"""(generator, draws, queries) -> what one study finds."""


class Coverage(NamedTuple):
    held: float
    """Share of the intervals of the difference to the null that hold 0."""
    told: float
    """Share of the verdicts that tell the number from its null."""
    mean: float
    """Mean difference to the null in its own standard errors: 0 but for 1 / sqrt(studies)."""


def side(
    generator: np.random.Generator, shape: tuple[int, ...], of_task: np.ndarray
) -> list[Tensor]:
    """Return what one side does to each query, (Q, *shape) for each entry of `of_task`.

    It is a part that all queries share, which depends on the draw, one of the query, which all
    draws share, and a rest.
    """
    of_query = generator.normal(size=shape)
    found = []
    for template in of_task:
        rest = generator.normal(size=shape)
        found.append(torch.from_numpy(template + of_query + rest).float())
    return found


def pairs(
    generator: np.random.Generator, draws: int, shape: tuple[int, ...], common: float
) -> list[Pair]:
    """Return pairs whose sides have in common what is the same for all queries, and no more."""
    templates = common * generator.normal(size=(draws, 1, *shape[1:]))
    templates += common * generator.normal(size=(1, 1, *shape[1:]))
    icl, finetuned = (side(generator, shape, templates) for _ in range(2))
    return [Pair(*both) for both in zip(icl, finetuned, strict=True)]


def study(
    compare: Callable[[Pair], Tensor],
    null: Callable[[Pair, int], Pair],
    shape: tuple[int, ...],
    common: float,
) -> Study:
    def found(generator: np.random.Generator, draws: int, queries: int) -> Finding:
        drawn = pairs(generator, draws, (queries, *shape), common)
        values = [compare(pair) for pair in drawn]
        if null is mismatched:
            nulls = [compare(mismatched(pair, seed=1)) for pair in drawn]
            return finding(values, nulls, partners(queries, seed=1))
        seeds = generator.integers(2**31, size=draws).tolist()
        nulls = [compare(null(pair, seed)) for pair, seed in zip(drawn, seeds, strict=True)]
        return finding(values, nulls)

    return found


def answers(generator: np.random.Generator, draws: int, queries: int) -> Finding:
    """Return Rec2FTP where ICL answers right whatever finetuning does."""
    ease = generator.normal(size=queries)

    def right(share: float, own: float) -> list[Tensor]:
        of_query = own * ease + generator.normal(size=queries)
        of_draw = 0.3 * generator.normal(size=(draws, 1))
        noise = of_query + of_draw + 0.5 * generator.normal(size=(draws, queries))
        return [torch.from_numpy(row > np.quantile(noise, 1 - share)) for row in noise]

    zero_shot = right(0.5, 1.0)[:1] * draws
    return recall_finding(zero_shot, right(0.7, 0.0), right(0.6, 1.0))


STUDIES: dict[str, Study] = {
    "SimAOU, mismatched queries": study(cosine, mismatched, (L, C), 1.0),
    "SimAOU, Gaussian": study(cosine, gaussian, (L, C), 0.0),
    "SimAOU, uniform": study(cosine, uniform, (L, C), 0.0),
    "SimAM, mismatched queries": study(correlation, mismatched, (L, H, C), 1.0),
    "Kendall, mismatched queries": study(kendall, mismatched, (L, M), 1.0),
    "Rec2FTP, base rate": answers,
}


def coverage(of: Study, draws: int, queries: int, studies: int) -> Coverage:
    """Return how often `of` finds nothing where there is nothing."""
    held, told, gaps = [], [], []
    for number in range(studies):
        found = of(np.random.default_rng([20261126, draws, queries, number]), draws, queries)
        low, high = found.difference
        held.append(low <= 0 <= high)
        told.append(found.verdict != "not above its null")
        gaps.append((low + high) / 2)
    return Coverage(
        float(np.mean(held)), float(np.mean(told)), float(np.mean(gaps) / np.std(gaps, ddof=1))
    )


def main() -> None:
    """Print a table of all studies."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--only", default="", help="what the name of a measure begins with")
    options = parser.parse_args()
    print("| measure, null | draws | queries | intervals that hold 0 | told apart | mean |")
    print("| --- | --- | --- | --- | --- | --- |")
    chosen = {name: of for name, of in STUDIES.items() if name.startswith(options.only)}
    for name, of in chosen.items():
        for draws, queries in ((1, 40), (3, 40), (5, 100)):
            found = coverage(of, draws, queries, options.studies)
            print(
                f"| {name} | {draws} | {queries} | {found.held:.1%} | {found.told:.1%} "
                f"| {found.mean:+.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
