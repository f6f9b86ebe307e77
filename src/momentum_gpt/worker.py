"""One rank of a run, from its written config: `python -m momentum_gpt.worker CONFIG`.

It is started in place by `momentum_gpt.train`, or by torchrun once per rank. It never imports
Hydra: all ranks read one file, so that they cannot disagree.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import get_error_handler, record

from momentum_gpt.core import activity, distributed, outcome, ownership, stopping
from momentum_gpt.core.config import TrainConfig, plan_batch, read_config
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import keep_json_lines
from momentum_gpt.core.manifest import CheckpointManifest
from momentum_gpt.core.outcome import Outcome
from momentum_gpt.data import (
    TokenShards,
    TrainingData,
    ValidationData,
    describe_data,
    fixed_batch,
    open_training,
    open_validation,
)
from momentum_gpt.data.synthetic_tasks import NO_TARGET
from momentum_gpt.evaluation import Origin, evaluate, keep_records
from momentum_gpt.models import ATTENTIONS, GPT, start_from
from momentum_gpt.models.gpt import init_weights
from momentum_gpt.models.weights import weights_sha256
from momentum_gpt.ops import has_kernel
from momentum_gpt.tracking import Tracker
from momentum_gpt.training import checkpoint
from momentum_gpt.training.checkpoint import Checkpoint
from momentum_gpt.training.engine import build_engine, zero_stage
from momentum_gpt.training.loop import Position, train
from momentum_gpt.training.supervision import MARGIN, HangError, Watchdog
from momentum_gpt.training.throughput import Throughput, flops_per_token

CANARY_TOLERANCE = 1e-3
"""Largest relative difference between the loss of a restored model and the stored one."""


def pretrain(config: TrainConfig, timeout: timedelta) -> Outcome:
    """Train the run to its end, or until somebody asks to stop; return how it ended.

    Args:
        timeout: how long a rank waits in a collective operation.
    """
    activity.pulse("opening the data, building the model")
    plan = plan_batch(config.training, config.model.seq_len, distributed.world_size())
    batches = open_training(config, plan)
    validation = open_validation(config)

    found = newest_checkpoint(config.run_dir / "checkpoints")
    model = build_model(config, validation, is_new=found is None)
    run = Run(config, batches, validation, weights_sha256(model))
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    say(describe(config, describe_data(batches, validation, config), n_parameters))

    activity.pulse("building the engine")
    run.engine = build_engine(model, config, plan)
    distributed.set_timeout(timeout)
    if found is not None:
        run.resume(found)
    tracker = open_tracker(config, run.position.step)

    throughput = Throughput(
        config.training.tokens_per_step,
        flops_per_token(config.model, n_parameters),
    )
    try:
        exit_code = train(
            config,
            run.engine,
            batches,
            run.position,
            run.evaluate,
            run.save,
            tracker,
            throughput,
        )
    finally:
        message = tracker.close() if tracker else None
        if message:
            say(message)

    step = run.position.step
    if exit_code == 0:
        return Outcome(0, step, f"all {step} steps are done")
    message = f"stopped after step {step}, checkpoint saved; the same command resumes the run"
    say(message)
    return Outcome(exit_code, step, message)


def build_model(config: TrainConfig, validation: ValidationData, is_new: bool) -> GPT:
    """Return the model with the weights that the run starts from.

    Args:
        is_new: False if a checkpoint will give the weights.
    """
    document_end = None
    if config.data.document_mask and isinstance(validation, TokenShards):
        document_end = validation.tokenizer.eos_id

    model = GPT(config.model, config.attention, document_end)
    init_weights(model, config.training.seed)
    if config.init and is_new:
        start_from(model, config.init)
    return model


@dataclass
class Run:
    """A run in progress: what it evaluates, saves and resumes with."""

    config: TrainConfig
    batches: TrainingData
    validation: ValidationData
    initial_weights_sha256: str
    """Hash of the shared weights before the first step."""

    def __post_init__(self) -> None:
        self.position = Position()
        self.engine: Any = None
        self.fingerprints = self.batches.fingerprints()

    def evaluate(self) -> dict[str, float]:
        """Return the metrics of the present model, and keep their records. For every rank."""
        measured = evaluate(
            self.engine.module,
            self.validation,
            self.config.evaluation,
            self.config.model.seq_len,
            self.config.training.max_tokens_per_forward,
        )
        if distributed.is_main():
            origin = Origin(self.position.step, self.tokens)
            keep_records(self.config.run_dir, origin, measured)
        return measured.metrics

    def save(self, position: Position) -> None:
        """Write a checkpoint. Every rank must call this."""
        manifest = CheckpointManifest(
            step=position.step,
            tokens=self.tokens,
            order_sha256=position.order_hash,
            canary_loss=self.canary_loss(),
            world_size=distributed.world_size(),
            initial_weights_sha256=self.initial_weights_sha256,
            data_sha256=self.fingerprints["data_sha256"],
            tokenizer_sha256=self.fingerprints["tokenizer_sha256"],
            versions={"torch": torch.__version__},
        )
        tokenizer_file = None
        if isinstance(self.validation, TokenShards):
            tokenizer_file = self.validation.tokenizer_file
        checkpoint.save(
            self.engine,
            self.config.run_dir / "checkpoints",
            manifest,
            tokenizer_file,
            self.config.training.keep_checkpoints,
        )

    def resume(self, found: Checkpoint) -> None:
        """Restore a checkpoint. Every rank must call this.

        Raises:
            UserError: it belongs to other data or to another number of ranks, or the restored
                model does not have the loss that it had.
        """
        manifest = found.manifest
        if manifest.data_sha256 != self.fingerprints["data_sha256"]:
            source = self.config.data.path or self.config.task.kind
            raise UserError(
                f"{found.folder} was trained on other tokens than {source!r} holds now: "
                "put the old data back, or choose another name"
            )

        checkpoint.restore(self.engine, found)
        stored = manifest.canary_loss
        now = self.canary_loss()
        if not abs(now - stored) <= CANARY_TOLERANCE * abs(stored):
            raise UserError(
                f"{found.folder} does not restore its model: the loss on the fixed batch is {now}, "
                f"and was {stored} when it was saved; delete this checkpoint to use an older one"
            )

        self.initial_weights_sha256 = manifest.initial_weights_sha256
        self.position = Position(manifest.step, manifest.order_sha256)
        say(f"resume    from {found.folder} ({manifest.tokens:,} tokens seen)")

    @torch.no_grad()
    def canary_loss(self) -> float:
        """Return the loss on one fixed batch, in nats per token."""
        tokens, targets = fixed_batch(self.validation, self.config.model.seq_len)
        device = self.engine.device
        self.engine.module.eval()
        nats = self.engine.module(tokens.to(device), targets.to(device))
        self.engine.module.train()
        return (nats / (targets != NO_TARGET).sum()).item()

    @property
    def tokens(self) -> int:
        """Tokens trained on so far."""
        return self.position.step * self.config.training.tokens_per_step


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest complete checkpoint, and print which newer ones are not. For every rank."""
    found, skipped = checkpoint.newest_complete(folder)
    for reason in skipped:
        say(f"skipped a checkpoint: {reason}")
    return found


