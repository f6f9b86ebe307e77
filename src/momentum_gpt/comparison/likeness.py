"""The likeness of in-context learning (ICL) and finetuning, variant against variant.

A likeness means something only beside its null, and nulls differ from model to model. So models are
compared by how far they go beyond the null of shuffled labels, which differs from finetuning in its
labels alone. Each number is the mean over the tasks; the unit is a training run.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import numpy as np

from momentum_gpt.comparison.analyses import Analysis, Key, Setting, telling
from momentum_gpt.comparison.by_seed import BySeed, seed_difference
from momentum_gpt.comparison.paired import Comparison, PairedDifference
from momentum_gpt.comparison.runs import Run
from momentum_gpt.evaluation.finding import WITHOUT_FINETUNING, Finding

NULLS = ("shuffled labels", "base rate")
"""What a number is taken beyond. A number with neither of these nulls is compared as it is."""

OF_TASK = ("task", "shown", "data")
"""The entries of a setting that are a task's own."""

DRAWN = (
    "accuracy, ICL",
    "total variation, beyond shuffled labels",
    "SimAOU, without scaling, beyond shuffled labels",
    "SimAOU, normalised, beyond shuffled labels",
    "SimAM of changes, beyond shuffled labels",
    "SimAM, beyond shuffled labels",
)
"""What is drawn over the training; and gains of SimAOU, without scaling."""

GAIN = "SimAOU, without scaling, gain over "
"""The beginning of the name of such a gain."""

REMARK = (
    "ICL beside finetuning: means over the tasks. beyond shuffled labels: less what finetuning on "
    "shuffled labels gives; of total variation and KL divergence, the smaller, the more alike."
)

Measure = tuple[str, str]
"""What is compared, such as "SimAOU, beyond shuffled labels", and its unit."""

ByTask = dict[Setting, dict[Measure, float]]
"""Task -> what is compared."""


