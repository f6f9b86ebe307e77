"""A comparison, logged by the W&B client; this is run in the client's process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


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
