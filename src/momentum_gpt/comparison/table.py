"""The numbers of a comparison: one row a run, one column a measure, for the terminal and the report."""

from __future__ import annotations

from dataclasses import dataclass

from momentum_gpt.comparison.runs import Run

NOTE = (
    "detectable: the true difference that as many pairs find four times of five. *: the interval leaves out 0, and of few-shot "
    "tasks Holm's p is below 0.05, too."
)


@dataclass(frozen=True)
class Grid:
    """A table of text, for the terminal and the report."""

    title: str
    head: list[str]
    rows: list[list[str]]

    def __str__(self) -> str:
        return f"{self.title}:\n{aligned([self.head, *self.rows], ruled_below=1)}"


def aligned(lines: list[list[str]], ruled_below: int) -> str:
    """The first column to the left, the others to the right; a rule below so many lines."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = []
    for name, *cells in lines:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        texts.append("  ".join([name.ljust(widths[0]), *padded]))
    return "\n".join([*texts[:ruled_below], "-" * len(texts[0]), *texts[ruled_below:]])


def interval(bounds: tuple[float, float], digits: int) -> str:
    """e.g. [-0.012, +0.003]; "-" where there is none."""
    return f"[{bounds[0]:+.{digits}f}, {bounds[1]:+.{digits}f}]" if bounds[0] == bounds[0] else "-"


@dataclass(frozen=True)
class Column:
    title: str
    unit: str
    values: list[float]
    """One a run."""
    digits: int

    def cell(self, row: int) -> str:
        return f"{self.values[row]:,.{self.digits}f}"

    def difference(self, row: int) -> str:
        """To the first run, with its sign."""
        return f"{self.values[row] - self.values[0]:+,.{self.digits}f}"


def columns(runs: list[Run]) -> list[Column]:
    """What all the runs have, from their last evaluation."""
    lengths = [
        length
        for length in runs[0].by_number("val/ppl@")
        if all(length in run.by_number("val/ppl@") for run in runs)
    ]
    table = [Column("val loss", "nats/token", [run.final["val/loss"] for run in runs], 4)]
    for length in sorted(lengths):
        table.append(
            Column(
                f"ppl@{length}", "per token", [run.by_number("val/ppl@")[length] for run in runs], 3
            )
        )
    for key, title, unit, digits in (
        ("icl/score", "ICL score", "nats", 3),
        ("icl/induction/acc", "induction", "accuracy", 4),
        ("icl/induction/loss", "induction", "nats/token", 3),
    ):
        if all(key in run.final for run in runs):
            table.append(Column(title, unit, [run.final[key] for run in runs], digits))
    table.append(Column("tokens", "trained on", [float(run.final["tokens"]) for run in runs], 0))
    table.append(Column("tokens/s", "median", [run.tokens_per_s for run in runs], 0))
    return table


def as_text(runs: list[Run]) -> str:
    """The table for a terminal; below each run after the first, its difference to the first."""
    table = columns(runs)
    lines = [["run", *(column.title for column in table)], ["", *(column.unit for column in table)]]
    for row, run in enumerate(runs):
        lines.append([run.name, *(column.cell(row) for column in table)])
        if row:
            lines.append([f"  - {runs[0].name}", *(column.difference(row) for column in table)])
    return aligned(lines, ruled_below=2)
