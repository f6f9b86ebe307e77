"""What the paper reports of in-context learning and finetuning: its tables 1 to 5.

Dai et al. (arXiv 2212.10559, 2023), GPT with 1.3B and 2.7B parameters. The names of measures and
nulls are those of `protocols.py`.
"""

from __future__ import annotations

from momentum_gpt.analysis.protocols import (
    BEFORE,
    FINETUNED,
    KENDALL,
    REC2FTP,
    SIMAM_RAW,
    SIMAOU_NORMALISED,
    UNIFORM,
    against,
)
from momentum_gpt.evaluation.finding import ICL, ZERO_SHOT

TASKS = ("sst2", "sst5", "mr", "subj", "agnews", "cb")

MODELS = ("1.3B", "2.7B")

_TABLES: dict[str, dict[str, tuple[float, ...]]] = {
    "1.3B": {
        ZERO_SHOT: (70.5, 39.3, 65.9, 72.6, 46.3, 37.5),
        FINETUNED: (73.9, 39.5, 73.0, 77.8, 65.3, 55.4),
        ICL: (92.7, 45.0, 89.0, 90.0, 79.2, 57.1),
        REC2FTP: (91.84, 66.67, 97.08, 87.17, 83.08, 87.50),
        against(SIMAOU_NORMALISED, UNIFORM): (0.002, 0.003, 0.001, 0.002, 0.002, 0.003),
        SIMAOU_NORMALISED: (0.110, 0.080, 0.222, 0.191, 0.281, 0.234),
        against(SIMAM_RAW, BEFORE): (0.555, 0.391, 0.398, 0.378, 0.152, 0.152),
        SIMAM_RAW: (0.585, 0.404, 0.498, 0.490, 0.496, 0.177),
        against(KENDALL, UNIFORM): (0.000, -0.001, 0.000, 0.001, -0.001, 0.000),
        KENDALL: (0.192, 0.151, 0.173, 0.181, 0.190, 0.274),
    },
    "2.7B": {
        ZERO_SHOT: (71.4, 35.9, 60.9, 75.2, 39.8, 42.9),
        FINETUNED: (76.9, 39.1, 80.0, 86.1, 65.7, 57.1),
        ICL: (95.0, 46.5, 91.3, 90.3, 80.3, 55.4),
        REC2FTP: (96.83, 71.60, 95.83, 87.63, 84.44, 100.00),
        against(SIMAOU_NORMALISED, UNIFORM): (0.000, -0.002, 0.000, 0.001, -0.002, 0.000),
        SIMAOU_NORMALISED: (0.195, 0.323, 0.157, 0.212, 0.333, 0.130),
        against(SIMAM_RAW, BEFORE): (0.687, 0.380, 0.314, 0.346, 0.172, 0.228),
        SIMAM_RAW: (0.687, 0.492, 0.347, 0.374, 0.485, 0.217),
        against(KENDALL, UNIFORM): (-0.001, 0.000, 0.000, 0.000, 0.000, -0.001),
        KENDALL: (0.213, 0.177, 0.264, 0.203, 0.201, 0.225),
    },
}
"""Model -> measure, or measure and null -> value by task, in the order of `TASKS`."""


def published(model: str, measure: str, task: str) -> float | None:
    """Return what the paper reports; None where it reports nothing.

    Args:
        model: one of `MODELS`.
        measure: its name, or that of `against`. Accuracies and Rec2FTP are in percent.
        task: a name such as "sst2". One that ends in "_paper", which asks as the paper does, is the
            same task.
    """
    name = task.removesuffix("_paper")
    values = _TABLES[model].get(measure)
    return values[TASKS.index(name)] if values and name in TASKS else None