def open_tracker(config: TrainConfig, step: int) -> Tracker | None:
    """Return the main rank's tracker, after dropping what an earlier attempt wrote after `step`."""
    if not distributed.is_main():
        return None
    for path in (config.run_dir / "evaluations").glob("*.jsonl"):
        keep_json_lines(path, lambda record: record["step"] <= step)
    return Tracker(config, step)


def describe(config: TrainConfig, data: str, n_parameters: int) -> str:
    """Return what is going to happen, as lines that are printed before the first step."""
    model, training = config.model, config.training
    plan = plan_batch(training, model.seq_len, distributed.world_size())
    given = {key: value for key, value in config.attention.items() if key != "name"}
    options = ", ".join(f"{key} {value}" for key, value in given.items())
    lines = {
        "run": str(config.run_dir),
        "model": f"{n_parameters:,} parameters: {model.n_layers} layers, {model.n_heads} heads, "
        f"d_model {model.d_model}, {model.seq_len} tokens of context, vocabulary "
        f"{model.vocab_size}, {model.positions} positions",
        "weights": config.init or f"drawn from seed {training.seed}",
        "attention": config.attention["name"]
        + (f" ({options})" if options else "")
        + summation(config.attention),
        "data": data,
        "batch": f"{training.tokens_per_step:,} tokens = {plan.global_batch_size} sequences = "
        f"{plan.world_size} rank(s) x {plan.micro_batch_size} per forward x "
        f"{plan.grad_accum_steps} accumulated",
        "engine": f"DeepSpeed ZeRO-{zero_stage(config.deepspeed)}, {training.precision}, "
        f"{distributed.local_device().type}",
    }
    return "\n".join(f"{name:<10}{text}" for name, text in lines.items())


def summation(attention: dict[str, Any]) -> str:
    """Return which form of `ema_of_past` was chosen, if the variant has a decay."""
    if not ATTENTIONS[attention["name"]].has_decay:
        return ""
    if has_kernel(distributed.local_device()):
        return ", summed by the Triton kernel"
    return ", summed by matrix products"


def say(text: str) -> None:
    """Print on the main rank."""
    if distributed.is_main():
        print(text, flush=True)


def work(path: Path) -> int:
    """Join the other ranks, train, and leave; return the exit code.

    The main rank writes `outcome.json` beside the config, however it ends.
    """
    run_dir = path.parent
    is_main = os.environ.get("RANK", "0") == "0"  # also outside the process group
    if "TORCHELASTIC_RUN_ID" in os.environ:
        ownership.die_with_parent()
    stopping.listen()
    if is_main:
        outcome.forget(run_dir)

    ended = Outcome(stopping.INTERRUPTED, None, "interrupted")
    try:
        ended = join_and_train(path)
    except UserError as error:
        ended = Outcome(2, None, str(error))
        get_error_handler().record_exception(error)
        if is_main:
            print(f"error: {error}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        pass
    except Exception as error:
        ended = Outcome(1, None, f"{type(error).__name__}: {error}")
        raise
    finally:
        if is_main:
            outcome.write(run_dir, ended)
    return ended.exit_code


def join_and_train(path: Path) -> Outcome:
    """Train under the eyes of the other ranks."""
    config = read_config(path)
    hang_after = config.launch.hang_after
    # The watchdog comes first, and says which rank the others wait for.
    timeout = timedelta(seconds=hang_after + MARGIN)

    def report(line: str, exit_code: int) -> None:
        get_error_handler().record_exception(HangError(line))
        if distributed.is_main():
            outcome.write(config.run_dir, Outcome(exit_code, None, line))

    distributed.start(distributed.local_device(), timeout)
    try:
        with Watchdog(hang_after, report):
            return pretrain(config, timeout)
    finally:
        distributed.stop()


if __name__ == "__main__":
    sys.exit(record(work)(Path(sys.argv[1])))
