"""The engine of the command `compare`: everything it prints, and the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from momentum_gpt.comparison.by_cost import by_cost, remarks_on_cost
from momentum_gpt.comparison.by_document import by_document
from momentum_gpt.comparison.by_query import by_query
from momentum_gpt.comparison.by_seed import (
    BY_FREQUENCY,
    BY_POSITION,
    FEW_SHOT,
    LOSSES,
    BySeed,
    by_seed,
    variants,
)
from momentum_gpt.comparison.certificate import ONE_EACH, common_ground, confounds
from momentum_gpt.comparison.history import averaged
from momentum_gpt.comparison.noise_model import NoiseModel, by_noise, load_noise_model
from momentum_gpt.comparison.paired import Comparison, PairedDifference, notes, with_holm
from momentum_gpt.comparison.report import report
from momentum_gpt.comparison.runs import (
    Run,
    config_differences,
    have_other_tokenizers,
    load_runs,
)
from momentum_gpt.comparison.signal_to_noise import NOTE as SIGNAL_NOTE
from momentum_gpt.comparison.signal_to_noise import signal_table
from momentum_gpt.comparison.table import results_text
from momentum_gpt.comparison.verdict import verdicts
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import write_text
from momentum_gpt.core.terminal import Advance, progress_bar

FAMILIES = {
    "Losses of": LOSSES,
    "Few-shot tasks,": FEW_SHOT,
    "Losses by position of": BY_POSITION,
    "Losses by token frequency of": BY_FREQUENCY,
}
"""The metrics whose p-values are adjusted together, by the beginning of their tables' titles."""

LAST_ALONE = "Documents and queries are those of the last evaluation alone."

Tracking = Callable[[Sequence[Path], Sequence[str], Sequence[str], Path], str]
"""`momentum_gpt.tracking.log_comparison`."""


def compare_runs(
    folders: Sequence[str],
    output: Path | None = None,
    confounded: bool = False,
    tuned: Sequence[str] = (),
    looked_at: bool = False,
    tracking: Tracking | None = None,
    average: int = 1,
    noise: Sequence[str] = (),
) -> str:
    """Write the report and return the text for the terminal.

    Args:
        folders: folders of two or more runs, the first of which the others are compared with.
        output: file of the report; None: `report.html` beside the first run's folder.
        confounded: whether to compare runs that differ in more than their attention, and say so
            everywhere.
        tuned: options that each variant has its own best value of.
        looked_at: whether the number of seeds was chosen by looking at the results.
        tracking: logs what was found and the report, and returns a line about it; None: nowhere.
        average: how many of the last evaluations of a run are averaged.
        noise: folders of other runs, whose spread over seeds the verdict is to rest on.

    Raises:
        UserError: the runs cannot be compared, or should not be.
    """
    runs, left_out = load_runs(folders)
    runs, means = averaged(runs, average)
    sentences = [*left_out, *means, *common_ground(runs, tuned)]
    caution = _caution(confounds(sentences), confounded)
    model = None
    if noise:
        model, not_finished = load_noise_model(noise, runs, average)
        sentences = [*not_finished, *(one for one in sentences if one != ONE_EACH)]

    # Bootstraps of many few-shot tasks take a while.
    with progress_bar("Intervals and tests", total=None) as advance:
        basis = f"mean of the last {average} evaluations" if average > 1 else ""
        comparisons = compare_pairs(runs, advance, looked_at, basis, model)
    found = verdicts(runs, comparisons)

    path = output or runs[0].folder.parent / "report.html"
    write_text(path, report(runs, comparisons, sentences, found, caution))

    first = [caution, *found] if caution else found
    tables = [comparison.table().as_text() for comparison in comparisons]
    parts = ["\n".join(first), results_text(runs), *tables]
    if comparisons:
        parts.append("\n".join(notes(comparisons)))
    signal = signal_table(runs)
    if signal:
        parts += [signal.as_text(), SIGNAL_NOTE]
    parts.append("\n".join(["Common ground:", *(f"  {sentence}" for sentence in sentences)]))

    # One line per option: with many runs, columns would be too wide for a terminal.
    options = []
    for option, values in config_differences(runs).items():
        cells = ["-" if value is None else str(value) for value in values]
        options.append(f"  {option}: {', '.join(cells)}")
    parts.append("\n".join(["Differences in the configuration:", *options]))

    parts.append(f"report: {path}")
    if tracking:
        parts.append(tracking([run.folder for run in runs], first, sentences, path))
    return "\n\n".join(parts)


