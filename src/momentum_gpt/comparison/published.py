"""Published results beside those of our runs, in one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from momentum_gpt.comparison.by_seed import variants
from momentum_gpt.comparison.runs import Run
from momentum_gpt.comparison.table import Table

READINGS = 10
"""Last readings of the training loss whose mean stands for it."""

Values = dict[str, tuple[float, float]]
"""Measure -> what was published of vanilla attention and of momentum attention."""


@dataclass(frozen=True)
class Published:
    """What a paper reports."""

    source: str
    perplexity: Values
    """By what it was measured on, with the context as a share of the longest: see `MEASURES`."""
    accuracy: Values
    """In percent, by few-shot task."""


MEASURES = {"training": None, "1/4 context": 4, "1/2 context": 2, "whole context": 1}
"""Perplexities: on the training tokens, and on validation text by the divisor of the context."""

PUBLISHED = {
    # Tables 6 and 7. Validation at 256, 512 and 1,024 tokens; up to 32 demonstrations.
    "dai2023": Published(
        "Dai et al. (arXiv 2212.10559), tables 6 and 7",
        perplexity={
            "training": (17.61, 17.55),
            "1/4 context": (19.50, 19.37),
            "1/2 context": (16.87, 16.73),
            "whole context": (15.14, 15.02),
        },
        accuracy={
            "sst5": (25.3, 27.4),
            "imdb": (64.0, 70.3),
            "mr": (61.2, 64.8),
            "cb": (43.9, 46.8),
            "arc_easy": (48.2, 50.0),
            "piqa": (68.7, 69.0),
        },
    )
}


def beside_published(runs: Sequence[Run], name: str) -> Table:
    """Return published results beside the means over the seeds of each of our variants.

    Our context is as long as the models': a quarter of it is not 256 tokens in every model. A row
    that our runs have nothing of is left out, and its average with it.
    """
    published = PUBLISHED[name]
    of_variant = {key: list(by_seed.values()) for key, by_seed in variants(runs).items()}
    rows = []
    losses = []  # nats per token at the whole context
    for measure, pair in published.perplexity.items():
        ours = _means(of_variant, _perplexity, measure)
        rows.append([f"perplexity, {measure}", *_cells([*pair, *ours], 2)])
        losses = [math.log(value) for value in (*pair, *ours)]

    first, other, *mine = losses
    gains = [first - other, *(mine[0] - loss for loss in mine[1:])]
    cells = _cells(gains, 4, sign="+")
    rows.append(["  gain in nats", "", cells[0], "", *cells[1:]])

    tasks = {}
    for task, pair in published.accuracy.items():
        ours = _means(of_variant, _accuracy, task)
        if not any(map(math.isnan, ours)):
            tasks[task] = [*pair, *ours]
            rows.append([f"{task}, accuracy in %", *_cells(tasks[task], 1)])
    if tasks and len(tasks) == len(published.accuracy):
        means = [fmean(values) for values in zip(*tasks.values(), strict=True)]
        rows.append(["mean of the tasks", *_cells(means, 1)])

    head = ["", "paper: vanilla", "momentum", *(_named(key, of_variant) for key in of_variant)]
    return Table(f"Beside {published.source}; means over seeds", head, rows)


def _means(
    of_variant: Mapping[str, Sequence[Run]], value: Callable[[Run, str], float], name: str
) -> list[float]:
    """Return the mean of what `value(run, name)` is over the runs of each variant."""
    found = []
    for group in of_variant.values():
        found.append(fmean(value(run, name) for run in group))
    return found


def _perplexity(run: Run, measure: str) -> float:
    """Return a perplexity per token; nan if it was not measured."""
    divisor = MEASURES[measure]
    if divisor is None:
        _, losses = run.series("train/loss")
        return math.exp(fmean(losses[-READINGS:])) if losses else math.nan
    length = run.config.model.seq_len // divisor
    return run.by_number("val/ppl@").get(length, math.nan)


def _accuracy(run: Run, task: str) -> float:
    """Return the accuracy with the most demonstrations, in percent; nan if it was not measured."""
    by_k = run.by_number(f"icl/{task}/acc@")
    return 100 * by_k[max(by_k)] if by_k else math.nan


def _cells(values: Sequence[float], digits: int, sign: str = "") -> list[str]:
    return ["-" if math.isnan(value) else f"{value:{sign}.{digits}f}" for value in values]


def _named(variant: str, of_variant: dict[str, list[Run]]) -> str:
    n_seeds = len(of_variant[variant])
    return f"{variant} ({n_seeds} {'seed' if n_seeds == 1 else 'seeds'})"
