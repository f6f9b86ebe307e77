"""From a number for each query and layer to a mean, how sure it is, and whether it beats its null.

What was drawn are queries and demonstrations, so that an interval is over both: see `over_queries`.
Layers and heads were not drawn: their mean is taken first. A number and its null are of the same
queries and the same demonstrations, and their difference is taken query by query.

With a single draw of the demonstrations, intervals are over queries alone. They say nothing of
other demonstrations then, which `Finding.draws` tells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy import special
from scipy.stats import fisher_exact
from torch import Tensor

from momentum_gpt.analysis.similarity import recall
from momentum_gpt.evaluation.finding import Finding
from momentum_gpt.evaluation.statistics import LEVEL, Estimate, Interval, over_queries

Draws = Sequence[Tensor]
"""A number for each (query, layer, ...), (Q, ...), of each draw of the demonstrations. The queries
are the same in all of them."""


def finding(values: Draws, null: Draws | None = None, partner: Tensor | None = None) -> Finding:
    """Return the mean of a measure beside its null.

    Args:
        values: over all layers and heads, (Q, ...).
        null: the same measure without likeness. It may have other layers and heads, such as those
            of another model.
        partner: of each query, (Q,), if the null is that of `nulls.mismatched`: two partners are
            one unit of the difference.
    """
    return _told([_compared(values, null, partner)])


def finding_over_tasks(
    values: Sequence[Draws], nulls: Sequence[Draws] | None, partners: Sequence[Tensor] | None = None
) -> Finding:
    """Return the mean over tasks, each of which counts the same, beside that of the nulls.

    Tasks were not drawn: the interval is over their queries and their draws.

    Args:
        values: of each task, as in `finding`. All tasks have as many draws.
        nulls, partners: of each task, too.
    """
    found = []
    for number, of_task in enumerate(values):
        null = None if nulls is None else nulls[number]
        partner = None if partners is None else partners[number]
        found.append(_compared(of_task, null, partner))
    return _told(found)


def recall_finding(zero_shot: Draws, icl: Draws, finetuned: Draws) -> Finding:
    """Return Rec2FTP in percent beside its base rate.

    Both are shares of other queries in each draw. Their interval is that of the mean of what each
    query and draw moves them by (the delta method); of a single draw, Wilson's, and that of Agresti
    and Caffo for the difference. The p-value is at least Fisher's exact one of the counts of all
    draws together, as the other one fails where a share is 0 or 1.

    Args:
        zero_shot: whether each query is right without demonstrations, (Q,) of bool in each draw.
        icl: with them.
        finetuned: without them, in the finetuned model.
    """
    was_right, finetuned_right = _stacked(zero_shot), _stacked(finetuned)  # (draws, Q) each
    right = np.where(_stacked(icl), 100.0, 0.0)
    share = np.where(~was_right & finetuned_right, right, np.nan)
    base = np.where(~was_right & ~finetuned_right, right, np.nan)

    counts = [recall(*of_draw) for of_draw in zip(zero_shot, icl, finetuned, strict=True)]
    table = np.array(
        [
            [sum(one.both for one in counts), sum(one.only_finetuned for one in counts)],
            [sum(one.only_icl for one in counts), sum(one.neither for one in counts)],
        ]
    )
    gap = _estimate(_moved(share) - _moved(base))
    # Where both shares are 0 or 1, the delta method sees no noise at all.
    exact = float(fisher_exact(table).pvalue)
    p_value = exact if gap.detectable == 0 else max(gap.p_value, exact)
    low, high = mean_of(share).interval
    if len(counts) == 1:
        low, high = counts[0].share_interval
        if table.sum(axis=1).all():  # else one of both shares is not defined
            gap = replace(gap, interval=_agresti_caffo(table))
    return Finding(
        value=mean_of(share).value,
        interval=in_percent((low, high)),
        null=mean_of(base).value,
        difference=gap.interval,
        p_value=p_value,
        draws=len(counts),
        queries=round(float(table[0].sum()) / len(counts)),
    )


def by_layer(values: Draws) -> list[Estimate]:
    """Return the mean of each layer, over heads, queries and draws; (Q, L, ...) in each draw."""
    found = []
    for layer in range(values[0].shape[1]):
        of_layer = [one[:, layer] for one in values]
        found.append(mean_of(over_layers(of_layer)))
    return found


def by_head(values: Draws) -> list[list[Estimate]]:
    """Return the mean of each layer and head, over queries and draws; (Q, L, H) in each draw."""
    of_heads = []
    for head in range(values[0].shape[2]):
        of_head = [one[:, :, head : head + 1] for one in values]
        of_heads.append(by_layer(of_head))
    return [list(of_layer) for of_layer in zip(*of_heads, strict=True)]


def in_percent(interval: Interval) -> Interval:
    """Return the part of an interval that lies within 0 and 100."""
    low, high = interval
    return float(np.maximum(low, 0)), float(np.minimum(high, 100))


def over_layers(values: Draws) -> np.ndarray:
    """Return the mean over layers and heads where a number is defined, (draws, Q).

    NaN where it is in none of them.
    """
    means = [of_draw.float().flatten(start_dim=1).nanmean(dim=1) for of_draw in map(_rows, values)]
    return np.stack([mean.cpu().numpy() for mean in means]).astype(float)


def mean_of(values: np.ndarray) -> Estimate:
    """Return the estimate of the mean where values (draws, queries) are defined, not NaN.

    How many are defined is drawn with the queries, so that the mean is a ratio; its interval takes
    that into account by the delta method. If all are, the result is that of `over_queries`.
    """
    return _estimate(_moved(values))


class _Compared(NamedTuple):
    """A measure of one task and its null: means over layers and heads, (draws, Q) each."""

    values: np.ndarray
    null: np.ndarray
    gaps: np.ndarray
    """values - null; (draws, pairs) where two partners are a unit."""


def _compared(values: Draws, null: Draws | None, partner: Tensor | None) -> _Compared:
    of_values = over_layers(values)
    of_null = np.full_like(of_values, math.nan) if null is None else over_layers(null)
    gaps = of_values - of_null
    return _Compared(of_values, of_null, gaps if partner is None else _of_partners(gaps, partner))


def _told(tasks: Sequence[_Compared]) -> Finding:
    """Return the finding on some tasks together, or on a single one."""
    estimate = _mean_over([task.values for task in tasks])
    gap = _mean_over([task.gaps for task in tasks])
    draws = len(tasks[0].values)
    defined = sum(float((~np.isnan(task.values)).sum()) for task in tasks)
    return Finding(
        value=estimate.value,
        interval=estimate.interval,
        null=_mean_over([task.null for task in tasks]).value,
        difference=gap.interval,
        p_value=gap.p_value,
        draws=draws,
        queries=round(defined / draws),
    )


def _mean_over(tasks: Sequence[np.ndarray]) -> Estimate:
    """Return the estimate of the mean over tasks of the means where each is defined.

    Deviations from the mean of a task are weighted so that all tasks count the same. Each task has
    demonstrations of its own, so that the order of its draws does not matter.

    Args:
        tasks: (draws, Q) of each task.
    """
    moved = [_moved(values) for values in tasks]
    n_columns = sum(values.shape[1] for values in moved)
    means = [values.mean() for values in moved]
    columns = []
    for values, mean in zip(moved, means, strict=True):
        weight = n_columns / (len(tasks) * values.shape[1])
        columns.append(np.mean(means) + weight * (values - mean))
    return _estimate(np.concatenate(columns, axis=1))


def _of_partners(values: np.ndarray, partner: Tensor) -> np.ndarray:
    """Return the mean of each two partners, (draws, pairs), from values (draws, Q)."""
    other = partner.cpu().numpy()
    first = np.flatnonzero(np.arange(len(other)) < other)
    return (values[:, first] + values[:, other[first]]) / 2


def _stacked(draws: Draws) -> np.ndarray:
    """Return the draws as one array, (draws, ...)."""
    return np.stack([of_draw.cpu().numpy() for of_draw in draws])


def _rows(values: Tensor) -> Tensor:
    """Return a number for each query as a row of one entry."""
    return values[:, None] if values.dim() == 1 else values


def _moved(values: np.ndarray) -> np.ndarray:
    """Return the mean of what is defined, plus what each value moves it by, (draws, queries).

    The mean of the result is the mean of what is defined; NaN where nothing is.
    """
    is_defined = ~np.isnan(values)
    if not is_defined.any():
        return np.full(values.shape, math.nan)
    mean = values[is_defined].mean()
    return mean + np.where(is_defined, values - mean, 0.0) / is_defined.mean()


def _agresti_caffo(table: np.ndarray) -> Interval:
    """Return a 95% interval of the difference of two shares, in percent, of any counts.

    Args:
        table: successes and failures of either side, a row each.
    """
    successes, failures = (table + 1).T.astype(float)
    trials = successes + failures
    shares = successes / trials
    error = math.sqrt((shares * (1 - shares) / trials).sum())
    half = float(special.ndtri(1 - LEVEL / 2)) * error
    gap = float(shares[0] - shares[1])
    return 100 * (gap - half), 100 * (gap + half)


def _estimate(moved: np.ndarray) -> Estimate:
    if np.isnan(moved).any():
        return Estimate(math.nan, (math.nan, math.nan), math.nan, math.nan)
    if (moved == moved[:1]).all():
        moved = moved[:1]  # without demonstrations: their draws say nothing of its spread
    return over_queries(moved)