@dataclass(frozen=True)
class Course:
    """A number over the training of several runs."""

    title: str
    unit: str
    tasks: list[str]
    """The names of the tasks that it is the mean of."""
    points: dict[int, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    """Place of a run -> tokens trained on and the value, oldest first."""


def likeness_by_seed(
    of_variants: Mapping[str, BySeed], looked_at: bool = False
) -> list[Comparison]:
    """Return each variant against the first one, a comparison for each way of measuring.

    The last analysed checkpoint of each run counts. A seed is compared if both of its runs were
    measured alike, after the same number of tokens; there must be two such seeds.

    Args:
        of_variants: the runs of each variant.
        looked_at: whether the number of seeds was chosen by looking at the results.

    Raises:
        UserError: a line in a run's folder lacks an entry.
    """
    (first_name, first), *others = of_variants.items()
    found = []
    for name, other in others:
        title = f"ICL beside finetuning of {name} against {first_name}, paired by training seed"
        for options, rows in _tables(_pairs(first, other), looked_at):
            full_title = ", ".join([title, *options])
            found.append(Comparison(full_title, first_name, name, rows, remarks=[REMARK]))
    return found


def courses(runs: Sequence[Run]) -> list[Course]:
    """Return what is drawn over the training, of runs with two analysed checkpoints or more.

    Each is the mean over the tasks on which the last analysed checkpoints of all runs were
    measured. A checkpoint that was not measured on all of them is left out.

    Raises:
        UserError: a line in a run's folder lacks an entry.
    """
    of_methods: dict[Setting, dict[int, dict[int, ByTask]]] = defaultdict(dict)
    for place, run in enumerate(runs):
        for tokens, analysis in run.analyses.items():
            for method, by_task in _by_method(analysis, (*OF_TASK, "tokens")).items():
                of_methods[method].setdefault(place, {})[tokens] = by_task

    found = []
    for method, of_runs in of_methods.items():
        if any(len(by_tokens) > 1 for by_tokens in of_runs.values()):
            found += _courses(of_runs, telling(method, of_methods))
    return found


def _pairs(first: BySeed, other: BySeed) -> dict[Setting, list[tuple[ByTask, ByTask]]]:
    """Return the pairs of runs with the same seed, by how both of them were measured."""
    found: dict[Setting, list[tuple[ByTask, ByTask]]] = defaultdict(list)
    for seed in sorted(first.keys() & other.keys()):
        one = _by_method(first[seed].last_analysis)
        two = _by_method(other[seed].last_analysis)
        for method in one.keys() & two.keys():
            found[method].append((one[method], two[method]))
    return found


def _tables(
    pairs: Mapping[Setting, Sequence[tuple[ByTask, ByTask]]], looked_at: bool
) -> Iterator[tuple[list[str], list[PairedDifference]]]:
    """Yield the rows of each way of measuring, with the options that tell it from others."""
    told = set()
    for method in sorted(pairs):
        rows = _differences(pairs[method], looked_at)
        asked = tuple(pair for pair in method if pair[0] != "finetuning")
        if asked in told:  # these are the same with another way of finetuning
            rows = [row for row in rows if row.measure not in WITHOUT_FINETUNING]
        told.add(asked)
        if rows:
            yield telling(method, pairs), rows


def _courses(of_runs: Mapping[int, Mapping[int, ByTask]], options: Sequence[str]) -> list[Course]:
    tasks = _shared([by_tokens[max(by_tokens)] for by_tokens in of_runs.values()])
    names = [dict(task)["task"] for task in tasks]
    found: dict[Measure, Course] = {}
    for place, by_tokens in of_runs.items():
        for tokens, (name, unit), value in _drawn(by_tokens, tasks):
            title = ", ".join([f"ICL beside finetuning: {name}", *options])
            course = found.setdefault((name, unit), Course(title, unit, names))
            course.points[place].append((tokens, value))
    return list(found.values())


def _drawn(
    by_tokens: Mapping[int, ByTask], tasks: Sequence[Setting]
) -> Iterator[tuple[int, Measure, float]]:
    """Yield tokens, measure and mean over the tasks of what is drawn of a run."""
    for tokens, by_task in by_tokens.items():
        if not all(task in by_task for task in tasks):
            continue
        for measure, value in _means(by_task, tasks).items():
            name = measure[0]
            if name in DRAWN or name.startswith(GAIN):
                yield tokens, measure, value


def _by_method(analysis: Analysis, apart: Collection[str] = OF_TASK) -> dict[Setting, ByTask]:
    """Return what is compared of each task, by the entries of its setting that are not `apart`."""
    found: dict[Setting, ByTask] = defaultdict(dict)
    for setting, findings in analysis.items():
        task = tuple(pair for pair in setting if pair[0] in OF_TASK)
        method = tuple(pair for pair in setting if pair[0] not in apart)
        found[method][task] = _beyond_nulls(findings)
    return found


def _beyond_nulls(findings: Mapping[Key, Finding]) -> dict[Measure, float]:
    """Return each number beyond its null of `NULLS`, or else as it is."""
    with_null = {(measure, unit) for measure, unit, null in findings if null in NULLS}
    found = {}
    for (measure, unit, null), finding in findings.items():
        if null in NULLS:
            found[f"{measure}, beyond {null}", unit] = finding.value - finding.null
        elif (measure, unit) not in with_null:
            found[measure, unit] = finding.value
    return found


def _shared(of_runs: Sequence[ByTask]) -> list[Setting]:
    """Return the tasks that all runs were asked alike."""
    first, *others = of_runs
    return [task for task in first if all(task in other for other in others)]


def _means(by_task: ByTask, tasks: Sequence[Setting]) -> dict[Measure, float]:
    """Return the means over tasks, of what is defined in all of them."""
    if not tasks:
        return {}
    first, *others = (by_task[task] for task in tasks)
    found = {}
    for measure in first:
        if all(measure in other for other in others):
            found[measure] = fmean([first[measure], *(other[measure] for other in others)])
    return {measure: value for measure, value in found.items() if math.isfinite(value)}


def _differences(pairs: Sequence[tuple[ByTask, ByTask]], looked_at: bool) -> list[PairedDifference]:
    """Return the differences over pairs of runs; [] of a single pair."""
    if len(pairs) < 2:
        return []
    first, other = zip(*pairs, strict=True)
    tasks = _shared([*first, *other])
    of_first = [_means(by_task, tasks) for by_task in first]
    of_other = [_means(by_task, tasks) for by_task in other]

    sample = f"{len(tasks)} task{'s' * (len(tasks) > 1)}"
    rows = []
    for measure in of_first[0]:
        if not all(measure in means for means in [*of_first, *of_other]):
            continue
        values = np.array([means[measure] for means in of_first])  # (seeds,)
        others = np.array([means[measure] for means in of_other])
        row = seed_difference(*measure, values, others, looked_at, sample)
        rows.append(replace(row, digits=1 if measure[1] == "%" else 3))
    return rows
