"""The verdict of a comparison: one plain sentence, the same in the terminal, the report and W&B."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from momentum_gpt.comparison.by_seed import BySeed, variants
from momentum_gpt.comparison.paired import Comparison, PairedDifference
from momentum_gpt.comparison.runs import Run
from momentum_gpt.evaluation.statistics import LEVEL, MOST_PAIRS, holm, pairs_needed

METRIC = "val/loss"
"""What a verdict is about."""

NOISE_MODEL = "noise model"
"""Name of the test by the noise of other runs, see `noise_model.py`."""

FEWEST_EVALUATIONS = 3
"""With fewer evaluations in training, no curve tells when a loss was reached."""


def verdicts(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> list[str]:
    """Return a sentence on each variant's validation loss beside the first one's.

    The p-values are adjusted for the number of verdicts alone.

    Args:
        runs: all runs that are compared.
        comparisons: what was found, of losses and of everything else.
    """
    found = []
    for comparison in comparisons:
        for row in comparison.differences:
            if row.measure == METRIC and row.paired_by == "training seed":
                found.append((comparison, row))
    # What a noise model says of a variant takes the place of what its own pairs say.
    found = [one for one in found if _is_by_noise(one[1])] or found
    if not found:
        return [
            _of_models(comparison) for comparison in comparisons if _is_of_documents(comparison)
        ]

    adjusted = holm([next(iter(row.p_values.values())) for _, row in found])
    of_variant = variants(runs)
    sentences = []
    for (comparison, row), p_value in zip(found, adjusted, strict=True):
        first, other = of_variant[comparison.first], of_variant[comparison.other]
        sentences.append(_of_variants(comparison, row, p_value, first, other))
    return sentences


def _of_variants(
    comparison: Comparison, row: PairedDifference, p_value: float, first: BySeed, other: BySeed
) -> str:
    names = comparison.other, comparison.first
    seeds = f"{row.pairs} seed{'s' * (row.pairs > 1)}, {p_text(p_value)}"
    if comparison.basis:
        seeds += f" ({comparison.basis})"
    remarks = [f" {remark}" for remark in comparison.remarks if _is_by_noise(row)]
    digits = digits_of(row.difference)
    if p_value >= LEVEL:
        needed = _seeds_needed(row)
        would_do = f"{needed} seeds would do" if needed else "no number of seeds is in sight"
        if needed and needed <= row.pairs:  # for a test that is not looked at, or adjusted
            would_do = "a few more seeds may tell"
        return (
            f"Unresolved: {names[0]} against {names[1]} {row.difference:+.{digits}f} nats "
            f"{_interval(row.interval, digits, '+')}, {seeds}; {would_do}.{''.join(remarks)}"
        )

    is_better = row.difference < 0
    low, high = sorted(abs(end) for end in row.interval)
    sentence = (
        f"{names[0]} is {'better' if is_better else 'worse'} than {names[1]} by "
        f"{abs(row.difference):.{digits}f} nats {_interval((low, high), digits)}, {seeds}"
    )
    saved = tokens_saved(other, first) if is_better else tokens_saved(first, other)
    if saved is not None:
        whose = "" if is_better else f" by {names[1]}"
        sentence += f"; {saved:.0%} of the tokens saved{whose}"
    return _capital(sentence) + "." + "".join(remarks)


def _is_by_noise(row: PairedDifference) -> bool:
    return NOISE_MODEL in row.p_values


def _seeds_needed(row: PairedDifference) -> int | None:
    """Return how many seeds would find the difference four times out of five; None if unknown."""
    if next(iter(row.p_values)) != NOISE_MODEL:
        return pairs_needed(row.difference, row.detectable, row.pairs)
    # The spread is known: the detectable difference falls as the root of the number of seeds.
    if row.difference == 0 or not row.detectable > 0:
        return None
    needed = row.pairs * (row.detectable / row.difference) ** 2
    return math.ceil(needed) if needed <= MOST_PAIRS else None


def _of_models(comparison: Comparison) -> str:
    """Return a sentence on two models, which says nothing of other seeds."""
    row = comparison.differences[0]
    digits = digits_of(row.difference)
    names = comparison.other, comparison.first
    p_value = next(iter(row.p_values.values()))
    what = f"over {row.pairs} documents, {p_text(p_value)}"
    caution = "One run of each: what other seeds would give is not known."
    if p_value >= LEVEL or math.isnan(row.interval[0]):
        return (
            f"Unresolved: {names[0]} against {names[1]} {row.difference:+.{digits}f} {row.unit} "
            f"{_interval(row.interval, digits, '+')} {what}. {caution}"
        )
    low, high = sorted(abs(end) for end in row.interval)
    word = "better" if row.difference < 0 else "worse"
    return (
        f"The model {names[0]} is {word} on this text than {names[1]} by "
        f"{abs(row.difference):.{digits}f} {row.unit} {_interval((low, high), digits)} {what}. "
        f"{caution}"
    )


def _is_of_documents(comparison: Comparison) -> bool:
    return comparison.differences[0].paired_by == "document"


def tokens_saved(better: BySeed, other: BySeed) -> float | None:
    """Return the share of the tokens after which one variant has the other's final loss.

    It is 1 - t / T: at t tokens, the mean loss over the seeds that both have, linear between
    evaluations, is the other's at T, its last token. With a schedule that ends at T, the loss at t
    is that of a run that has not decayed yet: a run of t tokens would be better, and save more.

    Returns:
        None if there are too few evaluations that all runs have, or the loss is never reached.
    """
    seeds = sorted(better.keys() & other.keys())
    curves = [
        dict(zip(*run[seed].series(METRIC), strict=True))
        for run in (better, other)
        for seed in seeds
    ]
    tokens = sorted(set.intersection(*map(set, curves)))
    if len(tokens) < FEWEST_EVALUATIONS:
        return None

    losses = np.array([list(map(curve.__getitem__, tokens)) for curve in curves])
    of_better, of_other = losses[: len(seeds)].mean(0), losses[len(seeds) :].mean(0)
    reached = of_better <= of_other[-1]
    if not reached.any():
        return None
    after = int(reached.argmax())
    if after == 0:
        return 1 - tokens[0] / tokens[-1]
    at = np.interp(
        -of_other[-1], -of_better[[after - 1, after]], [tokens[after - 1], tokens[after]]
    )
    return float(1 - at / tokens[-1])


def digits_of(difference: float) -> int:
    """Return the digits after the decimal point that show a difference."""
    return 3 if abs(difference) >= 0.01 else 4


def p_text(p_value: float) -> str:
    """Return, for example, "p = 0.0012", with two digits that count."""
    return "p < 0.0001" if p_value < 0.0001 else f"p = {p_value:.2g}"


def _interval(bounds: tuple[float, float], digits: int, sign: str = "") -> str:
    low, high = bounds
    if math.isnan(low):
        return "[no interval]"
    return f"[{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
