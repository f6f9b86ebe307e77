"""Pages from the templates in this folder, and the page of `compare`: `report.html`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from momentum_gpt.comparison.analysed import analysed
from momentum_gpt.comparison.certificate import AGAINST
from momentum_gpt.comparison.paired import Comparison, notes
from momentum_gpt.comparison.report.answers import written_answers
from momentum_gpt.comparison.report.drawn import final, page_data
from momentum_gpt.comparison.report.provenance import provenance
from momentum_gpt.comparison.runs import LEFT_OUT, Run
from momentum_gpt.comparison.signal_to_noise import NOTE, signal_table
from momentum_gpt.comparison.table import Table, columns
from momentum_gpt.comparison.variants import options_by_variant, variants_of

# Names of runs come from folders, so every text is escaped; a template that asks for what it is
# not given fails.
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

LONGEST_TITLE = 4
"""Runs that a title names, at most."""


def render(template: str, **content: Any) -> str:
    """Return a page.

    Args:
        template: name of a file in this folder.
        content: what the template asks for.
    """
    return TEMPLATES.get_template(template).render(**content)


def report(
    runs: Sequence[Run],
    comparisons: Sequence[Comparison],
    common_ground: Sequence[str],
    verdicts: Sequence[str] = (),
    caution: str | None = None,
    progress: Table | None = None,
    beside: Sequence[Table] = (),
) -> str:
    """Return the page of a comparison.

    Args:
        runs: the runs, the first of which the others are compared with.
        comparisons: how sure the differences are.
        common_ground: what the runs share and what they do not, a sentence each.
        verdicts: what was found, in plain sentences: they stand first.
        caution: why the numbers may not be compared, in a sentence: it stands at every table and
            every figure. None if they may.
        beside: further tables, such as published results.
        progress: how far each run is; None of finished runs. With it, the page follows the server
            that it came from.
    """
    groups = variants_of(runs)
    data = page_data(runs, groups, caution)
    # What models write is told by one of each variant: more would not fit beside each other.
    writers = [runs[group.runs[0]] for group in groups]
    # Runs that are going on have been measured after other numbers of steps.
    measured = [run for run in runs if final(run) and (progress is None or run.is_finished)]
    signal = signal_table(measured)
    tables = [*(comparison.table() for comparison in comparisons), signal, *beside]
    marks = {
        run.name: described["group"] for run, described in zip(runs, data["runs"], strict=True)
    }
    return render(
        "report.html.jinja",
        title=title_of(runs),
        verdicts=verdicts,
        caution=caution,
        live=progress is not None,
        progress=progress,
        data=data,
        runs=runs,
        measured=measured,
        marks=marks,
        columns=columns(measured) if measured else [],
        tables=[table for table in tables if table],
        notes=[*notes(comparisons), *([NOTE] if signal else [])],
        common_ground=common_ground,
        against=(AGAINST, LEFT_OUT),
        analysed=analysed(runs),
        answers=written_answers(writers),
        writers=writers,
        provenance=provenance(runs),
        labels=[group.name for group in groups],
        config_differences=options_by_variant(runs, groups),
    )


def title_of(runs: Sequence[Run]) -> str:
    """Return the names of a few runs, or the number of many."""
    if len(runs) <= LONGEST_TITLE:
        return " vs ".join(run.name for run in runs)
    return f"{len(runs)} runs"
