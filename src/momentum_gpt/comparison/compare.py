"""The engine of the command `compare`: everything it prints, and the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from momentum_gpt.comparison.by_document import by_document
from momentum_gpt.comparison.by_query import by_query
from momentum_gpt.comparison.by_seed import by_seed, variants
from momentum_gpt.comparison.certificate import common_ground
from momentum_gpt.comparison.paired import notes, paired_table
from momentum_gpt.comparison.report import report
from momentum_gpt.comparison.runs import Run, config_differences, load_runs
from momentum_gpt.comparison.table import Table, results_text
from momentum_gpt.core.files import write_text
from momentum_gpt.core.terminal import Advance, progress_bar


def compare_runs(folders: Sequence[str], output: Path | None = None) -> str:
    """Write the report and return the text for the terminal.

    Args:
        folders: folders of two or more runs, the first of which the others are compared with.
        output: file of the report; None: `report.html` beside the first run's folder.

    Raises:
        UserError: the runs cannot be compared.
    """
    runs = load_runs(folders)

    # Bootstraps of many few-shot tasks take a while.
    with progress_bar("Intervals and tests", total=None) as advance:
        tables = paired_tables(runs, advance)

    path = output or runs[0].folder.parent / "report.html"
    write_text(path, report(runs, tables))

    parts = [results_text(runs), *(table.as_text() for table in tables)]
    if tables:
        parts.append("\n".join(notes(tables)))

    ground = [f"  {sentence}" for sentence in common_ground(runs)]
    parts.append("\n".join(["Common ground:", *ground]))

    # One line per option: with many runs, columns would be too wide for a terminal.
    options = []
    for option, values in config_differences(runs).items():
        cells = ["-" if value is None else str(value) for value in values]
        options.append(f"  {option}: {', '.join(cells)}")
    parts.append("\n".join(["Differences in the configuration:", *options]))

    parts.append(f"report: {path}")
    return "\n\n".join(parts)


def paired_tables(runs: Sequence[Run], advance: Advance) -> list[Table]:
    """Return a table of differences for each variant, or else for each run, to the first one.

    With two or more training seeds of two variants, only seeds are compared: documents and queries
    would say something about two of the runs and nothing about the variants.
    """
    (first_name, first), *others = variants(runs).items()
    tables = []
    for other_name, other in others:
        differences = by_seed(first, other, advance)
        if differences:
            title = f"{other_name} against {first_name}, paired by training seed"
            tables.append(paired_table(title, first_name, other_name, differences))
    if tables:
        return tables

    # A single seed tells two trained models apart, not two variants.
    for run in runs[1:]:
        tables += _tables_of_pair(runs[0], run, advance)
    return tables


def _tables_of_pair(first: Run, other: Run, advance: Advance) -> list[Table]:
    tables = []
    losses = by_document(first.folder, other.folder, advance)
    if losses:
        title = f"Loss of {other.name} against {first.name}, nats per token, paired by document"
        tables.append(paired_table(title, first.name, other.name, losses))

    accuracies = by_query(first.folder, other.folder, advance)
    if accuracies:
        title = f"Few-shot accuracy of {other.name} against {first.name}, paired by query"
        tables.append(paired_table(title, first.name, other.name, accuracies))
    return tables
