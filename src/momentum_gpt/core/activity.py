"""What this process is doing: told by its main thread, read by the thread that watches over it."""

from __future__ import annotations

_latest = (0, "starting")


def pulse(doing: str | None = None) -> None:
    """Say that the main thread makes progress. It costs less than a microsecond.

    Args:
        doing: what begins now, such as "step 12: evaluation". None: more of the same.
    """
    global _latest
    count, before = _latest
    _latest = (count + 1, doing or before)


def latest() -> tuple[int, str]:
    """Return how often `pulse` was called, and what was begun last."""
    return _latest
