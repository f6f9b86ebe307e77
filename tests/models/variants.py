"""Options of every attention variant, for tests: those of its YAML file, and further cases."""

from __future__ import annotations

from typing import Any

import yaml

from momentum_gpt.core.files import conf_folder
from momentum_gpt.models import ATTENTIONS

Options = dict[str, Any]


def from_yaml(name: str) -> Options:
    """Return what the YAML file of a variant says."""
    return yaml.safe_load((conf_folder() / "attention" / f"{name}.yaml").read_text())


FROM_YAML: dict[str, Options] = {name: from_yaml(name) for name in ATTENTIONS}

LEARNED: dict[str, Options] = {
    "momentum_learned": {
        "name": "momentum",
        "ema_decay": [[0.2, 0.9]],
        "learned": True,
        "include_current": True,
    },
    "linear_momentum_learned": {"name": "linear_momentum", "ema_decay": 0.5, "learned": True},
}
"""Further cases, for models of 2 heads."""

ALL: dict[str, Options] = FROM_YAML | LEARNED
