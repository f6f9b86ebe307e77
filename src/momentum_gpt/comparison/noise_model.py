"""A verdict by the noise of other runs, which differ from one another in their seed alone.

Student's t learns the spread of the pairs from the pairs themselves, and so can say little of two
or three of them, and nothing of one. The spread of other runs is known better. It holds for the
runs that are compared only if theirs is the same, which is tested where there are two pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from momentum_gpt.comparison.by_seed import BySeed, unit_of, variants
from momentum_gpt.comparison.history import averaged
from momentum_gpt.comparison.noise import Noise, noise_of
from momentum_gpt.comparison.paired import Comparison, PairedDifference
from momentum_gpt.comparison.runs import Run, config_differences, have_other_tokenizers, load_runs
from momentum_gpt.comparison.verdict import METRIC, NOISE_MODEL, p_text
from momentum_gpt.core.errors import UserError
from momentum_gpt.evaluation.statistics import LEVEL, Estimate, by_known_spread, over_seeds

TRAINED_ON = {
    "data_sha256": "hash of the training tokens",
    "tokenizer_sha256": "tokenizer",
    "step": "number of steps",
}
"""Entries of the manifests that must be those of the runs that are compared, and their names."""


@dataclass(frozen=True)
class NoiseModel:
    """How much the difference of a pair varies, from runs that are not compared."""

    noise: Noise
    n_runs: int
    """Runs that the noise was measured on."""

    def __str__(self) -> str:
        return f"noise of {self.n_runs} other runs"

    def estimate(self, gaps: np.ndarray) -> Estimate:
        """Return the estimate of the mean of pairs' differences, (pairs,): one or more.

        The interval is mean ± t s / sqrt(pairs), with the standard deviation s of a pair that the
        noise has, and Student's t at its degrees of freedom. Where no pairs of other runs have
        shown how much equal seeds have in common, s is sqrt(2) times that of a run: the interval is
        wider than it needs to be if they do have something in common.
        """
        return by_known_spread(gaps, self.noise.of_pair, self.noise.pair_freedom)

    def transfer(self, gaps: np.ndarray) -> float | None:
        """Return the p-value of the hypothesis that these pairs vary as the noise does.

        It is that of the F-test, which takes the noise as normal. If s is sqrt(2) times that of a
        run, pairs that vary less are no other noise, as equal seeds may have something in common:
        the test is then against more variation alone.

        Returns:
            None of a single pair.
        """
        if len(gaps) < 2:
            return None
        ratio = self.ratio(gaps)
        larger = float(stats.f.sf(ratio, len(gaps) - 1, self.noise.pair_freedom))
        return min(1.0, 2 * min(larger, 1 - larger)) if self.noise.is_paired else larger

    def ratio(self, gaps: np.ndarray) -> float:
        """Return the variance of the pairs over that of the noise; infinite if it has none."""
        known = self.noise.of_pair**2
        return float(np.var(gaps, ddof=1)) / known if known else math.inf


def load_noise_model(
    folders: Sequence[str], runs: Sequence[Run], average: int = 1
) -> tuple[NoiseModel, list[str]]:
    """Return the noise model of other runs, and a sentence on each that is not finished.

    Args:
        folders: folders of finished runs: several seeds of one variant, or of several.
        runs: the runs that are compared, with the means that are compared.
        average: how many of the last evaluations of a run are averaged.

    Raises:
        UserError: they are among the compared ones, are not several seeds of a variant, or differ
            from the compared ones in more than their attention and seed.
    """
    try:
        others, left_out = load_runs(folders)
        # Where the compared runs have been measured afterwards, these have been as well.
        if not any(run.afterwards for run in runs):
            others = [replace(run, afterwards={}) for run in others]
        others, _ = averaged(others, average)
        _refuse_what_differs(others, runs)
        noise = noise_of(others, METRIC)
    except UserError as error:
        raise UserError(f"noise: {error}") from None
    several = [one for one in variants(others).values() if len(one) > 1]
    return NoiseModel(noise, sum(map(len, several))), left_out


def by_noise(
    title: str, names: tuple[str, str], first: BySeed, other: BySeed, model: NoiseModel
) -> Comparison | None:
    """Return the difference of two variants by a noise model; None without a common seed.

    If the pairs vary more than the noise does, it is not theirs and Student's t counts. If they
    vary less, the noise model stays: to take Student's t just where a spread has come out small
    would find too much.

    Args:
        title: of the table.
        names: of the first variant and the other one.
        first: the runs of the variant that the other is compared with.
        other: the runs of the other variant.
        model: of other runs.
    """
    seeds = sorted(first.keys() & other.keys())
    if not seeds:
        return None
    of_first = np.array([first[seed].final[METRIC] for seed in seeds])
    of_other = np.array([other[seed].final[METRIC] for seed in seeds])
    gaps = of_other - of_first

    transfer = model.transfer(gaps)
    is_other = transfer is not None and transfer < LEVEL
    t_counts = is_other and model.ratio(gaps) > 1
    by_model, by_t = model.estimate(gaps), over_seeds(gaps)
    p_values = {
        NOISE_MODEL: by_model.p_value,
        "t-test": by_t.p_value if len(gaps) > 1 else math.nan,
    }
    estimate = by_t if t_counts else by_model
    row = PairedDifference(
        measure=METRIC,
        unit=unit_of(METRIC),
        paired_by="training seed",
        pairs=len(gaps),
        first=float(of_first.mean()),
        other=float(of_other.mean()),
        interval=estimate.interval,
        detectable=estimate.detectable,
        p_values=dict(reversed(p_values.items())) if t_counts else p_values,
    )
    remarks = _remarks(gaps, model, transfer)
    return Comparison(title, *names, [row], "" if t_counts else str(model), remarks)


def _remarks(gaps: np.ndarray, model: NoiseModel, transfer: float | None) -> list[str]:
    """Return a sentence if these pairs vary otherwise than the noise does."""
    if transfer is None:
        return []
    spreads = (
        f"the difference of a pair varies by {np.std(gaps, ddof=1):.2g}, and by the {model} by "
        f"{model.noise.of_pair:.2g}"
    )
    if transfer < LEVEL:
        then = "the interval is wider than it needs to be"
        if model.ratio(gaps) > 1:
            then = "Student's t counts"
        what = f"{spreads} (F-test, {p_text(transfer)})"
        return [f"These runs have a different noise: {what}; {then}."]
    if 1 - transfer < LEVEL and not model.noise.is_paired:
        common = f"Equal seeds have something in common: {spreads}, as if they had not."
        return [f"{common} Noise runs of two variants with the same seeds would tell how much."]
    return []


def _refuse_what_differs(others: Sequence[Run], runs: Sequence[Run]) -> None:
    """Raise a UserError unless other runs are what the compared ones are, but for their seeds.

    Variants of the compared runs may have their own values of an option: one of these will do.
    """
    if have_other_tokenizers(runs):
        raise UserError(f"the compared runs have different tokenizers, so that {METRIC} is no unit")
    compared = {run.folder.resolve() for run in runs}
    for run in others:
        if run.folder.resolve() in compared:
            raise UserError(f"{run.name} is one of the compared runs: give others")

    measured = all(run.afterwards for run in runs)
    for option, values in config_differences([*runs, *others]).items():
        section = option.partition(".")[0]
        is_free = section == "attention" or option == "training.seed"
        if not is_free and not (section == "evaluation" and measured):
            _refuse(option, values[: len(runs)], others, values[len(runs) :])

    for entry, what in TRAINED_ON.items():
        known = [_entry(run, entry) for run in runs]
        _refuse(what, known, others, [_entry(run, entry) for run in others])
    targets = "val/targets"
    of_others = [run.final.get(targets) for run in others]
    _refuse(targets, [run.final.get(targets) for run in runs], others, of_others)


def _entry(run: Run, name: str) -> Any:
    return getattr(run.manifest, name) if run.manifest else "unknown"


def _refuse(what: str, known: list[Any], others: Sequence[Run], values: list[Any]) -> None:
    for run, value in zip(others, values, strict=True):
        if value not in known:
            raise UserError(
                f"{run.name} has another {what} than the compared runs ({str(value)[:12]}, not "
                f"{str(known[0])[:12]}): give runs that differ in attention and seed alone"
            )
