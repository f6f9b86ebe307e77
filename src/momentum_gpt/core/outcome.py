"""How a run ended: `outcome.json`, which its main rank writes and whoever started it reads."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from momentum_gpt.core.files import read_json, write_json

NAME = "outcome.json"


@dataclass(frozen=True)
class Outcome:
    """The end of a run, or of one attempt at it."""

    exit_code: int
    """0 complete, 1 failed, 2 a mistake of the user's, 75 stopped on request, 130 Ctrl-C."""
    step: int | None
    """Optimizer steps done; None where the run ended before its first step or in an error."""
    message: str
    """The last word on it, in one line."""
    time: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S%z"))
    """When it was written, local time."""


def forget(run_dir: Path) -> None:
    """Remove the outcome of an earlier attempt."""
    (run_dir / NAME).unlink(missing_ok=True)


def write(run_dir: Path, outcome: Outcome) -> None:
    """Write the outcome into the run's folder, whole or not at all."""
    write_json(run_dir / NAME, asdict(outcome))


def read(run_dir: Path) -> Outcome | None:
    """Return the outcome; None if there is none, because the main rank was killed."""
    try:
        found = Outcome(**read_json(run_dir / NAME))
    except (OSError, ValueError, TypeError):
        return None
    return found if isinstance(found.exit_code, int) else None
