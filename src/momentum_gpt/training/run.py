"""A run in progress: what it evaluates, saves and resumes with."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from momentum_gpt.core import activity, distributed, stopping
from momentum_gpt.core.config import TrainConfig
from momentum_gpt.core.errors import MachineError, UserError
from momentum_gpt.core.manifest import CheckpointManifest
from momentum_gpt.core.provenance import commit, versions
from momentum_gpt.data import TokenShards, TrainingData, ValidationData, fixed_batch
from momentum_gpt.data.synthetic_tasks import NO_TARGET
from momentum_gpt.evaluation.records import Origin, keep_records
from momentum_gpt.evaluation.suite import evaluate
from momentum_gpt.training.checkpoint import Checkpoint
from momentum_gpt.training.describe import kernels, machine
from momentum_gpt.training.elastic import is_same_layout, load_elsewhere
from momentum_gpt.training.engine import is_on_nvme, load_engine
from momentum_gpt.training.position import Position, position_of
from momentum_gpt.training.saving import NOT_FINITE, Saver
from momentum_gpt.training.telemetry import added_by_layer, norms_by_layer

CANARY_TOLERANCE = 1e-3
"""Largest relative difference between the loss of a restored model and the stored one."""

CANARY_TOLERANCE_OF_BF16 = 1e-2
"""The same, between a model in bf16 and the same model in fp32."""


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """An evaluation was left because somebody asked the run to stop."""


class Run:
    """A run in progress. Every rank has one and calls its methods alike.

    Args:
        config: of the run.
        batches: what it is trained on.
        validation: what it is measured on.
        engine: the DeepSpeed engine around the model.
        initial_weights_sha256: hash of the shared weights before the first step.
        checkpoint_size: bytes of a checkpoint, about.
    """

    def __init__(
        self,
        config: TrainConfig,
        batches: TrainingData,
        validation: ValidationData,
        engine: Any,
        initial_weights_sha256: str,
        checkpoint_size: int = 0,
    ) -> None:
        self.config = config
        self.validation = validation
        self.engine = engine
        self.initial_weights_sha256 = initial_weights_sha256
        self.fingerprints = batches.fingerprints()
        self.position = Position()

        tokenizer_file = None
        if isinstance(validation, TokenShards):
            tokenizer_file = validation.tokenizer_file
        folder = config.run_dir / "checkpoints"
        self.saver = Saver(folder, config.training, tokenizer_file, checkpoint_size)

    @property
    def hashes(self) -> dict[str, str]:
        """The hashes that identify the run, by their names in a manifest."""
        return {"initial_weights_sha256": self.initial_weights_sha256, **self.fingerprints}

    def evaluate(self) -> dict[str, float] | None:
        """Return the metrics of the present model, and keep their records.

        Returns:
            The metrics; None if somebody asked to stop meanwhile, and the evaluation is still due.
        """
        position = self.position
        activity.pulse(f"step {position.step}: evaluation")
        position.evaluation_is_due = True
        try:
            measured = evaluate(
                self.engine.module,
                self.validation,
                self.config.evaluation,
                self.config.model.seq_len,
                self.config.training.max_tokens_per_forward,
                advance=lambda _: go_on_unless_asked(),
            )
        except Stopped:
            return None

        if distributed.is_main():
            keep_records(self.config.run_dir, Origin(position.step, self.tokens), measured)
        position.evaluation_is_due = False
        position.val_loss = measured.metrics["val/loss"]
        return measured.metrics

    def by_layer(self) -> dict[str, float]:
        """Return what each layer is like, between the backward pass and the update.

        Numbers that are not finite are left out: JSON has none.
        """
        metrics = norms_by_layer(self.engine)
        metrics |= added_by_layer(self.engine.module, *self._fixed_batch())
        return {key: value for key, value in metrics.items() if math.isfinite(value)}

    def agree(self, parts: Tensor) -> tuple[float, bool, bool]:
        """Return the loss, whether any rank was asked to stop, and whether any is still writing.

        Args:
            parts: this rank's parts of the loss, in nats per token.
        """
        mine = [parts.double().sum().item(), stopping.requested() > 0, self.saver.is_writing]
        of_all = torch.tensor(mine, dtype=torch.float64)
        loss, n_asked, n_writing = distributed.sum_over_ranks(of_all).tolist()
        if n_asked:
            stopping.obey()
        return loss, n_asked > 0, n_writing > 0

    def save(self) -> str | None:
        """Begin to write a checkpoint; return what to say if it cannot be.

        Raises:
            MachineError: the model is broken.
        """
        position = self.position
        activity.pulse(f"step {position.step}: saving a checkpoint")
        manifest = CheckpointManifest(
            step=position.step,
            tokens=self.tokens,
            order_sha256=position.order_hash,
            canary_loss=self.canary_loss(),
            world_size=distributed.world_size(),
            initial_weights_sha256=self.initial_weights_sha256,
            data_sha256=self.fingerprints["data_sha256"],
            tokenizer_sha256=self.fingerprints["tokenizer_sha256"],
            zero_optimization=self.engine.config["zero_optimization"],
            precision=self.config.training.precision,
            val_loss=position.val_loss,
            evaluation_is_due=position.evaluation_is_due,
            skipped_steps=position.skipped_steps,
            recent_losses=position.recent_losses,
            versions=versions(),
            code=position.code,
            commit=commit(),
            machine=machine(),
            kernels=kernels(self.config),
        )
        try:
            self.saver.begin(self.engine, manifest)
        except MachineError as error:
            return no_checkpoint(position.step, str(error))
        return None

    def finish_saving(self) -> str | None:
        """Wait until a checkpoint is written; return what to say if it could not be.

        Raises:
            MachineError: it holds numbers that are not finite.
        """
        pending = self.saver.pending
        problem = self.saver.finish()
        if pending is None or problem is None:
            return None
        step = pending.manifest.step
        if problem == NOT_FINITE:
            raise MachineError(
                f"the model of step {step} is broken: {problem}; it was not kept, and the same "
                "command goes on from the last checkpoint"
            )
        return no_checkpoint(step, problem)

    def resume(self, found: Checkpoint) -> str | None:
        """Restore a checkpoint; return what is wrong with the restored model, if anything is.

        Raises:
            UserError: the checkpoint belongs to other data, or an option of DeepSpeed keeps it
                from being divided otherwise.
        """
        manifest = found.manifest
        for entry, what in (("data_sha256", "tokens"), ("tokenizer_sha256", "token ids")):
            if getattr(manifest, entry) != self.fingerprints[entry]:
                source = self.config.data.path or self.config.task.kind
                raise UserError(
                    f"{found.folder} was trained on other {what} than {source!r} holds now: "
                    "put the old data back, or choose another name"
                )
        self._load(found)

        stored = manifest.canary_loss
        now = self._canary_loss()
        same = manifest.precision == self.config.training.precision
        tolerance = CANARY_TOLERANCE if same else CANARY_TOLERANCE_OF_BF16
        if not abs(now - stored) <= tolerance * abs(stored):
            return f"its loss on the fixed batch is {now}, and was {stored} when it was saved"
        self.initial_weights_sha256 = manifest.initial_weights_sha256
        self.position = position_of(manifest)
        return None

    def _load(self, found: Checkpoint) -> None:
        folder = found.folder / "engine"
        if is_on_nvme(self.engine.config):
            raise UserError(
                f"{self.config.run_dir} cannot be resumed: DeepSpeed does not restore a run with "
                f"deepspeed=zero3_nvme; begin another with init={found.folder}"
            )
        if is_same_layout(found.manifest, self.engine):
            load_engine(self.engine, folder)
        else:
            load_elsewhere(self.engine, folder, found.manifest)

    def canary_loss(self) -> float:
        """Return the loss on one fixed batch, in nats per token.

        Raises:
            MachineError: it is not finite.
        """
        loss = self._canary_loss()
        if not math.isfinite(loss):
            raise MachineError(
                f"the model of step {self.position.step} is broken: its loss on the fixed batch is "
                f"{loss}; the same command goes on from the last checkpoint"
            )
        return loss

    @torch.no_grad()
    def _canary_loss(self) -> float:
        tokens, targets = self._fixed_batch()
        self.engine.module.eval()
        nats = self.engine.module(tokens, targets)
        self.engine.module.train()
        return float(nats / (targets != NO_TARGET).sum())

    def _fixed_batch(self) -> tuple[Tensor, Tensor]:
        tokens, targets = fixed_batch(self.validation, self.config.model.seq_len)
        return tokens.to(self.engine.device), targets.to(self.engine.device)

    @property
    def tokens(self) -> int:
        """Tokens trained on so far."""
        return self.position.step * self.config.training.tokens_per_step


def no_checkpoint(step: int, problem: str) -> str:
    """Return what to say of a checkpoint that could not be written."""
    return f"there is no checkpoint of step {step:,}, and the last one stays: {problem}"


def go_on_unless_asked() -> None:
    """Show progress; raise Stopped on every rank if somebody asked any rank to stop."""
    activity.pulse()
    if distributed.true_on_any_rank(stopping.requested() > 0):
        stopping.obey()
        raise Stopped
