"""The averages that the paper prints: a number typed wrongly would change one."""

from __future__ import annotations

import pytest

from momentum_gpt.analysis.protocols import (
    BEFORE,
    KENDALL,
    REC2FTP,
    SIMAM_RAW,
    SIMAOU_NORMALISED,
    UNIFORM,
    against,
)
from momentum_gpt.analysis.published import TASKS, published

AVERAGES = [
    ("1.3B", REC2FTP, 85.56),
    ("2.7B", REC2FTP, 89.39),
    ("1.3B", against(SIMAOU_NORMALISED, UNIFORM), 0.002),
    ("1.3B", SIMAOU_NORMALISED, 0.186),
    ("2.7B", against(SIMAOU_NORMALISED, UNIFORM), -0.001),
    ("2.7B", SIMAOU_NORMALISED, 0.225),
    ("1.3B", against(SIMAM_RAW, BEFORE), 0.338),
    ("1.3B", SIMAM_RAW, 0.442),
    ("2.7B", against(SIMAM_RAW, BEFORE), 0.355),
    ("2.7B", SIMAM_RAW, 0.434),
    ("1.3B", against(KENDALL, UNIFORM), 0.000),
    ("1.3B", KENDALL, 0.193),
    ("2.7B", against(KENDALL, UNIFORM), 0.000),
    ("2.7B", KENDALL, 0.214),
]


@pytest.mark.parametrize(("model", "name", "average"), AVERAGES)
def test_the_averages_are_the_paper_s(model: str, name: str, average: float) -> None:
    values = [published(model, name, task) for task in TASKS]
    assert len(values) == 6
    mean = sum(value for value in values if value is not None) / 6
    assert mean == pytest.approx(average, abs=0.0006 if average < 1 else 0.006)


def test_accuracies_are_shares_of_the_paper_s_queries() -> None:
    """Each percentage is a number of right answers, out of as many queries as the paper has."""
    queries = {"sst2": 872, "sst5": 1101, "mr": 1066, "subj": 2000, "cb": 56}
    for model in ("1.3B", "2.7B"):
        for setting in ("zero-shot", "finetuned", "ICL"):
            for task, n in queries.items():
                value = published(model, f"accuracy, {setting}", task)
                assert value is not None
                assert abs(round(value / 100 * n) / n * 100 - value) < 0.0501


def test_what_the_paper_does_not_have() -> None:
    assert published("1.3B", "SimAOU", "sst2") is None
    assert published("1.3B", REC2FTP, "imdb") is None
    assert published("1.3B", REC2FTP, "agnews_paper") == 83.08
