"""What a page draws: its runs, their groups, and the data of its figures.

`figures.js` makes a drawing of each, with the switches of the page.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from momentum_gpt.comparison.likeness import courses
from momentum_gpt.comparison.report.curves import (
    SPEED,
    bin_width,
    binned,
    clock,
    curve,
    readings,
)
from momentum_gpt.comparison.report.documents import differences, losses_of
from momentum_gpt.comparison.runs import Run, have_other_tokenizers
from momentum_gpt.comparison.variants import Variant
from momentum_gpt.core.flops import flops_per_token
from momentum_gpt.evaluation.statistics import LEVEL

Figure = dict[str, Any]
"""id, kind, title, unit, note, series, and what a kind needs beside them."""

BANDS = (
    "Bands are 95% intervals: over training seeds, or over documents where there is one run. "
    "Hollow points were measured afterwards, on a larger sample that contains that of training."
)
ENVELOPE = (
    "The pale band holds every reading, of all seeds; the band in it is the 95% interval of the "
    "mean over seeds."
)
OVER_SEEDS = "Bands are 95% intervals over training seeds."

FEW_SHOT = re.compile(r"icl/(?P<task>\w+)/acc@(?P<k>\d+)")


@dataclass(frozen=True)
class Page:
    """The runs of a page, and how they belong together."""

    runs: Sequence[Run]
    groups: Sequence[Variant]
    across_tokenizers: bool
    """Whether what is per token is another unit for each run."""

    @property
    def loss(self) -> tuple[str, str]:
        """The metric of the differences and its unit."""
        if self.across_tokenizers:
            return "val/bpb", "bits per byte"
        return "val/loss", "nats per token"


def page_data(
    runs: Sequence[Run], groups: Sequence[Variant], caution: str | None
) -> dict[str, Any]:
    """Return all that the page draws, as JSON takes it.

    Args:
        runs: finished or not.
        groups: of the runs; the first one is the baseline.
        caution: a sentence that stands at every figure, if the comparison is confounded.
    """
    page = Page(runs, groups, have_other_tokenizers(runs))
    of_run = {place: number for number, group in enumerate(page.groups) for place in group.runs}
    described = []
    for place, run in enumerate(runs):
        described.append(
            {
                "name": run.name,
                "group": of_run[place],
                "seed": run.config.training.seed,
                "flops_per_token": flops_of(run),
                "clock": clock(run),
            }
        )
    return {
        "groups": _described(page.groups),
        "runs": described,
        "figures": figures(page),
        "student": student_quantiles(len(runs)),
        "caution": caution,
        "progress": None,
    }


def flops_of(run: Run) -> float | None:
    """Return the FLOPs of a token, forward and backward; None if the vocabulary is not known."""
    model = run.config.model
    return None if model.vocab_size is None else flops_per_token(model)


def student_quantiles(most: int) -> list[float | None]:
    """Return half a 95% interval in standard errors of n values, for each n up to `most`."""
    found: list[float | None] = [None, None]
    return found + [float(stats.t.ppf(1 - LEVEL / 2, n - 1)) for n in range(2, most + 1)]


def figures(page: Page) -> list[Figure]:
    """Return the figures that have something to show, in their order."""
    metric, unit = page.loss
    found = [
        curves(page, "loss", "Validation loss", metric, unit, BANDS, fit=True, wide=True),
        difference(page),
        curves(page, "accuracy", "Accuracy", "val/acc", "share of the answers", BANDS),
    ]
    if not page.across_tokenizers:
        found += [
            curves(
                page,
                "train",
                "Training loss",
                "train/loss",
                unit,
                ENVELOPE,
                fit=True,
                envelope=True,
            ),
            decays(page),
            by_number(
                page, "position", "Loss by position", "val/loss@pos", unit, "context, tokens"
            ),
            by_number(
                page,
                "frequency",
                "Loss by token frequency",
                "val/loss@rank",
                unit,
                "most frequent tokens, up to",
            ),
            by_number(
                page,
                "context",
                "Perplexity by context length",
                "val/ppl@",
                "per token",
                "context, tokens",
            ),
            documents(page),
            curves(page, "score", "ICL score: late minus early loss", "icl/score", unit, BANDS),
        ]
    found.append(
        curves(
            page,
            "induction",
            "Induction probe, second showing",
            "icl/induction/acc",
            "accuracy",
            "",
        )
    )
    found += few_shot(page)
    found += likeness(page)
    found.append(speed(page))
    return [figure for figure in found if figure is not None]


def curves(
    page: Page,
    name: str,
    title: str,
    metric: str,
    unit: str,
    note: str,
    fit: bool = False,
    wide: bool = False,
    envelope: bool = False,
) -> Figure | None:
    """Return a metric over the training; None if no run has it.

    Args:
        page: the runs.
        name: of the figure on the page.
        title: what is shown.
        metric: its key in metrics.jsonl.
        unit: its unit.
        note: what the reader has to know.
        fit: fit the vertical axis to what follows the first 10% of the training.
        wide: draw it over the whole width of the page.
        envelope: show the least and the greatest reading of several seeds, too.
    """
    width = bin_width(page.runs)
    series = []
    for place, run in enumerate(page.runs):
        found = curve(run, metric, width)
        if found is not None:
            series.append({"run": place, "after": _afterwards(run, metric), **found})
    if not series:
        return None
    note = f"{note} The vertical axis fits what follows the first 10%.".strip() if fit else note
    positive = all(value > 0 for one in series for value in one["y"])
    figure = _figure(name, "curve", title, unit, note, series)
    return figure | {"fit": fit, "wide": wide, "envelope": envelope, "positive": positive}


def difference(page: Page) -> Figure | None:
    """Return the difference in loss to the baseline's run of the same seed, over the training."""
    metric, unit = page.loss
    figure = curves(page, "difference", "", metric, unit, "", wide=True)
    if figure is None or len(page.groups) < 2:
        return None
    baseline = page.groups[0].name
    note = (
        f"Each run minus the run of {baseline} with the same seed, at the same place of the "
        "horizontal axis: below 0 is better. The band is the 95% interval over the pairs; a single "
        "pair has none."
    )
    return figure | {
        "kind": "difference",
        "title": f"Difference in validation loss to {baseline}",
        "note": note,
        "positive": False,
    }


