"""The variants among runs, and their names."""

from __future__ import annotations

from dataclasses import replace

from momentum_gpt.comparison.runs import Run
from momentum_gpt.comparison.table import results_text
from momentum_gpt.comparison.variants import options_by_variant, variants_of
from tests.comparison.test_by_seed import MOMENTUM, run, with_lr, with_training


def with_attention(given: Run, **options: object) -> Run:
    """Return the run with other options of momentum attention."""
    return replace(given, config=replace(given.config, attention=MOMENTUM | options))


def test_runs_that_differ_in_their_seed_are_one_variant_with_a_short_name() -> None:
    runs = [run(f"v{seed}", seed, 5.0) for seed in (0, 1)]
    for decay in (0.3, 0.9):
        runs += [with_attention(run("m", seed, 5.0), ema_decay=decay) for seed in (0, 1)]
    variants = variants_of(runs)
    assert [one.name for one in variants] == ["vanilla", "momentum 0.3", "momentum 0.9"]
    assert [one.runs for one in variants] == [[0, 1], [2, 3], [4, 5]]
    assert [one.decay for one in variants] == [0.0, 0.3, 0.9]
    assert [one.family for one in variants] == ["vanilla", "momentum", "momentum"]
    assert options_by_variant(runs, variants)["attention.ema_decay"] == ["-", "0.3", "0.9"]


def test_a_name_has_what_tells_runs_of_one_attention_apart() -> None:
    plain = run("a", 0, 5.0, True)
    learned = with_attention(run("b", 0, 5.0), learned=True)
    faster = with_lr(run("c", 0, 5.0, True), 3e-3)
    names = [one.name for one in variants_of([plain, learned, faster])]
    assert names == [
        "momentum 0.5, lr 0.001, min_lr 0.0001",
        "momentum 0.5, learned, lr 0.001, min_lr 0.0001",
        "momentum 0.5, lr 0.003, min_lr 0.0003",
    ]


def test_a_learning_rate_of_its_own_is_not_in_the_name_of_a_variant() -> None:
    runs = [
        run("a0", 0, 5.0),
        run("a1", 1, 5.0),
        with_lr(run("b0", 0, 5.0, True), 2e-3),
        with_lr(run("b1", 1, 5.0, True), 2e-3),
    ]
    assert [one.name for one in variants_of(runs)] == ["vanilla", "momentum 0.5"]


def test_variants_that_differ_in_what_is_off_have_the_names_of_their_runs() -> None:
    first = with_training(run("a", 0, 5.0), compile=False)
    other = with_attention(run("b", 0, 5.0), learned=False)
    third = with_attention(run("c", 0, 5.0), learned=None)
    names = [one.name for one in variants_of([first, other, third])]
    assert names == ["vanilla", "momentum 0.5 (b)", "momentum 0.5 (c)"]


def test_of_several_seeds_the_terminal_shows_the_means() -> None:
    runs = [run("a0", 0, 5.0), run("a1", 1, 5.2), run("b0", 0, 4.0, True), run("b1", 1, 4.6, True)]
    lines = results_text(runs).splitlines()
    assert lines[0].split()[:2] == ["variant", "(runs)"]
    rows = {line.strip().split("  ")[0]: line.split() for line in lines}
    assert "5.1000" in rows["vanilla (2)"]
    assert "4.3000" in rows["momentum 0.5 (2)"]
    assert "-0.8000" in rows["- vanilla (2)"]
    assert "a0" not in results_text(runs)
