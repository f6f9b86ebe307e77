"""Numbers as people read them, each with its unit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from momentum_gpt.evaluation import Measured
from momentum_gpt.evaluation.tables import (
    few_shot_table,
    metrics_table,
    number,
    perplexity_table,
    report,
    unit,
)
from tests.evaluation.test_records import FEW_SHOT, PERPLEXITY


@pytest.mark.parametrize(
    ("key", "value", "text", "of_unit"),
    [
        ("val/targets", 65536, "65,536", "tokens"),
        ("val/bytes", 201234, "201,234", "bytes"),
        ("val/loss", 4.28891, "4.2889", "nats per token"),
        ("val/loss@pos16", 4.5, "4.5000", "nats per token"),
        ("val/ppl@64", 1234.5678, "1,234.568", "per token"),
        ("val/ppl@64/stride", 72.9, "72.900", "per token"),
        ("val/ppl@64", 999999.25, "999,999.250", "per token"),
        ("val/ppl@64", 1e6, "1.0e+06", "per token"),
        ("val/ppl_word", 2.5e20, "2.5e+20", "per word"),
        ("val/bpb", 2.0, "2.0000", "bits per byte"),
        ("icl/score", -0.5, "-0.5000", "nats per token"),
        ("icl/induction/loss", 6.1, "6.1000", "nats per token"),
        ("icl/induction/acc", 0.02, "0.0200", "share"),
        ("icl/sst2/acc@4", 0.5, "0.5000", "share"),
        ("eval/seconds", 1212.26, "1,212.3", "s"),
    ],
)
def test_a_metric_is_shown_as_it_is_read(key: str, value: float, text: str, of_unit: str) -> None:
    assert number(key, value) == text
    assert unit(key) == of_unit
    row = metrics_table({key: value}).splitlines()[-1]
    assert row.split(maxsplit=2) == [key, text, of_unit]


def test_a_context_length_has_its_loss_interval_and_perplexities() -> None:
    records = [PERPLEXITY, replace(PERPLEXITY, stride=16, ppl_word=2.5e20)]
    first, second = perplexity_table(records).splitlines()[-2:]
    assert first.split()[:4] == ["64", "-", "2", "2.0000"]
    assert first.split()[-3:] == ["7.389", "1.5000", "900.000"]
    assert second.split()[1] == "16"
    assert second.split()[-1] == "2.5e+20"


def test_seeds_share_a_row_and_what_was_not_measured_is_a_dash() -> None:
    seeds = [FEW_SHOT, replace(FEW_SHOT, seed=2, acc=1.0, right=[1, 1])]
    flipped = replace(FEW_SHOT, k=0, k_asked=0, accuracies={"flipped": 0.25})
    first, second = few_shot_table([*seeds, flipped]).splitlines()[-2:]
    assert first.split()[:6] == ["sst2", "4", "8", "2", "2", "0.750"]
    assert first.split()[-4:] == ["-", "-", "0.600", "0.500"]
    assert second.split()[-4:] == ["-", "0.250", "0.600", "0.500"]


def test_a_report_has_the_tables_that_there_are_records_for() -> None:
    metrics = {"val/loss": 2.0}
    assert report(Measured(metrics)) == metrics_table(metrics)
    whole = report(Measured(metrics, [PERPLEXITY], [FEW_SHOT]))
    assert perplexity_table([PERPLEXITY]) in whole
    assert few_shot_table([FEW_SHOT]) in whole
