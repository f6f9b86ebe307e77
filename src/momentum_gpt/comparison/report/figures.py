"""The figures of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import plotly.graph_objects as go

from momentum_gpt.comparison.runs import Run, have_other_tokenizers
from momentum_gpt.evaluation.statistics import margin_key

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's palette, which readers with colour blindness can tell apart."""

DRAWN_MEANS = 20
"""The training loss is averaged over one part in this many of the run."""

Draw = Callable[[Sequence[Run]], go.Figure]


def colour(number: int) -> str:
    """Return the colour of a run, which is the same in all figures."""
    return COLOURS[number % len(COLOURS)]


def chart(title: str, x: str, y: str, traces: Sequence[go.Scatter | go.Bar]) -> go.Figure:
    """Return a figure in the style of the pages.

    Args:
        title: what is shown.
        x: title of the horizontal axis.
        y: title of the vertical axis, or its unit.
        traces: what is drawn.
    """
    figure = go.Figure(traces)
    figure.update_layout(
        template="plotly_white",
        # At the left, where plotly's toolbar does not cover it.
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
        showlegend=True,  # also for a single line
        height=400,
        margin={"l": 70, "r": 20, "t": 80, "b": 60},
        hovermode="x unified",  # all runs at the step under the pointer
    )
    figure.update_xaxes(showline=True, linecolor="#888", ticks="outside")
    figure.update_yaxes(showline=True, linecolor="#888", ticks="outside")
    return figure


def curve(
    name: str, number: int, x: Sequence[int | str], y: Sequence[float], mode: str = "lines+markers"
) -> go.Scatter:
    """Return the line of run number `number`."""
    return go.Scatter(
        x=x,
        y=y,
        name=name,
        legendgroup=name,  # hidden and shown with the band
        mode=mode,
        line={"color": colour(number), "width": 2},
        marker={"size": 6},
    )


def over_tokens(title: str, metric: str, unit: str) -> Draw:
    """Return the function that draws a metric against the tokens trained on.

    What was measured in training is a line, in a band of its intervals where it has them. What
    `evaluate` has measured afterwards, on more of the same sample, is a diamond at the end.
    """

    def draw(runs: Sequence[Run]) -> go.Figure:
        traces: list[go.Scatter] = []
        for number, run in enumerate(runs):
            tokens, values = run.series(metric)
            traces += _band(run, number, metric)
            traces.append(curve(run.name, number, tokens, values))
            traces += _afterwards(run, number, metric)
        return chart(title, "tokens trained on", unit, traces)

    return draw


def _band(run: Run, number: int, metric: str) -> list[go.Scatter]:
    """Return the band of a metric's 95% intervals in training; [] without any."""
    tokens = []
    lower = []
    upper = []
    for record in run.records:
        half = record.get(margin_key(metric))
        if half is not None:
            tokens.append(record["tokens"])
            lower.append(record[metric] - half)
            upper.append(record[metric] + half)
    return [band(run.name, colour(number), tokens, lower, upper)] if tokens else []


def _afterwards(run: Run, number: int, metric: str) -> list[go.Scatter]:
    """Return the point that `evaluate` has measured, with its 95% interval; [] without one."""
    if metric not in run.afterwards:
        return []
    point = curve(run.name, number, [run.final["tokens"]], [run.afterwards[metric]], "markers")
    point.update(
        marker={"symbol": "diamond", "size": 10, "line": {"color": "white", "width": 1}},
        error_y={"array": [run.margin(metric) or 0.0], "thickness": 2},
        legendgroup=run.name,
        showlegend=False,
    )
    return [point]


def band(
    name: str, fill_colour: str, x: Sequence[int], lower: Sequence[float], upper: Sequence[float]
) -> go.Scatter:
    """Return the band between two lines, in the legend's group of that name."""
    # It is one outline: along the upper ends, and back along the lower ones.
    return go.Scatter(
        x=[*x, *reversed(x)],
        y=[*upper, *reversed(lower)],
        legendgroup=name,
        showlegend=False,
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=fill_colour,
        opacity=0.15,
        hoverinfo="skip",
    )


