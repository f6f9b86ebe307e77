"""Few-shot tasks of two runs side by side: the same queries and demonstrations, pair by pair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from momentum_gpt.comparison.table import Grid, interval
from momentum_gpt.core.files import read_json_lines
from momentum_gpt.evaluation.statistics import bootstrap, holm, mcnemar, smallest_detectable

Key = tuple[str, int]
"""Task and number of demonstrations."""


@dataclass(frozen=True)
class Difference:
    """Of a run to the first, on a task with k demonstrations; accuracies, and nats of the right candidate's share."""

    task: str
    k: int
    seeds: int
    queries: int
    first: float
    other: float
    interval: tuple[float, float]
    """Of other - first, 95%: a bootstrap over queries and seeds."""
    p_value: float
    """McNemar's, exact, of the first seed: that none of both is right more often."""
    p_holm: float
    """The same, adjusted for the number of tasks and ks."""
    detectable: float
    """The true difference that so many pairs find four times of five."""


def load_records(folder: str) -> dict[Key, dict[int, dict[str, Any]]]:
    """The newest checkpoint's records by (task, k), then seed; of records made twice the last. {} if there are none."""
    lines = read_json_lines(Path(folder) / "evaluations" / "icl.jsonl")
    newest = max((line["step"] for line in lines), default=0)
    found: dict[Key, dict[int, dict[str, Any]]] = {}
    for line in lines:
        if line["step"] == newest:
            found.setdefault((line["task"], line["k"]), {})[line["seed"]] = line
    return found


def differences(first: str, other: str) -> list[Difference]:
    """What both runs were asked, in the same way: equal numbers of queries, and the seeds that both have."""
    a, b = load_records(first), load_records(other)
    found, p_values = [], []
    for key in [key for key in a if key in b]:
        seeds = [
            seed for seed in a[key] if seed in b[key] and a[key][seed]["n"] == b[key][seed]["n"]
        ]
        if not seeds:
            continue
        rights = [
            np.array([its[key][seed]["right"] for seed in seeds], dtype=float) for its in (a, b)
        ]  # (seeds, queries)
        found.append((key, len(seeds), rights))
        p_values.append(mcnemar(rights[0][0], rights[1][0]))
    adjusted = holm(p_values)
    return [
        Difference(
            *key,
            n_seeds,
            rights[0].shape[1],
            float(rights[0].mean()),
            float(rights[1].mean()),
            bootstrap(rights[1] - rights[0]),
            p_value,
            p_holm,
            smallest_detectable((rights[1] - rights[0]).mean(axis=0)),
        )
        for (key, n_seeds, rights), p_value, p_holm in zip(found, p_values, adjusted, strict=True)
    ]


def grid(first: str, other: str, rows: list[Difference]) -> Grid:
    """A difference is marked if its interval leaves out 0 and its adjusted p-value is below 0.05."""
    head = [
        "task",
        "k",
        "seeds",
        "queries",
        first,
        other,
        "difference",
        "95% interval",
        "McNemar p",
        "Holm",
        "detectable",
        "",
    ]
    cells = []
    for row in rows:
        low, high = row.interval
        real = (low > 0 or high < 0) and row.p_holm < 0.05
        numbers = [
            f"{row.first:.3f}",
            f"{row.other:.3f}",
            f"{row.other - row.first:+.3f}",
            interval(row.interval, 3),
        ]
        tests = [
            f"{row.p_value:.3f}",
            f"{row.p_holm:.3f}",
            f"{row.detectable:.3f}" if row.detectable else "-",
        ]
        cells.append(
            [
                row.task,
                str(row.k),
                str(row.seeds),
                str(row.queries),
                *numbers,
                *tests,
                "*" if real else "",
            ]
        )
    return Grid(f"Few-shot accuracy of {other} against {first}, paired by query", head, cells)
