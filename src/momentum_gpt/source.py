"""What a run reads and is measured on: a corpus of token shards, or a synthetic task."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from momentum_gpt.config import BatchPlan, EvaluationConfig, TrainConfig
from momentum_gpt.data import Batches, PackedBatches, SyntheticBatches, SyntheticTask, Tokenizer, TokenShards
from momentum_gpt.evaluation import Measured, answers, evaluate
from momentum_gpt.evaluation.targets import TOKENS


class Corpus:
    """Token shards: trained on one split, measured on the other.

    Raises:
        UserError: the shards are missing, damaged, or too few for one window.
    """

    def __init__(self, config: TrainConfig, plan: BatchPlan) -> None:
        assert config.data.path is not None
        self.config, self.name = config, config.data.path
        self.shards, self.validation = (TokenShards(config.data.path, split) for split in ("train", "validation"))
        kind = PackedBatches if config.data.packing == "best_fit" else Batches
        self.batches = kind(self.shards, config.model.seq_len, config.training.seed, plan)
        self.vocab_size = self.shards.tokenizer.vocab_size
        self.document_end = self.shards.tokenizer.eos_id if config.data.document_mask else None
        self.tokenizer: Tokenizer | None = self.shards.tokenizer
        self.tokenizer_file: Path | None = self.shards.tokenizer_file
        self.hashes = {"data_sha256": self.shards.fingerprint(), "tokenizer_sha256": self.shards.tokenizer.sha256}

    def canary(self) -> tuple[Tensor, Tensor]:
        """One fixed batch, tokens and targets (1, T) each: the first validation window."""
        block = torch.from_numpy(self.validation.read(0, self.config.model.seq_len + 1))[None]
        return block[:, :-1], block[:, 1:]

    def evaluate(self, model: nn.Module, evaluation: EvaluationConfig) -> Measured:
        tokens_per_forward = self.config.training.max_tokens_per_forward
        return evaluate(model, self.validation, evaluation, self.config.model.seq_len, tokens_per_forward)

    def describe(self) -> str:
        training = self.config.training
        epochs = training.max_steps * training.tokens_per_step / len(self.shards)
        masked = ", each document by itself" if self.config.data.document_mask else ""
        return (
            f"{self.config.data.path}: {len(self.shards):,} tokens to train on ({epochs:.2f} epochs), "
            f"{len(self.validation):,} held out; {self.batches.describe()}{masked}"
        )


class Task:
    """A synthetic task: trained on what the seed draws, measured on sequences that are the same for every run."""

    def __init__(self, config: TrainConfig, plan: BatchPlan) -> None:
        self.config, self.name = config, f"the task {config.task.kind}"
        self.task = SyntheticTask(config.task, config.model.seq_len)
        self.batches = SyntheticBatches(self.task, config.training.seed, plan)
        self.vocab_size = self.task.vocab_size
        self.document_end: int | None = None
        self.tokenizer: Tokenizer | None = None
        self.tokenizer_file: Path | None = None
        self.hashes = {"data_sha256": self.task.fingerprint(), "tokenizer_sha256": self.task.fingerprint()}

    def canary(self) -> tuple[Tensor, Tensor]:
        tokens, targets = self.task.held_out(0)
        return torch.from_numpy(tokens), torch.from_numpy(targets)

    def evaluate(self, model: nn.Module, evaluation: EvaluationConfig) -> Measured:
        n_sequences = max(1, (evaluation.tokens or TOKENS) // self.config.model.seq_len)
        return Measured(answers(model, self.task, n_sequences, self.config.training.max_tokens_per_forward), {})

    def describe(self) -> str:
        options = ", ".join(f"{key} {value}" for key, value in vars(self.task.config).items() if key != "kind")
        return f"{self.name} ({options}), drawn from the seed"


def open_source(config: TrainConfig, plan: BatchPlan) -> Corpus | Task:
    return Task(config, plan) if config.task.kind else Corpus(config, plan)