def induction_accuracy(runs: Sequence[Run]) -> go.Figure:
    """Draw the induction probe, with an axis that starts at 0 and shows small accuracies."""
    metric = "icl/induction/acc"
    figure = over_tokens("Induction probe: accuracy, second showing", metric, "accuracy")(runs)

    # A probe that has not been learned yet would lie on the axis if it went up to 100%.
    highest = 0.0
    for run in runs:
        _, values = run.series(metric)
        highest = max([highest, *values])
    figure.update_yaxes(tickformat=".0%", range=[0, min(1.0, max(0.1, 1.1 * highest))])
    return figure


def training_loss(runs: Sequence[Run]) -> go.Figure:
    """Draw the trailing mean, so that the noise of single batches does not hide a difference."""
    readings = min(len(run.series("train/loss")[1]) for run in runs)
    width = max(1, readings // DRAWN_MEANS)
    title = "Training loss"
    if width > 1:
        title += f", mean of the last {width} readings"

    traces = []
    for number, run in enumerate(runs):
        tokens, losses = run.series("train/loss")
        traces.append(curve(run.name, number, tokens, trailing_means(losses, width), "lines"))
    return chart(title, "tokens trained on", "nats per token", traces)


def trailing_means(values: Sequence[float], width: int) -> list[float]:
    """Return the mean of each value and those before it, `width` in all; fewer at the start."""
    # Trailing instead of centred: a point never depends on what comes later.
    means = []
    for end in range(1, len(values) + 1):
        means.append(fmean(values[max(0, end - width) : end]))
    return means


def perplexity_by_context(runs: Sequence[Run]) -> go.Figure:
    """Draw the final perplexity against the length of the context."""
    traces = []
    for number, run in enumerate(runs):
        by_length = dict(sorted(run.by_number("val/ppl@").items()))

        # Text instead of numbers: the axis has equal steps between lengths that double.
        lengths = list(map(str, by_length))
        traces.append(curve(run.name, number, lengths, list(by_length.values())))

    figure = chart(
        "Validation perplexity by context length",
        "context length, tokens",
        "perplexity per token",
        traces,
    )
    figure.update_xaxes(type="category")
    return figure


def loss_by_position(runs: Sequence[Run]) -> go.Figure:
    """Draw the final loss against a target's position in the context, on a logarithmic axis."""
    traces = []
    for number, run in enumerate(runs):
        by_position = dict(sorted(run.by_number("val/loss@pos").items()))
        traces.append(curve(run.name, number, list(by_position), list(by_position.values())))

    figure = chart(
        "Validation loss by position in the context",
        "tokens of context, up to",
        "nats per token",
        traces,
    )

    # Ticks at the positions measured, since those of a logarithmic axis are powers of ten.
    ticks = list(traces[0].x)
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=list(map(str, ticks)))
    return figure


def speed(runs: Sequence[Run]) -> go.Figure:
    """Draw a bar for each run's median speed."""
    rates = [run.tokens_per_s for run in runs]
    bars = go.Bar(
        x=[run.name for run in runs],
        y=rates,
        text=list(map("{:,.0f}".format, rates)),
        textposition="outside",
        cliponaxis=False,  # the number of the highest bar stands above the axis
        marker={"color": list(map(colour, range(len(runs))))},
        width=0.5,
    )
    figure = chart("Training speed, median", "run", "tokens per second", [bars])

    # The axis names the bars already.
    figure.update_layout(showlegend=False, hovermode="closest")
    return figure


FIGURES: tuple[Draw, ...] = (
    over_tokens("Validation loss", "val/loss", "nats per token"),
    training_loss,
    perplexity_by_context,
    loss_by_position,
    induction_accuracy,
    over_tokens("ICL score: late minus early loss", "icl/score", "nats per token"),
    speed,
)
"""The figures of `report.html`, in their order."""

ACROSS_TOKENIZERS: tuple[Draw, ...] = (
    over_tokens("Validation loss, bits per byte", "val/bpb", "bits per byte"),
    speed,
)
"""The figures of runs with different tokenizers."""


def figures_of(runs: Sequence[Run]) -> tuple[Draw, ...]:
    """Return the figures that may hold all the runs."""
    return ACROSS_TOKENIZERS if have_other_tokenizers(runs) else FIGURES