def _caution(against: Sequence[str], confounded: bool) -> str | None:
    """Return what to say before all else of runs that differ in more than their attention.

    Raises:
        UserError: they do, and nobody said that they may.
    """
    if not against:
        return None
    # "NOT the same optim.lr: ..." becomes a part of a sentence.
    what = "; ".join(sentence.rstrip(".").replace("NOT ", "not ", 1) for sentence in against)
    if not confounded:
        raise UserError(
            f"the runs differ in more than their attention ({what}): train them alike, or see the "
            "numbers nevertheless with confounded=true"
        )
    return f"CONFOUNDED: {what}. A difference may come from any of these."


def compare_pairs(
    runs: Sequence[Run],
    advance: Advance,
    looked_at: bool = False,
    basis: str = "",
    model: NoiseModel | None = None,
) -> list[Comparison]:
    """Return the comparisons of each variant, or else of each run, with the first one.

    With two or more training seeds of two variants, only seeds are compared: documents and queries
    would say something about two of the runs and nothing about the variants. The p-values are
    adjusted for the number of rows of each family.

    Args:
        runs: what is compared, the baseline first.
        advance: called after each difference.
        looked_at: whether the number of seeds was chosen by looking at the results.
        basis: what the metrics of a run are, if not those of its last evaluation.
        model: the noise of other runs; None: only these runs tell how much they vary.
    """
    # A single seed tells two trained models apart, not two variants.
    families = _variants(runs, advance, looked_at, basis)
    if not any(families):
        families = _models(runs, advance, basis)
    if model:
        families.insert(0, _by_noise(runs, model, basis))
    return [comparison for family in families for comparison in with_holm(family)]


def _by_noise(runs: Sequence[Run], model: NoiseModel, basis: str) -> list[Comparison]:
    (first_name, first), *others = variants(runs).items()
    found = []
    for name, other in others:
        title = f"Loss of {name} against {first_name} by a noise model, paired by training seed"
        one = by_noise(title, (first_name, name), first, other, model)
        if one:
            found.append(replace(one, basis=", ".join(filter(None, [one.basis, basis]))))
    return found


def _variants(
    runs: Sequence[Run], advance: Advance, looked_at: bool, basis: str
) -> list[list[Comparison]]:
    """Return each variant against the first: one family of p-values for each kind of metric."""
    across_tokenizers = have_other_tokenizers(runs)
    (first_name, first), *others = variants(runs).items()

    def family(
        what: str, rows_of: Callable[[BySeed], list[PairedDifference]], basis: str = ""
    ) -> list[Comparison]:
        found = []
        for name, other in others:
            title = f"{what} {name} against {first_name}, paired by training seed"
            found.append(Comparison(title, first_name, name, rows_of(other), basis))
        return _with_rows(found)

    families = []
    for what, metrics in FAMILIES.items():
        rows_of = partial(
            by_seed,
            first,
            metrics=metrics,
            across_tokenizers=across_tokenizers,
            advance=advance,
            looked_at=looked_at,
        )
        families.append(family(what, rows_of, basis))
    if across_tokenizers:  # nats per token are other units for each
        return families

    at_equal_cost = family("Losses at equal cost of", partial(by_cost, first, looked_at=looked_at))
    of_variant = dict(others)
    families[0] = [
        replace(one, remarks=remarks_on_cost(first, of_variant[one.other])) for one in families[0]
    ]
    return [*families, at_equal_cost]


def _models(runs: Sequence[Run], advance: Advance, basis: str) -> list[list[Comparison]]:
    """Return losses and few-shot tasks of each run against the first one."""
    units = ("byte", "word") if have_other_tokenizers(runs) else ("token",)
    first = runs[0]
    remarks = [LAST_ALONE] if basis else []
    losses = []
    few_shot = []
    for other in runs[1:]:
        title = f"{other.name} against {first.name}, paired by"
        rows = by_document(first.folder, other.folder, units, advance)
        what = f"Losses of {title} document"
        losses.append(Comparison(what, first.name, other.name, rows, remarks=remarks))
        rows = by_query(first.folder, other.folder, advance)
        what = f"Few-shot tasks, {title} query"
        few_shot.append(Comparison(what, first.name, other.name, rows, remarks=remarks))
    return [_with_rows(losses), _with_rows(few_shot)]


def _with_rows(comparisons: Sequence[Comparison]) -> list[Comparison]:
    return [comparison for comparison in comparisons if comparison.differences]
