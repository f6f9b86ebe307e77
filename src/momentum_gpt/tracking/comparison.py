"""A comparison of runs as W&B shows it: the verdict and the certificate with the report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any

from momentum_gpt.core.config import read_config
from momentum_gpt.tracking.copies import known_id
from momentum_gpt.tracking.dashboard import Dashboard


def log_comparison(
    runs: Sequence[Path], verdicts: Sequence[str], sentences: Sequence[str], report_path: Path
) -> str:
    """Log a comparison as a W&B run of its own, in the project of the first run.

    The same runs compared again take the place of what was logged before.

    Args:
        runs: the folders of the runs.
        verdicts: what was found, one plain sentence each.
        sentences: the certificate: what the runs share, and what speaks against comparing them.
        report_path: the report for the browser.

    Returns:
        What to tell the user about W&B.
    """
    found = {"verdicts": list(verdicts), "sentences": list(sentences)}
    return Dashboard(partial(_task, runs, found, report_path)).close()


def _task(runs: Sequence[Path], found: dict[str, Any], report_path: Path) -> dict[str, Any]:
    configs = [read_config(folder / "config.yaml") for folder in runs]
    tracking = configs[0].tracking
    shown = []
    for folder, config in zip(runs, configs, strict=True):
        variant, seed = config.variant, config.training.seed
        run = {"name": folder.name, "variant": variant, "seed": seed, "id": known_id(folder)}
        shown.append(run)

    variants = dict.fromkeys(config.variant for config in configs)
    # The same folders, in whatever order, are the same comparison.
    names = json.dumps(sorted(str(folder.resolve()) for folder in runs))
    arguments = {
        "project": tracking.project,
        "job_type": "compare",
        "name": shorten(", ".join(variants), 100),
        "id": hashlib.sha256(names.encode()).hexdigest()[:8],
        "tags": ["comparison"],
        "config": {"runs": shown},
        "dir": str(report_path.parent),
    }
    # Whoever asks for it wants it, also if the run itself was not to be shown.
    mode = "auto" if tracking.wandb == "disabled" else tracking.wandb
    files = {"report": str(report_path.resolve()), "runs": shown}
    return {"kind": "comparison", "mode": mode, "arguments": arguments} | files | found
