"""Measure a trained model again, from its checkpoint alone: no DeepSpeed, one process.

    python -m momentum_gpt.evaluate run=runs/vanilla
    python -m momentum_gpt.evaluate run=runs/vanilla evaluation.tokens=1000000 evaluation.context_lengths=[64,256]

The newest checkpoint is measured; its line is added to `evaluations/validation.jsonl`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from momentum_gpt import distributed, entry
from momentum_gpt.config import EvaluationConfig, plan_batch, read_config
from momentum_gpt.errors import UserError
from momentum_gpt.models import load_model
from momentum_gpt.models.weights import model_folder
from momentum_gpt.source import open_source


@dataclass
class EvaluateConfig:
    run: str
    """A run's folder; its newest checkpoint is measured, on the validation split of the run's data."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def evaluate_run(config: EvaluateConfig) -> None:
    """Print the metrics and add them, as a line, to `evaluations/validation.jsonl` in the run's folder."""
    run_dir = Path(config.run)
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"run={config.run!r} is not a run folder (it has no config.yaml): give one like runs/NAME")
    trained = read_config(run_dir / "config.yaml")
    checkpoint = model_folder(run_dir).parent
    model = load_model(checkpoint, distributed.local_device())
    plan = plan_batch(trained.training, trained.model.seq_len, world_size=1)
    metrics = open_source(trained, plan).evaluate(model, config.evaluation)
    path = run_dir / "evaluations" / "validation.jsonl"
    path.parent.mkdir(exist_ok=True)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    record = {"checkpoint": checkpoint.name, "step": manifest["step"], "tokens": manifest["tokens"], **metrics}
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(f"{config.run}, {checkpoint.name}: {manifest['tokens']:,} tokens trained on")
    for key, value in metrics.items():
        print(f"  {key:<20} {value:.4f}")


def main() -> None:
    entry.run(evaluate_run, EvaluateConfig, "evaluate")


if __name__ == "__main__":
    main()
