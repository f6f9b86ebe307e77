"""What people see in a terminal: tables and progress bars. The only file that imports rich.

Both adapt to where they are shown: outside a terminal there are no colours and no bars.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

Advance = Callable[[float], None]
"""Called with the amount of work done since the last call."""


def ignore_progress(amount: float) -> None:
    """Stand in for an `Advance` where nobody watches."""


@contextmanager
def progress_bar(title: str, total: float | None, in_bytes: bool = False) -> Iterator[Advance]:
    """Show a bar on stderr while the block runs, and yield the function that advances it.

    Args:
        title: what is being done.
        total: amount of work, in the unit of the calls; None if it is not known.
        in_bytes: the unit is bytes, shown as MB or GB.
    """
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn() if in_bytes else MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    # The stream of this moment: sys.stderr may be redirected later, while the bar is shown.
    console = Console(file=sys.stderr)
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        # What is printed goes above the bar, unless stdout is a file.
        redirect_stdout=sys.stdout.isatty(),
    ) as bars:
        task = bars.add_task(title, total=total)
        yield lambda amount: bars.advance(task, amount)


def table_text(
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    units: Sequence[str] | None = None,
) -> str:
    """Return a table as plain text: the first column to the left, the others to the right.

    Args:
        title: the line above; "" for none.
        head: the names of the columns.
        rows: the cells, one text for each column.
        units: a second line of the head.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    names = (
        head
        if units is None
        else [f"{name}\n{unit}" for name, unit in zip(head, units, strict=True)]
    )
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)

    # As wide as the table needs: a narrow terminal wraps lines, and a file keeps every digit.
    text = io.StringIO()
    console = Console(file=text, width=1000, markup=False, emoji=False, highlight=False)
    console.print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join([title, *lines] if title else lines)


class StepBar:
    """A bar on stderr that advances step by step, with a text that changes beside it.

    Args:
        title: what is being done.
        start: steps done before.
        total: all steps.
        is_shown: False for the ranks that print nothing.
    """

    def __init__(self, title: str, start: int, total: int, is_shown: bool) -> None:
        console = Console(file=sys.stderr)
        self.is_drawn = is_shown and console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self.is_drawn,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._bars.add_task(title, total=total, completed=start, text="")
        self._bars.start()

    def advance(self) -> None:
        """Advance by one step."""
        self._bars.advance(self._task)

    def describe(self, text: str) -> None:
        """Show a text beside the bar."""
        self._bars.update(self._task, text=text)

    def print(self, text: str) -> None:
        """Print a line that stays: above the bar, or on stdout if no bar is drawn."""
        if self.is_drawn:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """Stop drawing."""
        self._bars.stop()
