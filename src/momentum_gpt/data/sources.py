"""What a run reads: training batches, and validation data. They are opened apart, and each only by those who use it."""

from __future__ import annotations

import torch
from torch import Tensor

from momentum_gpt.core.config import BatchPlan, TrainConfig
from momentum_gpt.data.batches import Batches
from momentum_gpt.data.packing import PackedBatches
from momentum_gpt.data.shards import TokenShards
from momentum_gpt.data.synthetic_tasks import SyntheticBatches, SyntheticTask

TrainingData = Batches | SyntheticBatches
ValidationData = TokenShards | SyntheticTask


def open_training(config: TrainConfig, plan: BatchPlan) -> TrainingData:
    """Return the batches that the run trains on: windows of token shards, or sequences of a synthetic task.

    Raises:
        UserError: the shards are missing, damaged, or too few for one window.
    """
    if config.data.path is None:
        task = SyntheticTask(config.task, config.model.seq_len)
        return SyntheticBatches(task, config.training.seed, plan)
    kind = PackedBatches if config.data.packing == "best_fit" else Batches
    shards = TokenShards(config.data.path, "train")
    return kind(shards, config.model.seq_len, config.training.seed, plan)


def open_validation(config: TrainConfig) -> ValidationData:
    """Return what the run is measured on, without opening what it is trained on.

    Raises:
        UserError: the shards are missing or damaged.
    """
    if config.data.path is None:
        return SyntheticTask(config.task, config.model.seq_len)
    return TokenShards(config.data.path, "validation")


def canary(validation: ValidationData, seq_len: int) -> tuple[Tensor, Tensor]:
    """Return one fixed batch, tokens and targets (1, T) each: a model is recognised by its loss on it."""
    if isinstance(validation, SyntheticTask):
        tokens, targets = validation.held_out(0)
        return torch.from_numpy(tokens), torch.from_numpy(targets)
    block = torch.from_numpy(validation.read(0, seq_len + 1))[None]
    return block[:, :-1], block[:, 1:]


def describe(training: TrainingData, validation: ValidationData, config: TrainConfig) -> str:
    """Return one line on the data, printed before the first step."""
    if isinstance(training, SyntheticBatches) or isinstance(validation, SyntheticTask):
        options = ", ".join(
            f"{key} {value}" for key, value in vars(config.task).items() if key != "kind"
        )
        return f"the task {config.task.kind} ({options}), drawn from the seed"
    epochs = config.training.max_steps * config.training.tokens_per_step / len(training.shards)
    masked = ", each document by itself" if config.data.document_mask else ""
    return (
        f"{config.data.path}: {len(training.shards):,} tokens to train on ({epochs:.2f} epochs), "
        f"{len(validation):,} held out; {training.describe()}{masked}"
    )


def hashes(training: TrainingData) -> dict[str, str]:
    """Return what identifies the training data in a checkpoint's manifest."""
    if isinstance(training, SyntheticBatches):
        fingerprint = training.task.fingerprint()
        return {"data_sha256": fingerprint, "tokenizer_sha256": fingerprint}
    shards = training.shards
    return {"data_sha256": shards.fingerprint(), "tokenizer_sha256": shards.tokenizer.sha256}
