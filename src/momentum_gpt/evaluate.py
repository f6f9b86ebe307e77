"""Measure a trained model again, from its checkpoint alone: no DeepSpeed, one process.

    python -m momentum_gpt.evaluate run=runs/vanilla
    python -m momentum_gpt.evaluate run=runs/vanilla evaluation.tokens=1000000 evaluation.context_lengths=[64,256]
    python -m momentum_gpt.evaluate run=/models/gpt2 data=data/mine

Of a run, the newest checkpoint is measured; its line is added to `evaluations/validation.jsonl`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from momentum_gpt import distributed, entry
from momentum_gpt.config import EvaluationConfig, plan_batch, read_config
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
    """A run, whose newest checkpoint is measured; or the folder of a model, ours or a GPT-2 or XGLM of `transformers`."""
    data: str | None = None
    """Token shards, whose validation split is measured. null: the run's own."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def evaluate_run(config: EvaluateConfig) -> None:
    """Print the metrics; of a run on its own data, add them to `evaluations/validation.jsonl` in its folder."""
    run_dir = Path(config.run)
    is_run = (run_dir / "config.yaml").is_file()
    if not is_run and config.data is None:
        raise UserError(
            f"run={config.run!r} is not a run folder (it has no config.yaml): give one like runs/NAME, or a model with data=DIR"
        )
    folder = model_folder(run_dir)
    model = load_model(folder, distributed.local_device())
    config.evaluation.check(model.config.seq_len)
    metrics = evaluate_on(model, config.data, config.evaluation) if config.data else evaluate_as_trained(model, config)
    print(f"{config.run}, {folder.parent.name if is_run else folder.name}{f', on {config.data}' if config.data else ''}")
    for key, value in metrics.items():
        print(f"  {key:<20} {value:.4f}")
    if is_run and not config.data:
        record(run_dir, folder.parent, metrics)


def evaluate_on(model: GPT, data: str, evaluation: EvaluationConfig) -> dict[str, float]:
    """The metrics of any model on the validation split of token shards."""
    shards, known = TokenShards(data, "validation"), model.config.vocab_size
    if known is not None and known < shards.tokenizer.vocab_size:
        raise UserError(
            f"data={data!r} has {shards.tokenizer.vocab_size} tokens, but the model knows {known}: prepare the data with the "
            "model's tokenizer"
        )
    return evaluate(model, shards, evaluation, model.config.seq_len, max(TOKENS_PER_FORWARD, model.config.seq_len))


def evaluate_as_trained(model: GPT, config: EvaluateConfig) -> dict[str, float]:
    """The metrics of a run's model on what the run was measured on."""
    trained = read_config(Path(config.run) / "config.yaml")
    plan = plan_batch(trained.training, trained.model.seq_len, world_size=1)
    return open_source(trained, plan).evaluate(model, config.evaluation)


def record(run_dir: Path, checkpoint: Path, metrics: dict[str, float]) -> None:
    path = run_dir / "evaluations" / "validation.jsonl"
    path.parent.mkdir(exist_ok=True)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    line = {"checkpoint": checkpoint.name, "step": manifest["step"], "tokens": manifest["tokens"], **metrics}
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def main() -> None:
    entry.run(evaluate_run, EvaluateConfig, "evaluate")


if __name__ == "__main__":
    main()
