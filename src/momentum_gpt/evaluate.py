"""Measure a trained model again, from its checkpoint alone: no DeepSpeed, one process.

    python -m momentum_gpt.evaluate run=runs/vanilla
    python -m momentum_gpt.evaluate run=runs/vanilla evaluation.tokens=1000000 evaluation.context_lengths=[64,256]
    python -m momentum_gpt.evaluate run=runs/vanilla evaluation.icl.tasks=[sst2,agnews] evaluation.icl.data=DIR checkpoints=all
    python -m momentum_gpt.evaluate run=/models/gpt2 data=data/mine
    python -m momentum_gpt.evaluate run=/models/gpt2 text=novel.txt
    python -m momentum_gpt.evaluate run=/models/gpt2 text=Salesforce/wikitext text.config=wikitext-103-raw-v1 text.split=test

Of a run, lines are added to `evaluations/`: `validation.jsonl` the metrics, `perplexity.jsonl` one for each context length with
the nats of each document, `icl.jsonl` one for each few-shot (task, k, seed). W&B gets the metrics on the same token axis.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from momentum_gpt.cli import Command
from momentum_gpt.core import distributed
from momentum_gpt.core.config import EvaluationConfig, TrainConfig, read_config, require
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import Texts, TokenShards, load_tokenizer, open_validation, read_texts
from momentum_gpt.evaluation import Measured, evaluate, keep_records
from momentum_gpt.evaluation.tables import few_shot_table, perplexity_table
from momentum_gpt.evaluation.targets import TOKENS, Stream
from momentum_gpt.models import GPT, load_model
from momentum_gpt.models.weights import model_folder
from momentum_gpt.tracking import show_afterwards

TOKENS_PER_FORWARD = 16384
"""Where no run says how many fit."""


@dataclass
class TextConfig:
    source: str | None = None
    """Files, a folder or a glob (.txt a document each, .jsonl, .json, .parquet, plain or .gz), or a set's name on the hub;
    `text=` is short for it."""
    config: str | None = None
    """Of the hub's set."""
    split: str = "test"
    field: str = "text"
    """The text's, where a document has fields."""


@dataclass
class EvaluateConfig:
    run: str
    """A run, whose checkpoints are measured; or the folder of a model: ours, an export, a GPT-2 or XGLM of `transformers`."""
    checkpoints: str = "latest"
    """latest | all: those of the run that are still on disk."""
    data: str | None = None
    """Token shards, whose validation split is measured. null: the run's own."""
    text: TextConfig = field(default_factory=TextConfig)
    """Text instead, encoded by the model's tokenizer."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        require(
            self.checkpoints in ("latest", "all"),
            "checkpoints",
            self.checkpoints,
            "one of latest, all",
        )
        if self.data and self.text.source:
            raise UserError(
                f"set data or text, one of both, got {self.data!r} and {self.text.source!r}"
            )
        if self.text.source and self.evaluation.documents is None:
            self.evaluation.documents = "apart"


def evaluate_run(config: EvaluateConfig) -> None:
    """Print what was measured; of a run, add it to `evaluations/` in its folder."""
    run_dir = Path(config.run)
    is_run = (run_dir / "config.yaml").is_file()
    other = config.data or config.text.source
    if not is_run and other is None:
        raise UserError(
            f"run={config.run!r} is not a run folder (it has no config.yaml): give one like runs/NAME, or a model with "
            "data=DIR or text=FILE"
        )
    shown = []
    for folder in folders(run_dir, config.checkpoints):
        model = load_model(folder, distributed.local_device())
        config.evaluation.check(model.config.seq_len)
        measured = (
            evaluate_on(open_stream(folder, config), model, config)
            if other
            else evaluate_as_trained(model, config)
        )
        print(
            f"{config.run}, {folder.parent.name if is_run else folder.name}{f', on {other}' if other else ''}"
        )
        for key, value in measured.metrics.items():
            print(f"  {key:<24} {value:.4f}")
        for kind, table in (("perplexity", perplexity_table), ("icl", few_shot_table)):
            if records := measured.records.get(kind):
                print(f"\n{table(records)}")
        if is_run:
            where = record(run_dir, folder.parent, other, measured)
            shown += [] if other else [where | measured.metrics]
    if shown and (message := show_afterwards(config_of(run_dir), shown)):
        print(message)


def folders(run_dir: Path, checkpoints: str) -> list[Path]:
    """The model folders to measure, the oldest first."""
    if checkpoints == "latest":
        return [model_folder(run_dir)]
    found = sorted((run_dir / "checkpoints").glob("step_*/model"))
    if not found:
        raise UserError(f"checkpoints=all: {run_dir} has no checkpoints")
    return found


def open_stream(folder: Path, config: EvaluateConfig) -> Stream:
    """The token shards or the text that the user named."""
    if config.data:
        return TokenShards(config.data, "validation")
    assert config.text.source is not None
    text = config.text
    texts = read_texts(config.text.source, text.config, text.split, text.field)
    return Texts(
        texts, load_tokenizer(folder), config.evaluation.tokens or TOKENS, f"text={text.source!r}"
    )


def evaluate_on(stream: Stream, model: GPT, config: EvaluateConfig) -> Measured:
    known = model.config.vocab_size
    if known is not None and known < stream.tokenizer.vocab_size:
        raise UserError(
            f"{stream.name} has {stream.tokenizer.vocab_size} tokens, but the model knows {known}: prepare the data "
            "with the model's tokenizer"
        )
    tokens_per_forward = max(TOKENS_PER_FORWARD, model.config.seq_len)
    return evaluate(model, stream, config.evaluation, model.config.seq_len, tokens_per_forward)


def evaluate_as_trained(model: GPT, config: EvaluateConfig) -> Measured:
    """A run's model on what the run was measured on."""
    trained = config_of(Path(config.run))
    tokens_per_forward = trained.training.max_tokens_per_forward
    return evaluate(
        model,
        open_validation(trained),
        config.evaluation,
        trained.model.seq_len,
        tokens_per_forward,
    )


def config_of(run_dir: Path) -> TrainConfig:
    """The run's config, wherever its folder is now."""
    return replace(
        read_config(run_dir / "config.yaml"),
        name=run_dir.resolve().name,
        runs=str(run_dir.resolve().parent),
    )


def record(
    run_dir: Path, checkpoint: Path, other: str | None, measured: Measured
) -> dict[str, int]:
    """Keep what was measured, the metrics only where they are those of the run's own data; returns its step and tokens."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    where = {key: manifest[key] for key in ("step", "tokens")}
    own = {} if other else {"validation": [measured.metrics]}
    keep_records(
        run_dir, {"checkpoint": checkpoint.name, "data": other} | where, own | measured.records
    )
    return where


main = Command(evaluate_run, EvaluateConfig, "evaluate")


if __name__ == "__main__":
    main()
