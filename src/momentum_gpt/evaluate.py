"""Measure a trained model from its checkpoint, in one process.

    momentum-gpt evaluate run=runs/vanilla
    momentum-gpt evaluate run=runs/vanilla evaluation.tokens=1000000 \\
        'evaluation.context_lengths=[64,256]'
    momentum-gpt evaluate run=runs/vanilla checkpoints=all \\
        'evaluation.icl.tasks=[sst2,agnews]' evaluation.icl.data=DIR
    momentum-gpt evaluate run=/models/gpt2 data=data/mine
    momentum-gpt evaluate run=/models/gpt2 text=novel.txt
    momentum-gpt evaluate run=/models/gpt2 text=Salesforce/wikitext \\
        text.config=wikitext-103-raw-v1 text.split=test

What is measured of a run is added to its folder `evaluations/`: the metrics to
`validation.jsonl` (or to `other.jsonl`, on data or text that is not the run's
own), a line for each context length with the nats of each document to
`perplexity.jsonl`, a line for each few-shot (task, k, seed) to `icl.jsonl`,
and texts that the model writes to `samples.jsonl`. What was measured on the
run's own data goes into its W&B run, under `evaluate/`.

What was measured before with the same options is printed again and not
measured again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from momentum_gpt.cli import Command
from momentum_gpt.core.config import EvaluationConfig, TrainConfig, read_config, require
from momentum_gpt.core.errors import UserError

if TYPE_CHECKING:
    from momentum_gpt.evaluation.suite import EvaluationData

TOKENS_PER_FORWARD = 16384
"""Most tokens in a forward pass, where no run says how many fit."""


@dataclass
class TextConfig:
    """Text that is measured instead of token shards."""

    source: str | None = None
    """Text to measure: files, a folder or a glob (.txt is one document, .jsonl, .json, .parquet,
    plain, .gz, .bz2 or .zst), or the name of a data set on the hub. null: none.

    `text=` is short for it."""
    config: str | None = None
    """Configuration of the hub's data set. null: its default."""
    split: str = "test"
    """Split of the hub's data set, or of a folder whose files or subfolders have splits' names."""
    field: str = "text"
    """Field with the text, where a document has fields."""


@dataclass
class EvaluateConfig:
    """Options of the command."""

    run: str
    """Folder of a run, whose checkpoints are measured; or of a model: ours, an export, a GPT-2 or
    XGLM of `transformers`."""
    checkpoints: str = "latest"
    """Checkpoints of the run to measure: latest | all (those that are still on disk)."""
    data: str | None = None
    """Folder of token shards whose validation split is measured. null: the run's own."""
    text: TextConfig = field(default_factory=TextConfig)
    """Text to measure instead, encoded by the model's tokenizer."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What is measured."""
    again: bool = False
    """Measure again what was measured before with the same options, and replace the old lines."""

    def __post_init__(self) -> None:
        kinds = ("latest", "all")
        require(self.checkpoints in kinds, "checkpoints", self.checkpoints, "one of latest, all")
        if self.data and self.text.source:
            raise UserError(
                f"set data or text, not both, got {self.data!r} and {self.text.source!r}: "
                "leave one of them out"
            )
        if self.text.source and self.evaluation.documents is None:
            self.evaluation.documents = "apart"

    @property
    def named(self) -> str | None:
        """The data or the text that the user named; None for the run's own validation data."""
        return self.data or self.text.source


def evaluate_run(config: EvaluateConfig) -> None:
    """Print what was measured and, of a run, add it to its folder `evaluations/`."""
    from momentum_gpt.evaluation import checkpoints

    run_dir = Path(config.run)
    is_run = (run_dir / "config.yaml").is_file()
    if not is_run and config.named is None:
        raise UserError(
            f"run={config.run!r} is not a run folder (it has no config.yaml): give one like "
            "runs/NAME, or a model with data=DIR or text=FILE"
        )

    folders = checkpoints.model_folders(run_dir, config.checkpoints)
    data = open_data(config, folders[0])
    if config.named:
        checkpoints.check_vocabulary(folders[0], data)

    if is_run:
        evaluate_checkpoints(config, folders, data)
    else:
        evaluate_model(config, folders[0], data)