def decays(page: Page) -> Figure | None:
    """Return the final loss against the decay; None unless there are two decays."""
    metric, unit = page.loss
    known = {group.decay for group in page.groups} - {None, 0.0}
    if len(known) < 2:
        return None
    series = []
    for group in page.groups:
        for place in group.runs:
            value = final(page.runs[place]).get(metric)
            if value is not None and group.decay is not None:
                series.append({"run": place, "y": value})
    note = (
        "Final validation loss; bars are 95% intervals over training seeds, and faint points the "
        "single runs. A decay of 0 is vanilla attention."
    )
    figure = _figure("decay", "decay", "Loss by decay", unit, note, series)
    return figure | {"x": "attention.ema_decay", "positive": True}


def by_number(page: Page, name: str, title: str, prefix: str, unit: str, x: str) -> Figure | None:
    """Return the final values of metrics such as val/ppl@64; None if no run has two of them."""
    series = []
    for place, run in enumerate(page.runs):
        values = dict(sorted(run.by_number(prefix).items())) if final(run) else {}
        if len(values) > 1:
            series.append({"run": place, "x": list(values), "y": list(values.values())})
    if not series:
        return None
    figure = _figure(name, "ladder", title, unit, OVER_SEEDS, series)
    return figure | {"x": x, "positive": True}


