"""The results of an analysis query by query, for those who want to look at single examples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from momentum_gpt.analysis.protocols import FINETUNED, SEPARATOR
from momentum_gpt.analysis.summary import over_layers
from momentum_gpt.analysis.units import Measured
from momentum_gpt.evaluation.finding import ICL, ZERO_SHOT

ANSWERS = {ZERO_SHOT: "right_zero_shot", ICL: "right_icl", FINETUNED: "right_finetuned"}
"""Accuracies, and the columns that say of one query whether it is right."""


def records_of(
    draws: Sequence[Measured], task: str, way: str, variant: str = "", tokens: int | None = None
) -> Iterator[dict[str, Any]]:
    """Yield a record for each query of each draw: 1 where it is right, and each measure.

    A measure is the mean over layers and heads; None where it is not defined, or not taken.

    Args:
        draws: what was measured.
        task: its name.
        way: how it was finetuned.
        variant: the attention variant, or the model.
        tokens: what the checkpoint was trained on.
    """
    for number, draw in enumerate(draws):
        told = {"task": task, "variant": variant, "tokens": tokens, "finetuning": way}
        columns = {}
        for name, values in draw.measures.items():
            if SEPARATOR not in name:
                columns[ANSWERS.get(name, name)] = over_layers([values])[0].tolist()
        queries = draw.facts["queries"]
        for place, query in sorted(enumerate(queries), key=lambda numbered: numbered[1]):
            record = {**told, "draw": number, "query": query}
            for name, values in columns.items():
                record[name] = _entry(values, place, name in ANSWERS.values())
            yield record


def _entry(values: Sequence[float], place: int, is_answer: bool) -> float | int | None:
    """Return what a column has of a query; some measures are of the first queries alone."""
    if place >= len(values) or math.isnan(values[place]):
        return None
    return int(values[place]) if is_answer else values[place]
