"""What is said of a task that cannot be asked as it should be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping


def notes_on(
    task: str,
    demonstrations: Iterable[tuple[int, int]],
    left_out: int,
    rows_left_out: Mapping[str, int],
) -> list[str]:
    """Return a sentence on each thing that is less than what was asked for.

    Args:
        task: name of the task.
        demonstrations: pairs of the number that is shown, and the number that was asked for.
        left_out: queries that do not fit the context.
        rows_left_out: rows that are neither asked nor shown, by split and reason.
    """
    fewer: dict[int, list[int]] = defaultdict(list)
    for k, k_asked in sorted(set(demonstrations)):
        if k < k_asked:
            fewer[k].append(k_asked)

    notes = []
    for k, numbers in fewer.items():
        asked = " and ".join(map(str, numbers))
        notes.append(f"{task}: k={asked} became {k}: no more demonstrations fit, or exist")
    if left_out:
        notes.append(f"{task}: queries left out that do not fit the context: {left_out:,}")
    for reason, n in rows_left_out.items():
        notes.append(f"{task}: rows left out, {reason}: {n:,}")
    return notes
