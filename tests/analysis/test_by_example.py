"""Results query by query."""

from __future__ import annotations

import pytest
import torch

from momentum_gpt.analysis.by_example import records_of
from momentum_gpt.analysis.protocols import FINETUNED, KENDALL, SIMAOU, against
from momentum_gpt.analysis.tables import csv_text
from momentum_gpt.analysis.units import Measured
from momentum_gpt.evaluation.finding import ICL, ZERO_SHOT

NAN = float("nan")

MEASURES = {
    ZERO_SHOT: torch.tensor([False, True]),
    ICL: torch.tensor([True, True]),
    FINETUNED: torch.tensor([False, False]),
    SIMAOU: torch.tensor([[0.25, 0.75], [NAN, NAN]]),  # two layers
    against(SIMAOU, "noise"): torch.tensor([[0.0, 0.0], [0.0, 0.0]]),
    KENDALL: torch.tensor([[[0.5, -0.25]]]),  # of the first query alone; one layer of two heads
}


def test_a_record_for_each_query_of_each_draw() -> None:
    other = MEASURES | {SIMAOU: MEASURES[SIMAOU] + 1}
    draws = [Measured(one, {"queries": [7, 3]}) for one in (MEASURES, other)]
    records = list(records_of(draws, "sst2", "backprop", "vanilla", 640))
    assert [(one["draw"], one["query"]) for one in records] == [(0, 3), (0, 7), (1, 3), (1, 7)]
    assert records[1] == {
        "task": "sst2",
        "variant": "vanilla",
        "tokens": 640,
        "finetuning": "backprop",
        "draw": 0,
        "query": 7,
        "right_zero_shot": 0,
        "right_icl": 1,
        "right_finetuned": 0,
        SIMAOU: 0.5,
        KENDALL: 0.125,
    }
    assert (records[0]["right_zero_shot"], records[0][SIMAOU], records[0][KENDALL]) == (
        1,
        None,
        None,
    )
    assert records[3][SIMAOU] == pytest.approx(1.5)


def test_a_model_may_lack_a_column() -> None:
    assert csv_text([{"a": 1}, {"a": 2, "b": None}, {"b": 3}]) == "a,b\n1,\n2,\n,3\n"
