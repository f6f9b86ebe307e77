"""What a run reads: training batches and validation data, each opened by those who use it.

The driver only needs `inspect_data`, which opens no shard; `evaluate` only validation data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from momentum_gpt.core.batch_plan import BatchPlan
from momentum_gpt.core.config import TrainConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.data.batches import Batches, too_few_tokens
from momentum_gpt.data.packing import PackedBatches
from momentum_gpt.data.shards import (
    SPLITS,
    TokenShards,
    check_shard_file,
    check_tokenizer,
    read_manifest,
)
from momentum_gpt.data.synthetic_tasks import SyntheticBatches, SyntheticTask
from momentum_gpt.data.tokenizer import Tokenizer

TrainingData = Batches | SyntheticBatches
ValidationData = TokenShards | SyntheticTask


@dataclass(frozen=True)
class DataFacts:
    """What must be known of the data before a run gets its folder."""

    vocab_size: int
    """Number of token ids in the data."""
    tokenizer: Tokenizer | None
    """None for a synthetic task."""


def inspect_data(config: TrainConfig) -> DataFacts:
    """Return the facts of a run's data from their manifest, without opening a shard.

    Raises:
        UserError: the data are missing, of another format, or too few for one window.
    """
    seq_len = config.model.seq_len
    if config.data.path is None:
        return DataFacts(SyntheticTask(config.task, seq_len).vocab_size, tokenizer=None)

    folder = Path(config.data.path)
    manifest = read_manifest(folder)
    for split in SPLITS:
        n_tokens = manifest.tokens(split)
        if n_tokens <= seq_len:
            raise UserError(too_few_tokens(f"the {split} split of '{folder}'", n_tokens, seq_len))
        for entry in manifest.splits[split]:
            check_shard_file(folder / entry.file, entry, manifest.dtype)

    tokenizer = check_tokenizer(folder, manifest)
    return DataFacts(tokenizer.vocab_size, tokenizer)


def open_training(config: TrainConfig, plan: BatchPlan) -> TrainingData:
    """Return the batches that the run trains on: windows of token shards, or a synthetic task's.

    Raises:
        UserError: the shards are missing, damaged, or too few for one window.
    """
    if config.data.path is None:
        task = SyntheticTask(config.task, config.model.seq_len)
        return SyntheticBatches(task, config.training.seed, plan)

    shards = TokenShards(config.data.path, "train")
    kind = PackedBatches if config.data.packing == "best_fit" else Batches
    return kind(shards, config.model.seq_len, config.training.seed, plan)


def open_validation(config: TrainConfig) -> ValidationData:
    """Return what the run is measured on, without opening what it is trained on.

    Raises:
        UserError: the shards are missing or damaged.
    """
    if config.data.path is None:
        return SyntheticTask(config.task, config.model.seq_len)
    return TokenShards(config.data.path, "validation")


def fixed_batch(validation: ValidationData, seq_len: int) -> tuple[Tensor, Tensor]:
    """Return tokens and targets, (1, T) each, that are the same for every step of every run."""
    if isinstance(validation, SyntheticTask):
        tokens, targets = validation.held_out(0)
        return torch.from_numpy(tokens), torch.from_numpy(targets)
    block = torch.from_numpy(validation.read(0, seq_len + 1))[None]
    return block[:, :-1], block[:, 1:]


def describe_data(training: TrainingData, validation: ValidationData, config: TrainConfig) -> str:
    """Return one line on the data, printed before the first step."""
    if isinstance(training, SyntheticBatches) or isinstance(validation, SyntheticTask):
        options = [f"{key} {value}" for key, value in vars(config.task).items() if key != "kind"]
        return f"the task {config.task.kind} ({', '.join(options)}), drawn from the seed"

    n_tokens = config.training.max_steps * config.training.tokens_per_step
    epochs = n_tokens / len(training.shards)
    masked = ", each document by itself" if config.data.document_mask else ""
    return (
        f"{config.data.path}: {len(training.shards):,} tokens to train on ({epochs:.2f} epochs), "
        f"{len(validation):,} for validation; {training.describe()}{masked}"
    )
