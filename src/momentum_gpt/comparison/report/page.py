"""`report.html`: one file with its figures inside, which opens without a network."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from statistics import fmean

import plotly.graph_objects as go

from momentum_gpt.comparison.runs import Run, common_ground, differences
from momentum_gpt.comparison.table import NOTE, Grid, columns

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 1260px; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p.note { color: #555; margin: .2rem 0 1rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .55rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { vertical-align: bottom; }
th span, td span { display: block; font-weight: normal; font-size: .8rem; color: #666; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .5em; border-radius: 2px; }
.against { color: #b00020; font-weight: 600; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(480px, 1fr)); gap: 1.5rem; }
.figures > div { min-width: 0; }
"""


def report(runs: list[Run], grids: list[Grid]) -> str:
    """The whole page.

    Args:
        grids: further tables, of how sure the differences are.
    """
    title = " vs ".join(run.name for run in runs)
    ground = "".join(
        f"<li{' class=against' if sentence.startswith('NOT') else ''}>{html.escape(sentence)}</li>"
        for sentence in common_ground(runs)
    )
    shown = {"displaylogo": False, "responsive": True}
    figures = "".join(
        f"<div>{make(runs).to_html(full_html=False, include_plotlyjs=number == 0, config=shown)}</div>"
        for number, make in enumerate(FIGURES)
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
<p class="note">Validation on the same tokens for every run and context length. Small figures: difference to the first run.</p>
<div class="scroll">{results_table(runs)}</div>
{"".join(map(grid_table, grids))}{f"<p class=note>{html.escape(NOTE)}</p>" if grids else ""}
<h2>Common ground</h2><ul>{ground}</ul>
<h2>Curves</h2><div class="figures">{figures}</div>
<h2>Differences in the configuration</h2><div class="scroll">{differences_table(runs)}</div>
</body></html>
"""


def results_table(runs: list[Run]) -> str:
    table = columns(runs)
    head = "".join(
        f"<th>{html.escape(column.title)}<span>{html.escape(column.unit)}</span></th>"
        for column in table
    )
    rows = []
    for row, run in enumerate(runs):
        swatch = f'<i class="swatch" style="background:{colour(row)}"></i>'
        cells = "".join(
            f"<td>{column.cell(row)}<span>{column.difference(row) if row else '&nbsp;'}</span></td>"
            for column in table
        )
        about = html.escape(f"{run.variant}, seed {run.config.training.seed}")
        rows.append(f"<tr><td>{swatch}{html.escape(run.name)}<span>{about}</span></td>{cells}</tr>")
    return f"<table><tr><th>run</th>{head}</tr>{''.join(rows)}</table>"


def grid_table(grid: Grid) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in grid.head)
    rows = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in grid.rows
    )
    return f"<h2>{html.escape(grid.title)}</h2><div class=scroll><table><tr>{head}</tr>{rows}</table></div>"


def differences_table(runs: list[Run]) -> str:
    head = "".join(f"<th>{html.escape(run.name)}</th>" for run in runs)
    rows = []
    for key, values in differences(runs).items():
        cells = "".join(
            f"<td>{'' if value is None else html.escape(str(value))}</td>" for value in values
        )
        rows.append(f"<tr><td>{html.escape(key)}</td>{cells}</tr>")
    return f"<table><tr><th>option</th>{head}</tr>{''.join(rows)}</table>"


def colour(row: int) -> str:
    return COLOURS[row % len(COLOURS)]


def chart(title: str, x: str, y: str, traces: list[go.Scatter | go.Bar]) -> go.Figure:
    figure = go.Figure(traces)
    figure.update_layout(
        template="plotly_white",
        title={
            "text": title,
            "font": {"size": 16},
            "x": 0,
            "xanchor": "left",
            "y": 0.97,
            "yanchor": "top",
        },
        xaxis_title=x,
        yaxis_title=y,
        legend={"orientation": "h", "x": 0, "y": 1.0, "xanchor": "left", "yanchor": "bottom"},
        showlegend=True,
        height=400,
        margin={"l": 70, "r": 20, "t": 80, "b": 60},
        hovermode="x unified",
    )
    figure.update_xaxes(showline=True, linecolor="#888", ticks="outside")
    figure.update_yaxes(showline=True, linecolor="#888", ticks="outside")
    return figure


def curve(
    run: Run, row: int, x: Sequence[int | str], y: Sequence[float], mode: str = "lines+markers"
) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        name=run.name,
        mode=mode,
        line={"color": colour(row), "width": 2},
        marker={"size": 6},
    )


def over_tokens(title: str, key: str, unit: str) -> Callable[[list[Run]], go.Figure]:
    def make(runs: list[Run]) -> go.Figure:
        return chart(
            title,
            "tokens trained on",
            unit,
            [curve(run, row, *run.series(key)) for row, run in enumerate(runs)],
        )

    return make


def induction_accuracy(runs: list[Run]) -> go.Figure:
    figure = over_tokens(
        "Induction probe: accuracy on the second showing", "icl/induction/acc", "accuracy"
    )(runs)
    highest = max(value for run in runs for value in run.series("icl/induction/acc")[1] or [0.0])
    figure.update_yaxes(tickformat=".0%", range=[0, min(1.0, max(0.1, 1.1 * highest))])
    return figure


def training_loss(runs: list[Run]) -> go.Figure:
    """Trailing mean, so that the noise of single batches does not hide the difference."""
    width = max(1, min(len(run.series("train/loss")[1]) for run in runs) // 20)
    traces = []
    for row, run in enumerate(runs):
        tokens, losses = run.series("train/loss")
        means = [fmean(losses[max(0, i + 1 - width) : i + 1]) for i in range(len(losses))]
        traces.append(curve(run, row, tokens, means, "lines"))
    return chart(
        f"Training loss, mean of the last {width} readings",
        "tokens trained on",
        "nats per token",
        traces,
    )


def perplexity_by_context(runs: list[Run]) -> go.Figure:
    traces = []
    for row, run in enumerate(runs):
        by_length = dict(sorted(run.by_number("val/ppl@").items()))
        traces.append(
            curve(run, row, [str(length) for length in by_length], list(by_length.values()))
        )
    figure = chart(
        "Validation perplexity by context length",
        "context length, tokens",
        "perplexity per token",
        traces,
    )
    figure.update_xaxes(type="category")
    return figure


def loss_by_position(runs: list[Run]) -> go.Figure:
    traces = []
    for row, run in enumerate(runs):
        by_position = dict(sorted(run.by_number("val/loss@pos").items()))
        traces.append(curve(run, row, list(by_position), list(by_position.values())))
    figure = chart(
        "Validation loss by position in the context",
        "tokens of context, up to",
        "nats per token",
        traces,
    )
    figure.update_xaxes(
        type="log", tickvals=list(traces[0].x), ticktext=[str(x) for x in traces[0].x]
    )
    return figure


def speed(runs: list[Run]) -> go.Figure:
    rates = [run.tokens_per_s for run in runs]
    bars = go.Bar(
        x=[run.name for run in runs],
        y=rates,
        text=[f"{rate:,.0f}" for rate in rates],
        textposition="outside",
        cliponaxis=False,
        marker={"color": [colour(row) for row in range(len(runs))]},
        width=0.5,
    )
    figure = chart("Training speed, median", "run", "tokens per second", [bars])
    figure.update_layout(showlegend=False, hovermode="closest")
    return figure


FIGURES = (
    over_tokens("Validation loss", "val/loss", "nats per token"),
    training_loss,
    perplexity_by_context,
    loss_by_position,
    induction_accuracy,
    over_tokens("In-context-learning score (late minus early loss)", "icl/score", "nats per token"),
    speed,
)
