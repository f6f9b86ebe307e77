"""What `analyze` has left in runs, read: `evaluations/analysis.jsonl`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import numbered_json_lines
from momentum_gpt.evaluation.finding import DISTANCES, Finding

Setting = tuple[tuple[str, str], ...]
"""What must be the same side by side, as pairs of name and value: the task, the options of
`analyze`, the hash of the data, the tokens that the checkpoint was trained on."""

Key = tuple[str, str, str]
"""Measure, its unit, null."""

Analysis = dict[Setting, dict[Key, Finding]]
"""What was found of one checkpoint."""


def read_analyses(path: Path) -> dict[int, Analysis]:
    """Return what was found of each checkpoint, by the tokens trained on, the first one first.

    Raises:
        UserError: a line of the file lacks an entry.
    """
    found: dict[int, Analysis] = defaultdict(lambda: defaultdict(dict))
    for number, line in numbered_json_lines(path):
        try:
            key = line["measure"], line["unit"], line["null"]
            found[line["tokens"]][_setting(line)][key] = _finding(line)
        except KeyError as error:
            raise UserError(
                f"line {number} of {path} is not a record of this version (it has no {error}): "
                "delete the file and analyse the run again"
            ) from None
    return dict(sorted(found.items()))


def telling(setting: Setting, among: Iterable[Setting]) -> list[str]:
    """Return what tells a setting from others, such as ["k=16"]."""
    others = list(among)
    return ["=".join(pair) for pair in setting if not all(pair in other for other in others)]


def _setting(line: Mapping[str, Any]) -> Setting:
    facts = {"task": line["task"], **line["method"]}
    facts |= {"data": line["data_sha256"][:8], "tokens": f"{line['tokens']:,}"}
    return tuple((name, "null" if value is None else str(value)) for name, value in facts.items())


def _finding(line: Mapping[str, Any]) -> Finding:
    names = ("value", "low", "high", "null_value", "difference_low", "difference_high", "p_value")
    numbers = [math.nan if line[name] is None else line[name] for name in names]
    value, low, high, null, gap_low, gap_high, p_value = numbers
    counts = line["draws"], line["queries"]
    is_distance = line["measure"] in DISTANCES
    return Finding(value, (low, high), null, (gap_low, gap_high), p_value, *counts, is_distance)
