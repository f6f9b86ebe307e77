"""Numbers as people read them, each with its unit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from momentum_gpt.evaluation.records import Measured
from momentum_gpt.evaluation.tables import (
    few_shot_notes,
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
        ("icl/lambada/ppl@0", 1234.5678, "1,234.568", "per text"),
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
    assert first.split()[:6] == ["64", "-", "3", "2", "2.0000", "-"]
    assert first.split()[-3:] == ["7.389", "1.5000", "900.000"]
    assert second.split()[1] == "16"
    assert second.split()[-1] == "2.5e+20"


def test_a_metric_has_its_margin_beside_it_and_not_as_a_row() -> None:
    metrics = {"icl/sst2/acc@4": 0.5, "icl/sst2/acc_margin@4": 0.12, "val/targets": 64}
    accuracy, targets = metrics_table(metrics).splitlines()[-2:]
    assert accuracy.split() == ["icl/sst2/acc@4", "0.5000", "±", "0.1200", "share"]
    assert targets.split() == ["val/targets", "64", "tokens"]


def test_six_documents_have_an_interval() -> None:
    nats = [2.0, 2.2, 2.4, 2.6, 2.8, 3.0]
    six = replace(PERPLEXITY, document=list(range(6)), nats=nats, n_targets=[1] * 6)
    assert "[2.0000, 3.0000]" in perplexity_table([six])


def test_seeds_share_a_row_and_what_was_not_measured_is_a_dash() -> None:
    seeds = [FEW_SHOT, replace(FEW_SHOT, seed=2, acc=1.0, right=[1, 1])]
    flipped = replace(FEW_SHOT, k=0, k_asked=0, accuracies={"flipped": 0.25})
    first, second = few_shot_table([*seeds, flipped]).splitlines()[-2:]
    assert first.split()[:6] == ["sst2", "4", "8", "2", "2", "0.750"]
    assert first.split()[-4:] == ["-", "-", "0.600", "0.500"]
    assert second.split()[-4:] == ["-", "0.250", "0.600", "0.500"]


def test_each_number_that_was_asked_for_has_a_row() -> None:
    """Also where two of them became the same k."""
    more = replace(FEW_SHOT, k_asked=16)
    first, second = few_shot_table([FEW_SHOT, more]).splitlines()[-2:]
    assert first.split()[:4] == ["sst2", "4", "8", "1"]
    assert second.split()[:4] == ["sst2", "4", "16", "1"]


def test_written_answers_and_texts_to_foresee_have_columns_of_their_own() -> None:
    nothing = {"soft": None, "majority": None}
    squad = replace(FEW_SHOT, task="squad", f1=[0.5, 1.0], **nothing)
    lambada = replace(FEW_SHOT, task="lambada", ppl=2e7, majority=None)
    lines = few_shot_table([FEW_SHOT, squad, lambada]).splitlines()
    assert lines[-5].split()[-3:] == ["majority", "F1", "perplexity"]
    assert lines[-3].split()[-4:] == ["0.600", "0.500", "-", "-"]
    assert lines[-2].split()[-4:] == ["-", "-", "0.750", "-"]
    assert lines[-1].split()[-4:] == ["0.600", "-", "-", "2.0e+07"]


def test_what_is_less_than_was_asked_for_is_said() -> None:
    more = replace(FEW_SHOT, k_asked=16, seed=2, left_out=1234, rows_left_out={"test: no label": 3})
    fits = replace(FEW_SHOT, task="mr", k_asked=4)
    assert few_shot_notes([more, replace(more, k_asked=8), fits]) == [
        "sst2: k=8 and 16 became 4: no more demonstrations fit, or exist",
        "sst2: queries left out that do not fit the context: 1,234",
        "sst2: rows left out, test: no label: 3",
    ]
    assert few_shot_notes([more])[0] in report(Measured({}, [], [more]))


def test_a_report_has_the_tables_that_there_are_records_for() -> None:
    metrics = {"val/loss": 2.0}
    assert report(Measured(metrics)) == metrics_table(metrics)
    whole = report(Measured(metrics, [PERPLEXITY], [FEW_SHOT]))
    tables = [metrics_table(metrics), perplexity_table([PERPLEXITY]), few_shot_table([FEW_SHOT])]
    assert whole.split("\n\n")[:2] == tables[:2]
    assert whole.startswith("\n\n".join(tables))
