"""The engine of the command `compare`: everything it prints, and the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from momentum_gpt.comparison.by_document import by_document
from momentum_gpt.comparison.by_query import by_query
from momentum_gpt.comparison.by_seed import FEW_SHOT, LOSSES, by_seed, variants
from momentum_gpt.comparison.certificate import common_ground
from momentum_gpt.comparison.paired import Comparison, notes, with_holm
from momentum_gpt.comparison.report import report
from momentum_gpt.comparison.runs import (
    Run,
    config_differences,
    have_other_tokenizers,
    load_runs,
)
from momentum_gpt.comparison.table import results_text
from momentum_gpt.core.files import write_text
from momentum_gpt.core.terminal import Advance, progress_bar

Tracking = Callable[[Sequence[Path], Sequence[str], Sequence[str], Path], str]
"""`momentum_gpt.tracking.log_comparison`."""


def compare_runs(
    folders: Sequence[str], output: Path | None = None, tracking: Tracking | None = None
) -> str:
    """Write the report and return the text for the terminal.

    Args:
        folders: folders of two or more runs, the first of which the others are compared with.
        output: file of the report; None: `report.html` beside the first run's folder.
        tracking: logs what was found and the report, and returns a line about it; None: nowhere.

    Raises:
        UserError: the runs cannot be compared.
    """
    runs, left_out = load_runs(folders)

    # Bootstraps of many few-shot tasks take a while.
    with progress_bar("Intervals and tests", total=None) as advance:
        comparisons = compare_pairs(runs, advance)
    sentences = [*left_out, *common_ground(runs)]

    path = output or runs[0].folder.parent / "report.html"
    write_text(path, report(runs, comparisons, sentences))

    tables = [comparison.table().as_text() for comparison in comparisons]
    parts = [results_text(runs), *tables]
    if comparisons:
        parts.append("\n".join(notes(comparisons)))
    parts.append("\n".join(["Common ground:", *(f"  {sentence}" for sentence in sentences)]))

    # One line per option: with many runs, columns would be too wide for a terminal.
    options = []
    for option, values in config_differences(runs).items():
        cells = ["-" if value is None else str(value) for value in values]
        options.append(f"  {option}: {', '.join(cells)}")
    parts.append("\n".join(["Differences in the configuration:", *options]))

    parts.append(f"report: {path}")
    if tracking:
        parts.append(tracking([run.folder for run in runs], tables, sentences, path))
    return "\n\n".join(parts)


def compare_pairs(runs: Sequence[Run], advance: Advance) -> list[Comparison]:
    """Return the comparisons of each variant, or else of each run, with the first one.

    With two or more training seeds of two variants, only seeds are compared: documents and queries
    would say something about two of the runs and nothing about the variants. The p-values are
    adjusted for the number of rows: of losses, and of few-shot tasks.
    """
    # A single seed tells two trained models apart, not two variants.
    losses, few_shot = _variants(runs, advance)
    if not losses and not few_shot:
        losses, few_shot = _models(runs, advance)
    return with_holm(losses) + with_holm(few_shot)


def _variants(runs: Sequence[Run], advance: Advance) -> tuple[list[Comparison], list[Comparison]]:
    """Return losses and few-shot tasks of each variant against the first, seed by seed."""
    across_tokenizers = have_other_tokenizers(runs)
    (first_name, first), *others = variants(runs).items()
    losses = []
    few_shot = []
    for name, other in others:
        title = f"{name} against {first_name}, paired by training seed"
        rows = by_seed(first, other, LOSSES, across_tokenizers, advance)
        losses.append(Comparison(f"Losses of {title}", first_name, name, rows))
        rows = by_seed(first, other, FEW_SHOT, across_tokenizers, advance)
        few_shot.append(Comparison(f"Few-shot tasks, {title}", first_name, name, rows))
    return _with_rows(losses), _with_rows(few_shot)


def _models(runs: Sequence[Run], advance: Advance) -> tuple[list[Comparison], list[Comparison]]:
    """Return losses and few-shot tasks of each run against the first one."""
    units = ("byte", "word") if have_other_tokenizers(runs) else ("token",)
    first = runs[0]
    losses = []
    few_shot = []
    for other in runs[1:]:
        title = f"{other.name} against {first.name}, paired by"
        rows = by_document(first.folder, other.folder, units, advance)
        losses.append(Comparison(f"Losses of {title} document", first.name, other.name, rows))
        rows = by_query(first.folder, other.folder, advance)
        few_shot.append(Comparison(f"Few-shot tasks, {title} query", first.name, other.name, rows))
    return _with_rows(losses), _with_rows(few_shot)


def _with_rows(comparisons: Sequence[Comparison]) -> list[Comparison]:
    return [comparison for comparison in comparisons if comparison.differences]
