"""One rank of a run, from its written config: `python -m momentum_gpt.worker runs/NAME/config.yaml`.

Started in place by `momentum_gpt.train`, or by torchrun once per rank. It never imports Hydra: all ranks read one file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from momentum_gpt.core import distributed
from momentum_gpt.core.config import BatchPlan, TrainConfig, plan_batch, read_config
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import keep_json_lines
from momentum_gpt.data import TokenShards, ValidationData, open_training, open_validation, sources
from momentum_gpt.evaluation import Origin, evaluate, keep_records
from momentum_gpt.models import GPT, start_from
from momentum_gpt.models.gpt import init_weights
from momentum_gpt.models.weights import weights_sha256
from momentum_gpt.ops import has_kernel
from momentum_gpt.tracking import Tracker
from momentum_gpt.training import checkpoint
from momentum_gpt.training.engine import build_engine, zero_stage
from momentum_gpt.training.loop import Position, train
from momentum_gpt.training.throughput import Throughput, flops_per_token

CANARY_TOLERANCE = 1e-3
"""Relative; a restored model whose loss on a fixed batch is further from the stored one is not the saved model."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells use it."""


def pretrain(config: TrainConfig) -> int:
    """Train the run to its end, or to an interruption; returns the exit code."""
    training = config.training
    plan = plan_batch(training, config.model.seq_len, distributed.world_size())
    batches, validation = open_training(config, plan), open_validation(config)
    tokenizer = validation.tokenizer if isinstance(validation, TokenShards) else None
    document_end = tokenizer.eos_id if tokenizer and config.data.document_mask else None
    found = newest_checkpoint(config.run_dir / "checkpoints")
    model = GPT(config.model, config.attention, document_end)
    init_weights(model, training.seed)
    if config.init and not found:
        start_from(model, config.init)
    origin = {"initial_weights_sha256": weights_sha256(model), **sources.hashes(batches)}
    n_parameters = sum(p.numel() for p in model.parameters())
    say(describe(config, plan, sources.describe(batches, validation, config), n_parameters))
    engine = build_engine(model, config, plan)
    position = resume(engine, found, origin, validation, config) if found else Position()
    tracker = Tracker(config, position.step) if distributed.is_main() else None
    if distributed.is_main():
        for path in (config.run_dir / "evaluations").glob("*.jsonl"):
            keep_json_lines(path, lambda record: record["step"] <= position.step)

    def evaluate_now() -> dict[str, float]:
        measured = evaluate(
            engine.module,
            validation,
            config.evaluation,
            config.model.seq_len,
            training.max_tokens_per_forward,
        )
        if distributed.is_main():
            origin = Origin(position.step, position.step * training.tokens_per_step)
            keep_records(config.run_dir, origin, measured)
        return measured.metrics

    def save(position: Position) -> None:
        facts = {
            "step": position.step,
            "tokens": position.step * training.tokens_per_step,
            "order_sha256": position.order_hash,
            "canary_loss": canary_loss(engine, validation, config.model.seq_len),
            "world_size": distributed.world_size(),
            **origin,
            "versions": {"torch": torch.__version__},
        }
        tokenizer_file = validation.tokenizer_file if isinstance(validation, TokenShards) else None
        checkpoint.save(
            engine, config.run_dir / "checkpoints", facts, tokenizer_file, training.keep_checkpoints
        )

    throughput = Throughput(training.tokens_per_step, flops_per_token(config.model, n_parameters))
    try:
        finished = train(config, engine, batches, position, evaluate_now, save, tracker, throughput)
    finally:
        if tracker and (message := tracker.close()):
            say(message)
    if not finished:
        say(
            f"stopped after step {position.step}, checkpoint saved; the same command goes on from there"
        )
    return 0 if finished else INTERRUPTED


def newest_checkpoint(folder: Path) -> checkpoint.Checkpoint | None:
    """The newest complete one; says which newer ones are not. Every rank must call this."""
    found, skipped = checkpoint.newest_complete(folder)
    for reason in skipped:
        say(f"passed over a checkpoint: {reason}")
    return found


def resume(
    engine: Any,
    found: checkpoint.Checkpoint,
    origin: dict[str, str],
    validation: ValidationData,
    config: TrainConfig,
) -> Position:
    """Restore the checkpoint; `origin` gets the hash of the weights that its run began with.

    Raises:
        UserError: it belongs to other data or to another number of ranks, or does not give back the loss it had.
    """
    if found.manifest["data_sha256"] != origin["data_sha256"]:
        raise UserError(
            f"{found.folder} was trained on other tokens than {(config.data.path or config.task.kind)!r} holds now: put the old data back, or choose "
            "another name"
        )
    origin["initial_weights_sha256"] = found.manifest["initial_weights_sha256"]
    checkpoint.restore(engine, found)
    stored, now = (
        found.manifest["canary_loss"],
        canary_loss(engine, validation, config.model.seq_len),
    )
    if not abs(now - stored) <= CANARY_TOLERANCE * abs(stored):
        raise UserError(
            f"{found.folder} does not give back its model: loss {now} on the fixed batch, {stored} when saved"
        )
    say(f"resume    from {found.folder} ({found.manifest['tokens']:,} tokens seen)")
    return Position(found.step, found.manifest["order_sha256"])


@torch.no_grad()
def canary_loss(engine: Any, validation: ValidationData, seq_len: int) -> float:
    """The loss of one fixed batch: a fact to recognise a restored model by."""
    tokens, targets = sources.canary(validation, seq_len)
    engine.module.eval()
    loss = engine.module(tokens.to(engine.device), targets.to(engine.device)).item()
    engine.module.train()
    return loss


def describe(config: TrainConfig, plan: BatchPlan, data: str, n_parameters: int) -> str:
    """What is going to happen, in the lines printed before the first step."""
    model, training = config.model, config.training
    options = ", ".join(
        f"{key} {value}" for key, value in config.attention.items() if key != "name"
    )
    lines = {
        "run": f"{config.run_dir}",
        "model": f"{n_parameters:,} parameters: {model.n_layers} layers, {model.n_heads} heads, d_model {model.d_model}, "
        f"{model.seq_len} tokens of context, vocabulary {model.vocab_size}, {model.positions} positions",
        "weights": config.init or f"drawn from seed {training.seed}",
        "attention": f"{config.attention['name']}{f' ({options})' if options else ''}{how_it_sums(config.attention)}",
        "data": data,
        "batch": f"{training.tokens_per_step:,} tokens = {plan.global_batch_size} sequences = {plan.world_size} rank(s) "
        f"x {plan.micro_batch_size} per forward x {plan.grad_accum_steps} accumulated",
        "engine": f"DeepSpeed ZeRO-{zero_stage(config.deepspeed)}, {training.precision}, {distributed.local_device().type}",
    }
    return "\n".join(f"{name:<10}{text}" for name, text in lines.items())


def how_it_sums(attention: dict[str, Any]) -> str:
    """Which form of `ema_of_past` was chosen, if the variant has a decay."""
    if "ema_decay" not in attention:
        return ""
    return (
        ", summed by the Triton kernel"
        if has_kernel(distributed.local_device())
        else ", summed by matrix products"
    )


def say(text: str) -> None:
    if distributed.is_main():
        print(text, flush=True)


def work(path: Path) -> int:
    """Join the other ranks, train, leave; returns the exit code."""
    try:
        config = read_config(path)
        distributed.start(distributed.local_device())
        try:
            return pretrain(config)
        finally:
            distributed.stop()
    except UserError as error:
        if distributed.is_main():
            print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1])))
