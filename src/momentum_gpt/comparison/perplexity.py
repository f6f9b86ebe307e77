"""The losses of two runs held against each other document by document: how sure is the difference of these two models?

The units are pieces: documents, or as many tokens of a longer one as the model's context has.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from momentum_gpt.comparison.table import Grid, interval
from momentum_gpt.core.files import read_json_lines
from momentum_gpt.evaluation.statistics import bootstrap_ratio, in_blocks, smallest_detectable_ratio

Key = tuple[str | None, int, int | None, str]
"""The text (None: the run's own), context length, stride, document policy."""


@dataclass(frozen=True)
class Difference:
    """Of a run to the first, nats per token."""

    text: str | None
    context_length: int
    stride: int | None
    pieces: int
    """Of documents; or blocks of them, where they are very many."""
    targets: int
    first: float
    other: float
    interval: tuple[float, float]
    """Of other - first, 95%: a bootstrap over pieces."""
    detectable: float
    """The true difference that so many pieces find four times of five."""


def load_records(folder: str) -> dict[Key, dict[str, Any]]:
    """The records of the newest step by what was measured; of records made twice the last. {} if there are none."""
    lines = read_json_lines(Path(folder) / "evaluations" / "perplexity.jsonl")
    newest = max((line["step"] for line in lines), default=0)
    keys = ("context_length", "stride", "documents")
    return {
        (line.get("data"), *(line[key] for key in keys)): line
        for line in lines
        if line["step"] == newest
    }


def differences(first: str, other: str) -> list[Difference]:
    """Where both runs scored the same targets in the same way."""
    a, b = load_records(first), load_records(other)
    same = [key for key in a if key in b and a[key]["text_sha256"] == b[key]["text_sha256"]]
    return [difference(key, a[key], b[key]) for key in same]


def difference(key: Key, first: dict[str, Any], other: dict[str, Any]) -> Difference:
    text, context_length, stride, _ = key
    sums, sizes = in_blocks(
        np.array(other["nats"]) - np.array(first["nats"]), np.array(first["n_targets"])
    )
    return Difference(
        text,
        context_length,
        stride,
        len(sums),
        first["targets"],
        first["loss"],
        other["loss"],
        bootstrap_ratio(sums, sizes),
        smallest_detectable_ratio(sums, sizes),
    )


def grid(first: str, other: str, rows: list[Difference]) -> Grid:
    """A difference is marked if its interval leaves out 0."""
    head = [
        "text",
        "context",
        "stride",
        "pieces",
        "targets",
        first,
        other,
        "difference",
        "95% interval",
        "detectable",
        "",
    ]
    cells = []
    for row in rows:
        low, high = row.interval
        about = [row.text or "validation", str(row.context_length), str(row.stride or "-")]
        numbers = [
            f"{row.first:.4f}",
            f"{row.other:.4f}",
            f"{row.other - row.first:+.4f}",
            interval(row.interval, 4),
        ]
        counts = [f"{row.pieces:,}", f"{row.targets:,}"]
        cells.append(
            [*about, *counts, *numbers, f"{row.detectable:.4f}", "*" if low > 0 or high < 0 else ""]
        )
    return Grid(f"Loss of {other} against {first}, nats per token, paired by document", head, cells)
