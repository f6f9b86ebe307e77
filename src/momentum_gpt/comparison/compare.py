"""The engine of the command `compare`: everything it prints, and the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from momentum_gpt.comparison.certificate import ONE_EACH, common_ground, confounds
from momentum_gpt.comparison.families import compare_pairs
from momentum_gpt.comparison.history import averaged
from momentum_gpt.comparison.noise_model import load_noise_model
from momentum_gpt.comparison.paired import notes
from momentum_gpt.comparison.published import beside_published
from momentum_gpt.comparison.report import report
from momentum_gpt.comparison.runs import Run, load_runs
from momentum_gpt.comparison.signal_to_noise import NOTE as SIGNAL_NOTE
from momentum_gpt.comparison.signal_to_noise import signal_table
from momentum_gpt.comparison.table import results_text
from momentum_gpt.comparison.variants import options_by_variant, variants_of
from momentum_gpt.comparison.verdict import verdicts
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import write_text
from momentum_gpt.core.terminal import progress_bar

Tracking = Callable[[Sequence[Path], Sequence[str], Sequence[str], Path], str]
"""`momentum_gpt.tracking.log_comparison`."""


def compare_runs(
    folders: Sequence[str],
    output: Path | None = None,
    confounded: bool = False,
    tuned: Sequence[str] = (),
    looked_at: bool = False,
    tracking: Tracking | None = None,
    published: str | None = None,
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
        published: the published results that stand beside the runs', a name in `PUBLISHED`.
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
    beside = [beside_published(runs, published)] if published else []
    write_text(path, report(runs, comparisons, sentences, found, caution, beside=beside))

    first = [caution, *found] if caution else found
    tables = [*(comparison.table() for comparison in comparisons), *beside]
    parts = ["\n".join(first), results_text(runs), *(table.as_text() for table in tables)]
    if comparisons:
        parts.append("\n".join(notes(comparisons)))
    parts += [*signal_parts(runs), ground_text(sentences), options_text(runs), f"report: {path}"]
    if tracking:
        parts.append(tracking([run.folder for run in runs], first, sentences, path))
    return "\n\n".join(parts)


def signal_parts(runs: Sequence[Run]) -> list[str]:
    """Return the table of signal to noise and what it means; [] if there is none."""
    signal = signal_table(runs)
    return [signal.as_text(), SIGNAL_NOTE] if signal else []


def ground_text(sentences: Sequence[str]) -> str:
    """Return what the runs share, one sentence a line."""
    return "\n".join(["Common ground:", *(f"  {sentence}" for sentence in sentences)])


def options_text(runs: Sequence[Run]) -> str:
    """Return the options in which runs differ, one a line: columns would be too wide."""
    of_variants = options_by_variant(runs, variants_of(runs))
    lines = [f"  {option}: {' | '.join(cells)}" for option, cells in of_variants.items()]
    return "\n".join(["Differences in the configuration:", *lines])


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
