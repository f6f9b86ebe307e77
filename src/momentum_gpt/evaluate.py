"""Measure a trained model again, from its checkpoint alone: no DeepSpeed, one process.

    python -m momentum_gpt.evaluate run=runs/vanilla
    python -m momentum_gpt.evaluate run=runs/vanilla evaluation.tokens=1000000 evaluation.context_lengths=[64,256]
    python -m momentum_gpt.evaluate run=/models/gpt2 data=data/mine

    python -m momentum_gpt.evaluate run=runs/vanilla evaluation.icl.tasks=[sst2,agnews] evaluation.icl.data=DIR checkpoints=all

Of a run, lines are added to `evaluations/validation.jsonl` and, for each (task, k, seed), to `evaluations/icl.jsonl`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from momentum_gpt import distributed, entry
from momentum_gpt.config import EvaluationConfig, plan_batch, read_config, require
from momentum_gpt.data import TokenShards
from momentum_gpt.errors import UserError
from momentum_gpt.evaluation import evaluate
from momentum_gpt.models import GPT, load_model
from momentum_gpt.models.weights import model_folder
from momentum_gpt.source import open_source

TOKENS_PER_FORWARD = 16384
"""Where no run says how many fit."""


@dataclass
class EvaluateConfig:
    run: str
    """A run, whose checkpoints are measured; or the folder of a model, ours or a GPT-2 or XGLM of `transformers`."""
    checkpoints: str = "latest"
    """latest | all: those of the run that are still on disk."""
    data: str | None = None
    """Token shards, whose validation split is measured. null: the run's own."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        require(self.checkpoints in ("latest", "all"), "checkpoints", self.checkpoints, "one of latest, all")


def evaluate_run(config: EvaluateConfig) -> None:
    """Print the metrics; of a run on its own data, add them to `evaluations/` in its folder."""
    run_dir = Path(config.run)
    is_run = (run_dir / "config.yaml").is_file()
    if not is_run and config.data is None:
        raise UserError(
            f"run={config.run!r} is not a run folder (it has no config.yaml): give one like runs/NAME, or a model with data=DIR"
        )
    for folder in folders(run_dir, config.checkpoints):
        model = load_model(folder, distributed.local_device())
        config.evaluation.check(model.config.seq_len)
        measure = evaluate_on if config.data else evaluate_as_trained
        metrics, records = measure(model, config)
        print(f"{config.run}, {folder.parent.name if is_run else folder.name}{f', on {config.data}' if config.data else ''}")
        for key, value in metrics.items():
            print(f"  {key:<24} {value:.4f}")
        if is_run and not config.data:
            record(run_dir, folder.parent, metrics, records)


def folders(run_dir: Path, checkpoints: str) -> list[Path]:
    """The model folders to measure, the oldest first."""
    if checkpoints == "latest":
        return [model_folder(run_dir)]
    found = sorted((run_dir / "checkpoints").glob("step_*/model"))
    if not found:
        raise UserError(f"checkpoints=all: {run_dir} has no checkpoints")
    return found


Measured = tuple[dict[str, float], list[dict[str, Any]]]


def evaluate_on(model: GPT, config: EvaluateConfig) -> Measured:
    """The metrics of any model on the validation split of token shards."""
    assert config.data is not None
    shards, known = TokenShards(config.data, "validation"), model.config.vocab_size
    if known is not None and known < shards.tokenizer.vocab_size:
        raise UserError(
            f"data={config.data!r} has {shards.tokenizer.vocab_size} tokens, but the model knows {known}: prepare the data "
            "with the model's tokenizer"
        )
    tokens_per_forward = max(TOKENS_PER_FORWARD, model.config.seq_len)
    return evaluate(model, shards, config.evaluation, model.config.seq_len, tokens_per_forward)


def evaluate_as_trained(model: GPT, config: EvaluateConfig) -> Measured:
    """The metrics of a run's model on what the run was measured on."""
    trained = read_config(Path(config.run) / "config.yaml")
    plan = plan_batch(trained.training, trained.model.seq_len, world_size=1)
    return open_source(trained, plan).evaluate(model, config.evaluation)


def record(run_dir: Path, checkpoint: Path, metrics: dict[str, float], records: list[dict[str, Any]]) -> None:
    """A line of `validation.jsonl`, and one of `icl.jsonl` for each (task, k, seed)."""
    folder = run_dir / "evaluations"
    folder.mkdir(exist_ok=True)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    where = {"checkpoint": checkpoint.name, "step": manifest["step"], "tokens": manifest["tokens"]}
    for name, lines in (("validation", [metrics]), ("icl", records)):
        if lines:
            with (folder / f"{name}.jsonl").open("a") as file:
                file.writelines(json.dumps({**where, **line}) + "\n" for line in lines)


def main() -> None:
    entry.run(evaluate_run, EvaluateConfig, "evaluate")


if __name__ == "__main__":
    main()
