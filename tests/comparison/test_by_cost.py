"""Losses at equal FLOPs and at equal seconds, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from momentum_gpt.comparison.by_cost import OTHER_MACHINES, SAME_FLOPS, UNKNOWN_MACHINES, by_cost
from momentum_gpt.comparison.by_seed import variants
from momentum_gpt.comparison.families import compare_pairs
from momentum_gpt.comparison.paired import notes
from momentum_gpt.comparison.runs import Run
from momentum_gpt.core.flops import flops_per_token
from momentum_gpt.core.terminal import ignore_progress
from tests.comparison.test_by_seed import manifest, run

MACHINE = "a processor"


def timed(name: str, seed: int, losses: dict[int, float], speed: float, **more: Any) -> Run:
    """Return a run with these losses by tokens, trained at a speed, in tokens per second."""
    given = run(name, seed, 0.0, **more)
    records: list[dict[str, Any]] = []
    for tokens, loss in losses.items():
        records.append({"step": tokens, "tokens": tokens, "train/tokens_per_s": speed})
        records.append({"step": tokens, "tokens": tokens, "val/loss": loss})
    where = replace(manifest(seed), machine=MACHINE)
    model = replace(given.config.model, vocab_size=64)
    config = replace(given.config, model=model)
    return replace(given, records=records, manifest=where, config=config)


def made(speed: float = 8.0) -> list[Run]:
    """Vanilla with 10 tokens a second, 100 s in all; momentum with fewer."""
    runs = []
    for seed in (0, 1, 2):
        losses = {200: 6.0, 500: 5.0, 1000: 4.0}
        runs.append(timed(f"a{seed}", seed, losses, 10.0))
        faster = {200: 5.0, 500: 4.5, 1000: 3.5 + 0.1 * seed}
        runs.append(timed(f"b{seed}", seed, faster, speed, momentum=True))
    return runs


def test_the_slower_run_is_read_when_the_faster_one_is_done() -> None:
    """After 100 s momentum is at 800 tokens: three fifths of the way from 4.5 to its last loss."""
    (row,) = by_cost(*variants(made()).values())
    assert row.measure == "val/loss@seconds"
    assert (row.unit, row.pairs, row.sample) == ("nats/token", 3, "100 s")
    last = [3.5, 3.6, 3.7]
    at_800 = [4.5 + 0.6 * (loss - 4.5) for loss in last]
    assert row.first == 4.0
    assert row.other == pytest.approx(sum(at_800) / 3)
    assert row.difference > sum(last) / 3 - 4.0

    # The faster run of the two may be either one: now vanilla is read at 1000 x 10/20 tokens.
    (row,) = by_cost(*variants(made(speed=20.0)).values())
    assert row.sample == "50 s"
    assert row.first == 5.0
    assert row.other == pytest.approx(3.6)


def test_the_speed_before_an_evaluation_counts_for_its_tokens_alone() -> None:
    """Momentum with 5 tokens a second up to 500, then 20: 125 s; vanilla's 100 s are 500 tokens."""
    runs = made()
    for one in runs[1::2]:
        for record in one.records:
            if "train/tokens_per_s" in record:
                record["train/tokens_per_s"] = 5.0 if record["tokens"] <= 500 else 20.0
    (row,) = by_cost(*variants(runs).values())
    assert row.other == pytest.approx(4.5)

    # Without a reading after 500 tokens, the rest has the speed of the last one: 200 s.
    for one in runs[1::2]:
        del one.records[-2]
    (row,) = by_cost(*variants(runs).values())
    assert row.sample == "100 s"
    assert row.other == pytest.approx(4.5)


def test_at_equal_flops_a_larger_model_is_read_earlier() -> None:
    runs = []
    for one in made(speed=10.0):
        wide = replace(one.config.model, d_model=8) if one.name[0] == "b" else one.config.model
        runs.append(replace(one, config=replace(one.config, model=wide)))
    small, large = (flops_per_token(one.config.model) for one in runs[:2])
    assert large > small
    flops, seconds = by_cost(*variants(runs).values())
    assert (flops.measure, seconds.measure) == ("val/loss@flops", "val/loss@seconds")
    assert seconds.other == pytest.approx(3.6)

    tokens = 1000 * small / large
    assert 200 < tokens < 500
    assert flops.other == pytest.approx(5.0 - 0.5 * (tokens - 200) / 300)
    assert flops.first == 4.0


def test_as_many_tokens_are_as_many_flops_of_one_model_and_a_note_says_so() -> None:
    comparisons = compare_pairs(made(), ignore_progress)
    assert comparisons[-1].title.startswith("Losses at equal cost of momentum")
    assert [row.measure for row in comparisons[-1].differences] == ["val/loss@seconds"]
    assert comparisons[-1].differences[0].p_holm == pytest.approx(
        comparisons[-1].differences[0].p_values["t-test"]
    )
    assert SAME_FLOPS in notes(comparisons)


@pytest.mark.parametrize(
    ("changed", "remark"),
    [
        ({"machine": "another"}, OTHER_MACHINES),
        ({"world_size": 2}, OTHER_MACHINES),
        ({"machine": ""}, UNKNOWN_MACHINES),
    ],
    ids=["other machine", "more ranks", "unknown machine"],
)
def test_seconds_of_other_machines_are_left_out(changed: dict[str, Any], remark: str) -> None:
    runs = made()
    assert runs[5].manifest is not None
    runs[5] = replace(runs[5], manifest=replace(runs[5].manifest, **changed))
    assert by_cost(*variants(runs).values()) == []
    comparisons = compare_pairs(runs, ignore_progress)
    assert not any("equal cost" in comparison.title for comparison in comparisons)
    assert any(note.startswith(remark) for note in notes(comparisons))


def test_too_few_evaluations_make_no_curve() -> None:
    runs = made()
    assert by_cost(*variants(runs).values())
    del runs[1].records[:2]  # two are left
    assert by_cost(*variants(runs).values()) == []


def test_a_curve_that_begins_too_late_is_not_read() -> None:
    """Momentum's first evaluation, after 200 tokens, is at 2,000 s: vanilla is done by then."""
    assert by_cost(*variants(made(speed=0.1)).values()) == []
