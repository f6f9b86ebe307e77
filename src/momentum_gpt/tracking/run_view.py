"""A run as W&B shows it.

The W&B run has the id of the run and its whole history, also after a resume and after `evaluate`:
it takes the place of the one before, on the server and in the folder `runs/NAME/wandb/`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from momentum_gpt.core import ownership
from momentum_gpt.core.config import TrainConfig
from momentum_gpt.core.files import read_json, read_json_lines, write_json
from momentum_gpt.tracking.copies import is_whole, newest_copy, run_id
from momentum_gpt.tracking.dashboard import Dashboard
from momentum_gpt.tracking.evaluated import measured_afterwards


def begin_view(
    config: TrainConfig, records: Iterable[dict[str, Any]], facts: dict[str, Any] | None
) -> Dashboard:
    """Show a run that is about to be trained.

    Args:
        records: those of earlier attempts.
        facts: what is known of the run beside its options; kept for when it is shown again.
    """
    dashboard = Dashboard(partial(training_task, config, facts or {}))
    for record in records:
        dashboard.put(record)
    return dashboard


def show_again(config: TrainConfig) -> str | None:
    """Make the W&B run of a complete run again from its files, if it lacks something.

    Returns:
        What to tell the user about W&B; None if nothing is missing.
    """
    if config.tracking.wandb == "disabled":
        return None
    n_rows = len(records_of(config.run_dir)) + len(measured_afterwards(config.run_dir))
    copy = newest_copy(config.run_dir)
    if copy and is_whole(copy, n_rows):
        return None
    return _show_all(config, "the same command")


def show_evaluated(
    config: TrainConfig, again: str = "the same command with again=true"
) -> str | None:
    """Show what `evaluate` and `analyze` have measured of a run in the W&B run of its training.

    Args:
        config: of the run.
        again: the command that shows it again, if W&B stops.

    Returns:
        What to tell the user about W&B.
    """
    if config.tracking.wandb == "disabled":
        return None
    if _is_in_training(config.run_dir):
        return "W&B gets this at the end of the run, which is still being trained"
    return _show_all(config, again)


def training_task(config: TrainConfig, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what the client does with a run in training; the facts are kept."""
    write_json(_facts_file(config.run_dir), facts)
    return _task(config, facts) | {"is_in_training": True}


def records_of(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of the run's `metrics.jsonl`."""
    return read_json_lines(run_dir / "metrics.jsonl")


def _show_all(config: TrainConfig, again: str) -> str:
    dashboard = Dashboard(partial(_task, config, _read_facts(config.run_dir)), again)
    for record in records_of(config.run_dir):
        dashboard.put(record)
    return dashboard.close()


def _is_in_training(run_dir: Path) -> bool:
    try:
        return ownership.holder(run_dir) is not None
    except OSError:  # nobody can know
        return False


def _task(config: TrainConfig, facts: dict[str, Any]) -> dict[str, Any]:
    tracking = config.tracking
    arguments = {
        "project": tracking.project,
        "group": tracking.group or config.variant,
        "job_type": "train",
        "name": config.name,
        "id": run_id(config.run_dir),
        "tags": [config.attention["name"], *tracking.tags],
        "config": asdict(config) | {"facts": facts},
        "dir": str(config.run_dir),
    }
    run_dir = str(config.run_dir)
    return {"kind": "run", "mode": tracking.wandb, "arguments": arguments, "run_dir": run_dir}


def _read_facts(run_dir: Path) -> dict[str, Any]:
    try:
        facts = read_json(_facts_file(run_dir))
    except (OSError, ValueError):  # a run without them can be shown, too
        return {}
    return facts if isinstance(facts, dict) else {}


def _facts_file(run_dir: Path) -> Path:
    return run_dir / "wandb" / "facts.json"
