"""What the user is told while a run goes on."""

from __future__ import annotations

import sys


def warn(text: str) -> None:
    """Show a warning: on stderr, above the progress bar if there is one."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """Return the first line of an error's text."""
    return next(iter(str(error).splitlines()), type(error).__name__)
