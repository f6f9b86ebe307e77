"""Pages from the templates in this folder, and the page of `compare`: `report.html`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from momentum_gpt.comparison.certificate import AGAINST
from momentum_gpt.comparison.paired import Comparison, notes
from momentum_gpt.comparison.report.figures import colour, figures_of
from momentum_gpt.comparison.runs import LEFT_OUT, Run, config_differences
from momentum_gpt.comparison.table import columns

# Names of runs come from folders, so every text is escaped; a template that asks for what it is
# not given fails.
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

# A figure is as wide as its cell, whatever the window.
PLOTLY = {"displaylogo": False, "responsive": True}


def render(template: str, **content: Any) -> str:
    """Return a page.

    Args:
        template: name of a file in this folder.
        content: what the template asks for.
    """
    return TEMPLATES.get_template(template).render(**content)


def embedded(figures: Sequence[go.Figure]) -> list[Markup]:
    """Return figures as HTML for one page; the first one brings plotly's JavaScript along."""
    parts = []
    for number, figure in enumerate(figures):
        part = figure.to_html(full_html=False, include_plotlyjs=number == 0, config=PLOTLY)

        # Plotly escapes what is inside, and the template must not escape it again.
        parts.append(Markup(part))
    return parts


def report(
    runs: Sequence[Run], comparisons: Sequence[Comparison], common_ground: Sequence[str]
) -> str:
    """Return the page of a comparison.

    Args:
        runs: the runs, the first of which the others are compared with.
        comparisons: how sure the differences are.
        common_ground: what the runs share and what they do not, a sentence each.
    """
    return render(
        "report.html.jinja",
        title=" vs ".join(run.name for run in runs),
        runs=runs,
        colour=colour,
        columns=columns(runs),
        tables=[comparison.table() for comparison in comparisons],
        notes=notes(comparisons),
        common_ground=common_ground,
        against=(AGAINST, LEFT_OUT),
        figures=embedded([draw(runs) for draw in figures_of(runs)]),
        config_differences=config_differences(runs),
    )
