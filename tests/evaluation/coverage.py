"""How often intervals hold the true value: `python -m tests.evaluation.coverage` prints a table.

Each function draws what a comparison of two equal models would see: differences whose true mean is
0, with the dependence that real ones have.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from scipy.stats import kstest

from momentum_gpt.evaluation.statistics import Estimate, over_documents, over_queries, over_seeds

COMPARISONS = 1000

PIECE = 256
"""Targets of a piece."""


def documents(
    generator: np.random.Generator, n_documents: int, icc: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Return sums and sizes of documents, (documents,) each, of 1 to hundreds of pieces.

    The means of a document's pieces have the intra-class correlation `icc`.
    """
    n_pieces = np.ceil(generator.lognormal(1.0, 1.2, n_documents)).astype(int)
    document = np.repeat(np.arange(n_documents), n_pieces)
    shared = np.sqrt(icc) * generator.standard_normal(n_documents)[document]
    own = np.sqrt(1 - icc) * generator.standard_normal(len(document))
    return PIECE * np.bincount(document, shared + own), PIECE * n_pieces.astype(float)


def few_shot(
    generator: np.random.Generator, n_draws: int, n_queries: int, of_draws: float = 0.3
) -> np.ndarray:
    """Return differences of two models' right answers, (draws, queries): -1, 0 or 1.

    A query is easy or hard for both models and for each of them; demonstrations help each model
    more or less, by `of_draws`.
    """
    difficulty = generator.standard_normal(n_queries)

    def answers() -> np.ndarray:
        of_query = difficulty + 0.5 * generator.standard_normal(n_queries)
        of_draw = of_draws * generator.standard_normal((n_draws, 1))
        rest = 0.5 * generator.standard_normal((n_draws, n_queries))
        return (of_query + of_draw + rest > 0).astype(float)

    return answers() - answers()


def seeds(generator: np.random.Generator, n_seeds: int) -> np.ndarray:
    """Return differences of two variants' losses, (seeds,), nats."""
    return 0.005 * generator.standard_normal(n_seeds)


Simulated = Callable[[np.random.Generator], Estimate]
"""What one comparison of two equal models estimates."""


def of_documents(n: int, icc: float) -> Simulated:
    return lambda generator: over_documents(*documents(generator, n, icc))


def of_queries(n_draws: int, n_queries: int, of_draws: float) -> Simulated:
    return lambda generator: over_queries(few_shot(generator, n_draws, n_queries, of_draws))


def of_seeds(n: int) -> Simulated:
    return lambda generator: over_seeds(seeds(generator, n))


def simulate(title: str, simulated: Simulated) -> None:
    """Print a row: how often the interval holds 0, how often p is small, whether it is uniform."""
    held = []
    p_values = []
    for comparison in range(COMPARISONS):
        found = simulated(np.random.default_rng([20261125, comparison]))
        low, high = found.interval
        held.append(low <= 0 <= high)
        p_values.append(found.p_value)

    shares = [f"{np.mean(np.array(p_values) < level):.1%}" for level in (0.01, 0.05, 0.1)]
    uniform = kstest(p_values, "uniform").pvalue
    print(f"| {title} | {np.mean(held):.1%} | {' | '.join(shares)} | {uniform:.2f} |", flush=True)


def main() -> None:
    """Print a table of all kinds of comparisons."""
    print("| drawn | intervals that hold 0 | p < 0.01 | p < 0.05 | p < 0.1 | Kolmogorov-Smirnov |")
    print("| --- | --- | --- | --- | --- | --- |")
    for icc, n in product((0.5, 0.0, 1.0), (10, 30, 100, 1000)):
        simulate(f"{n} documents, ICC {icc}", of_documents(n, icc))
    for n in (100, 1000):
        simulate(f"{n} queries, 1 draw", of_queries(1, n, 0.0))
    for n_draws, n, spread in product((2, 3, 5, 10), (100, 1000), (0.0, 0.1, 0.3)):
        title = f"{n} queries, {n_draws} draws, spread of draws {spread}"
        simulate(title, of_queries(n_draws, n, spread))
    for n in range(2, 11):
        simulate(f"{n} seeds", of_seeds(n))


if __name__ == "__main__":
    main()
