"""A comparison, logged by the W&B client; this is run in the client's process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from momentum_gpt.tracking.warning import one_line
from momentum_gpt.tracking.workspace import comparison_workspace


def add_comparison(run: Any, task: dict[str, Any]) -> None:
    """Add the verdicts, the certificate and the report: to be seen, and as one artifact."""
    import wandb

    found = {key: task[key] for key in ("runs", "verdicts", "sentences")}
    artifact = wandb.Artifact(f"comparison-{run.id}", type="comparison", metadata=found)
    with artifact.new_file("verdict.json") as file:
        json.dump(found, file, indent=1)
    artifact.add_file(task["report"], name="report.html")
    run.log_artifact(artifact)

    run.summary["verdict"] = "\n".join(task["verdicts"])
    run.summary["certificate"] = "\n".join(task["sentences"])
    run.summary["report"] = wandb.Html(Path(task["report"]), inject=False)


def save_workspace(run: Any, task: dict[str, Any]) -> str:
    """Save a workspace of the compared runs, and return what to tell the user about it."""
    ids = [one["id"] for one in task["runs"] if one["id"]]
    try:
        saved = comparison_workspace(run.entity, run.project, run.name, [run.id, *ids]).save()
    except ModuleNotFoundError:
        return "for a workspace: pip install 'momentum-gpt[workspaces]'"
    except Exception as error:  # whatever it is, the comparison is there
        return f"without a workspace ({one_line(error)})"
    return f"workspace: {saved.url}"
