"""A verdict by the noise of other runs: its numbers by hand, its error rate by simulation."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from momentum_gpt import compare
from momentum_gpt.comparison.by_seed import variants
from momentum_gpt.comparison.families import compare_pairs
from momentum_gpt.comparison.history import averaged
from momentum_gpt.comparison.noise import Noise, noise_of
from momentum_gpt.comparison.noise_model import NoiseModel, by_noise, load_noise_model
from momentum_gpt.comparison.paired import notes
from momentum_gpt.comparison.runs import Run, load_runs
from momentum_gpt.comparison.verdict import METRIC, verdicts
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.terminal import ignore_progress
from tests import null
from tests.comparison.report.synthetic import VANILLA, laptop, momentum, write_run
from tests.comparison.test_by_seed import run
from tests.comparison.test_verdict import pairs
from tests.conftest import Result

NULLS = [5.0, 5.2, 4.9, 5.1, 5.3]
S = float(np.std(NULLS, ddof=1))
PAIR = math.sqrt(2) * S


def model() -> NoiseModel:
    """Return the noise of five runs of one variant: four degrees of freedom."""
    runs = [run(f"n{seed}", 100 + seed, loss) for seed, loss in enumerate(NULLS)]
    return NoiseModel(noise_of(runs, METRIC), len(runs))


def verdict_of(runs: list[Run]) -> str:
    (sentence,) = verdicts(runs, compare_pairs(runs, ignore_progress, model=model()))
    return sentence


def test_a_single_pair_has_an_interval_by_the_noise_of_other_runs() -> None:
    runs = pairs([-0.9])
    first, *_ = compare_pairs(runs, ignore_progress, model=model())
    (row,) = first.differences
    half = stats.t.ppf(0.975, 4) * PAIR
    assert row.interval == pytest.approx((-0.9 - half, -0.9 + half))
    p_value = 2 * stats.t.sf(0.9 / PAIR, 4)
    assert row.p_values["noise model"] == pytest.approx(p_value)
    assert math.isnan(row.p_values["t-test"])
    assert row.p_holm == pytest.approx(p_value)
    assert first.table().title.endswith("paired by training seed, noise of 5 other runs")

    found = f"1 seed, p = {p_value:.2g} (noise of 5 other runs)"
    assert verdict_of(pairs([-0.9])).startswith("Momentum 0.5 is better than vanilla by 0.900 nats")
    assert found in verdict_of(pairs([-0.9]))


def test_more_pairs_narrow_the_interval_and_the_freedom_stays() -> None:
    gaps = np.array([-0.3, -0.5, -0.1, -0.4])
    estimate = model().estimate(gaps)
    error = PAIR / math.sqrt(4)
    assert estimate.value == pytest.approx(-0.325)
    assert estimate.margin == pytest.approx(stats.t.ppf(0.975, 4) * error)
    assert estimate.p_value == pytest.approx(2 * stats.t.sf(0.325 / error, 4))


def test_an_unresolved_verdict_says_how_many_seeds_would_do() -> None:
    runs = pairs([-0.1, -0.12])
    sentence = verdict_of(runs)
    assert sentence.startswith("Unresolved: momentum 0.5 against vanilla -0.110 nats [-0.")
    needed = int(re.search(r"; (\d+) seeds would do", sentence)[1])  # type: ignore[index]
    detectable = [model().noise.detectable(n) for n in (needed - 1, needed)]
    assert detectable[0] > 0.11 >= detectable[1]


def test_losses_stay_paired_by_students_t_beside_it() -> None:
    runs = pairs([-0.3, -0.32, -0.28])
    by_model, losses = compare_pairs(runs, ignore_progress, model=model())
    assert list(by_model.differences[0].p_values) == ["noise model", "t-test"]
    (row,) = losses.differences
    assert by_model.differences[0].p_values["t-test"] == row.p_values["t-test"]
    assert by_model.differences[0].interval != row.interval


def test_pairs_that_vary_more_than_the_noise_are_told_by_students_t() -> None:
    gaps = np.array([-2.0, 1.5, -1.8, -2.4])
    ratio = np.var(gaps, ddof=1) / PAIR**2
    p_value = stats.f.sf(ratio, 3, 4)
    assert model().transfer(gaps) == pytest.approx(p_value)
    assert p_value < 0.05

    runs = pairs(gaps.tolist())
    sentence = verdict_of(runs)
    t = stats.ttest_1samp(gaps, 0)
    assert f"4 seeds, p = {t.pvalue:.2g}; " in sentence
    assert sentence.endswith(
        f"These runs have a different noise: the difference of a pair varies by "
        f"{np.std(gaps, ddof=1):.2g}, and by the noise of 5 other runs by {PAIR:.2g} "
        f"(F-test, p = {p_value:.2g}); Student's t counts."
    )
    comparisons = compare_pairs(runs, ignore_progress, model=model())
    assert any(note.startswith("These runs have a different noise") for note in notes(comparisons))
    (row,) = comparisons[0].differences
    assert row.interval == pytest.approx(tuple(t.confidence_interval()))
    assert "noise of" not in comparisons[0].table().title


def test_pairs_that_vary_less_are_another_noise_only_if_the_noise_of_pairs_is_known() -> None:
    """Equal seeds may have something in common, which is no reason to doubt the noise of a run."""
    gaps = np.array([-0.300, -0.301, -0.299, -0.3])
    assert model().transfer(gaps) == pytest.approx(1.0, abs=1e-3)
    sentence = verdict_of(pairs(gaps.tolist()))
    assert "4 seeds, p = 0.055 (noise of 5 other runs)" in sentence
    assert sentence.endswith(
        f". Equal seeds have something in common: the difference of a pair varies by 0.00082, and "
        f"by the noise of 5 other runs by {PAIR:.2g}, as if they had not. Noise runs of two "
        "variants with the same seeds would tell how much."
    )

    measured = NoiseModel(Noise(S, 8, PAIR, 4, is_paired=True), 10)
    smaller = stats.f.cdf(np.var(gaps, ddof=1) / PAIR**2, 3, 4)
    assert measured.transfer(gaps) == pytest.approx(2 * smaller)
    first, other = variants(pairs(gaps.tolist())).values()
    one = by_noise("t", ("a", "b"), first, other, measured)
    assert one is not None
    assert one.basis == "noise of 10 other runs"  # Student's t would find too much
    assert one.remarks[0].endswith("the interval is wider than it needs to be.")
    assert by_noise("t", ("a", "b"), first, {99: other[0]}, measured) is None


SIMULATED = 2_000


@pytest.mark.parametrize("seeds", [1, 3, 6])
def test_the_error_rate_is_its_level_and_the_stated_difference_is_found(seeds: int) -> None:
    """The noise is estimated anew for each comparison, from eight runs of one variant."""
    rates = null.by_estimated_noise(np.random.default_rng(seeds), SIMULATED, seeds, others=8)
    assert rates.level == pytest.approx(0.05, abs=0.015)
    assert rates.power == pytest.approx(0.8, abs=0.03)
    assert rates.transfer == pytest.approx(0.05 if seeds > 1 else 0.0, abs=0.015)

    # Student's t, where the transfer is refused by chance, errs no more often and finds less.
    assert rates.tested_level <= rates.level + 0.005
    assert rates.power - 0.06 <= rates.tested_power <= rates.power


def test_what_equal_seeds_have_in_common_makes_the_noise_model_err_less_and_find_more() -> None:
    rng = np.random.default_rng(0)
    rates = null.by_estimated_noise(rng, SIMULATED, 3, others=8, in_common=0.7)
    assert rates.level < 0.02
    assert rates.power > 0.85
    assert rates.transfer < 0.02


def test_of_a_larger_noise_the_test_of_the_transfer_takes_most_of_the_errors() -> None:
    rates = null.by_estimated_noise(np.random.default_rng(0), SIMULATED, 6, others=8, larger=2.0)
    assert rates.level > 0.2
    assert rates.transfer > 0.4
    assert rates.tested_level < rates.level / 2


Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs, and three other runs of vanilla."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        write_run(folder, f"a{seed}", VANILLA, seed)
        write_run(folder, f"b{seed}", momentum(0.5), seed, gain=0.3)
    for seed in (5, 6, 7):
        write_run(folder, f"null_{seed}", VANILLA, seed)
    return folder


def named(folder: Path, names: str) -> list[str]:
    return [str(folder / name) for name in names.split()]


def test_the_command_says_the_noise_model_everywhere(
    folders: Path, tmp_path: Path, invoke: Invoke
) -> None:
    page = tmp_path / "report.html"
    options = (
        f"runs=[{','.join(named(folders, 'a0 b0'))}]",
        f"noise=[{','.join(named(folders, 'null_5 null_6 null_7'))}]",
        f"output={page}",
    )
    done = invoke(compare.main, *options)
    assert done.code == 0, done.err
    verdict = done.out.splitlines()[0]
    assert verdict.startswith("Momentum 0.5 is better than vanilla by 0.288 nats [")
    assert "1 seed, p = " in verdict
    assert "(noise of 3 other runs)" in verdict
    assert "takes several seeds" not in done.out
    assert "Losses of b0 against a0, paired by document" in done.out
    assert "(noise of 3 other runs)" in page.read_text()

    done = invoke(compare.main, *options, "average=3")
    assert "noise of 3 other runs, mean of the last 3 evaluations" in done.out
    assert "Documents and queries are those of the last evaluation alone." in done.out
    done = invoke(compare.main, *options, "average=50")
    assert (done.code, "has been evaluated 20 time(s)" in done.err) == (2, True)


def compared(folder: Path) -> list[Run]:
    runs, _ = load_runs(named(folder, "a0 b0 a1 b1"))
    return runs


def test_null_runs_that_are_not_like_the_compared_ones_are_refused_by_name(
    folders: Path, tmp_path: Path
) -> None:
    nulls = named(folders, "null_5 null_6 null_7")
    found, left_out = load_noise_model(nulls, compared(folders))
    assert (found.n_runs, found.noise.freedom, left_out) == (3, 2, [])

    with pytest.raises(UserError, match=r"^noise: a0 is one of the compared runs"):
        load_noise_model([*nulls, str(folders / "a0")], compared(folders))

    lr = laptop().optim.lr
    path = write_run(tmp_path, "null_8", VANILLA, 8)
    config = path / "config.yaml"
    config.write_text(config.read_text().replace(f"lr: {lr}\n", f"lr: {3 * lr}\n", 1))
    with pytest.raises(UserError, match=rf"noise: null_8 has another optim.lr .*\({3 * lr}, not"):
        load_noise_model([*nulls, str(path)], compared(folders))

    unfinished = write_run(tmp_path, "null_9", VANILLA, 9, done=200)
    found, (sentence,) = load_noise_model([*nulls, str(unfinished)], compared(folders))
    assert found.n_runs == 3
    assert "null_9" in sentence


def test_the_noise_is_that_of_the_means_that_are_compared(folders: Path) -> None:
    nulls = named(folders, "null_5 null_6 null_7")
    runs, _ = averaged(compared(folders), 3)
    found, _ = load_noise_model(nulls, runs, average=3)
    means = [np.mean(one.series(METRIC)[1][-3:]) for one in load_runs(nulls)[0]]
    assert found.noise.of_run == pytest.approx(np.std(means, ddof=1))
    single, _ = load_noise_model(nulls, compared(folders))
    assert single.noise.of_run != pytest.approx(found.noise.of_run)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "data": ({"data_sha256": "other"}, "another hash of the training tokens"),
    "tokenizer": ({"tokenizer_sha256": "other"}, "another tokenizer"),
    "steps": ({"step": 3}, "another number of steps"),
}


@pytest.mark.parametrize(("entries", "what"), CHANGES.values(), ids=CHANGES)
def test_null_runs_that_were_trained_on_something_else_are_refused(
    folders: Path, entries: dict[str, Any], what: str
) -> None:
    changed = []
    for one in compared(folders):
        assert one.manifest is not None
        changed.append(replace(one, manifest=replace(one.manifest, **entries)))
    with pytest.raises(UserError, match=f"null_5 has {what}"):
        load_noise_model(named(folders, "null_5 null_6"), changed)


def test_null_runs_that_were_measured_on_another_sample_are_refused(folders: Path) -> None:
    changed = [replace(one, means=one.final | {"val/targets": 7}) for one in compared(folders)]
    with pytest.raises(UserError, match="null_5 has another val/targets"):
        load_noise_model(named(folders, "null_5 null_6"), changed)