def few_shot(page: Page) -> list[Figure]:
    """Return a figure for each few-shot task: accuracy by the number of demonstrations."""
    by_task: dict[str, list[dict[str, Any]]] = {}
    for place, run in enumerate(page.runs):
        of_run: dict[str, dict[int, float]] = {}
        for metric, value in final(run).items():
            found = FEW_SHOT.fullmatch(metric)
            if found:
                of_run.setdefault(found["task"], {})[int(found["k"])] = value
        for task, by_k in of_run.items():
            points = dict(sorted(by_k.items()))
            one = {"run": place, "x": list(points), "y": list(points.values())}
            by_task.setdefault(task, []).append(one)

    drawn = []
    for task, series in by_task.items():
        figure = _figure(
            f"few-shot-{task}", "ladder", f"Few-shot: {task}", "accuracy", OVER_SEEDS, series
        )
        drawn.append(figure | {"x": "demonstrations", "positive": False})
    return drawn


def likeness(page: Page) -> list[Figure]:
    """Return ICL beside finetuning over the training, of runs that were analysed meanwhile."""
    width = bin_width(page.runs)
    drawn = []
    for number, course in enumerate(courses(page.runs)):
        series = []
        for place, pairs in course.points.items():
            tokens, values = map(np.array, zip(*pairs, strict=True))
            unknown = np.full(len(values), np.nan)
            series.append({"run": place, "after": None, **binned(tokens, values, unknown, width)})
        note = f"Means over {', '.join(course.tasks)}. {OVER_SEEDS}"
        figure = _figure(f"likeness-{number}", "curve", course.title, course.unit, note, series)
        drawn.append(figure | {"fit": False, "wide": False, "envelope": False, "positive": False})
    return drawn


def documents(page: Page) -> Figure | None:
    """Return the differences of single documents to the baseline's run of the same seed."""
    if len(page.groups) < 2:
        return None
    first = {page.runs[place].config.training.seed: place for place in page.groups[0].runs}
    losses = {place: losses_of(page.runs[place].folder) for place in first.values()}
    series = []
    shown = 0
    for group in page.groups[1:]:
        size = None
        for place in group.runs:
            baseline = first.get(page.runs[place].config.training.seed)
            if baseline is None:
                continue
            gaps = differences(losses[baseline], losses_of(page.runs[place].folder))
            # Pairs that were measured on other documents have no common mean.
            if len(gaps) and size in (None, len(gaps)):
                size = len(gaps)
                shown = max(shown, size)
                series.append({"run": place, "baseline": baseline, "y": gaps.round(5).tolist()})
    if not series:
        return None
    note = (
        f"{shown} documents, each with its difference to {page.groups[0].name}, the mean over "
        "seeds: the share to the left of the crossing is better."
    )
    return _figure(
        "documents", "documents", "Difference by document", "nats per token", note, series
    )


def speed(page: Page) -> Figure | None:
    """Return the median speed of each run."""
    series = []
    for place, run in enumerate(page.runs):
        _, speeds, _ = readings(run, SPEED)
        if len(speeds):
            series.append({"run": place, "y": float(np.median(speeds))})
    if not series:
        return None
    note = "Compare speeds only if the machine did nothing else during the runs."
    return _figure("speed", "strip", "Training speed, median", "tokens per second", note, series)


def final(run: Run) -> dict[str, Any]:
    """Return the metrics of a run's last evaluation; {} before the first one."""
    is_evaluated = any("val/loss" in record for record in reversed(run.records))
    return run.final if is_evaluated else {}


def _figure(
    name: str, kind: str, title: str, unit: str, note: str, series: list[dict[str, Any]]
) -> Figure:
    return {"id": name, "kind": kind, "title": title, "unit": unit, "note": note, "series": series}


def _afterwards(run: Run, metric: str) -> dict[str, Any] | None:
    """Return what `evaluate` measured of a metric after the training; None if it did not."""
    if metric not in run.afterwards:
        return None
    value, margin = run.afterwards[metric], run.margin(metric)
    return {"tokens": run.final["tokens"], "value": value, "margin": margin}


def _described(groups: Sequence[Variant]) -> list[dict[str, Any]]:
    families = list(dict.fromkeys(g.family for g in groups if g.decay))
    found = []
    for group in groups:
        # Vanilla attention is the first point of every decay curve of its options.
        of_group = [group.family] if group.decay else []
        if group.decay == 0.0:
            of_group = families
        found.append({"label": group.name, "decay": group.decay, "families": of_group})
    return found