def evaluate_model(config: EvaluateConfig, folder: Path, data: EvaluationData) -> None:
    """Measure a model that belongs to no run; nothing is stored."""
    from momentum_gpt.evaluation import checkpoints, tables

    seq_len, tokens_per_forward = context_of(config, folder)
    measured = checkpoints.measure_model(
        folder, data, config.evaluation, seq_len, tokens_per_forward, folder.name
    )
    print(heading(config, folder.name))
    print(tables.report(measured))


def evaluate_checkpoints(config: EvaluateConfig, folders: list[Path], data: EvaluationData) -> None:
    """Measure checkpoints of a run, or print what is stored of them, and store what is new."""
    from momentum_gpt.evaluation import checkpoints, tables
    from momentum_gpt.evaluation.records import find_measured, keep_records
    from momentum_gpt.tracking import show_evaluated

    run_dir = Path(config.run)
    is_new = False
    for folder in folders:
        checkpoint = folder.parent
        seq_len, tokens_per_forward = context_of(config, folder)
        origin = checkpoints.origin_of(checkpoint, config.named, data, config.evaluation)

        stored = None if config.again else find_measured(run_dir, origin)
        measured = stored or checkpoints.measure_model(
            folder,
            data,
            config.evaluation,
            seq_len,
            tokens_per_forward,
            checkpoint.name,
            with_samples=config.named is None,
        )
        print(heading(config, checkpoint.name))
        print(tables.report(measured))
        if stored:
            print("\nmeasured before with the same options; again=true measures it again\n")
        else:
            keep_records(run_dir, origin, measured)
            is_new = True

    # W&B shows only the run's own data, as metrics on other text have the same keys.
    if is_new and config.named is None and (message := show_evaluated(config_of(run_dir))):
        print(message)


def open_data(config: EvaluateConfig, folder: Path) -> EvaluationData:
    """Return the data or the text that the user named, or the run's own validation data.

    Args:
        config: the command's options.
        folder: a model folder, whose tokenizer encodes text.

    Raises:
        UserError: the data are missing, damaged or empty.
    """
    from momentum_gpt.data import Texts, TokenShards, load_tokenizer, open_validation, read_texts
    from momentum_gpt.evaluation.targets import TOKENS

    if config.data:
        return TokenShards(config.data, "validation")
    text = config.text
    if text.source:
        name = f"text={text.source!r}"
        changed: Counter[str] = Counter()
        documents = read_texts(text.source, text.config, text.split, text.field, changed)
        n_tokens = config.evaluation.tokens or TOKENS
        texts = Texts(documents, load_tokenizer(folder), n_tokens, name)
        if changed:
            print(f"{name}: {', '.join(f'{count:,} {what}' for what, count in changed.items())}")
        return texts
    return open_validation(config_of(Path(config.run)))


def context_of(config: EvaluateConfig, folder: Path) -> tuple[int, int]:
    """Return the longest context and the most tokens in a forward pass.

    On its own data a run is measured as in training; else as the model allows.

    Raises:
        UserError: the model cannot be measured with these options.
    """
    from momentum_gpt.models.weights import load_model_config

    seq_len = load_model_config(folder).seq_len
    config.evaluation.check(seq_len)
    if config.named:
        return seq_len, max(TOKENS_PER_FORWARD, seq_len)
    trained = config_of(Path(config.run))
    return trained.model.seq_len, trained.training.max_tokens_per_forward


def config_of(run_dir: Path) -> TrainConfig:
    """Return the run's config, with the place where its folder is now."""
    place = run_dir.resolve()
    return replace(read_config(run_dir / "config.yaml"), name=place.name, runs=str(place.parent))


def heading(config: EvaluateConfig, name: str) -> str:
    """Return the line above the tables."""
    on = f", on {config.named}" if config.named else ""
    return f"{config.run}, {name}{on}"


main = Command(evaluate_run, EvaluateConfig, "evaluate")


if __name__ == "__main__":
    main()
