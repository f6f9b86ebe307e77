"""The training loop: the page to read first."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from momentum_gpt.core import distributed
from momentum_gpt.core.config import TrainConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import Batches, SyntheticBatches, ahead
from momentum_gpt.tracking import Tracker
from momentum_gpt.training.engine import grad_norm, set_lr, train_batch
from momentum_gpt.training.optim import lr_at
from momentum_gpt.training.progress import Interruption, Progress
from momentum_gpt.training.throughput import Throughput


@dataclass
class Position:
    """How far a run has come; all of its state that is not in the engine."""

    step: int = 0
    order_hash: str = field(default="", repr=False)
    """Of the windows read so far."""


def train(
    config: TrainConfig,
    engine: Any,
    batches: Batches | SyntheticBatches,
    position: Position,
    evaluate: Callable[[], dict[str, float]],
    save: Callable[[Position], None],
    tracker: Tracker | None,
    throughput: Throughput,
) -> bool:
    """Train from `position` to the last step, or to the step in which an interruption is asked for.

    Args:
        evaluate, save: run by every rank, as the engine may be spread over them.
        tracker: the main rank's; None on the others.

    Returns:
        Whether the last step was reached. A checkpoint of where it stopped is written either way.

    Raises:
        UserError: the loss is no longer a finite number; the checkpoints are left as they are.
    """
    training = config.training
    steps = range(position.step, training.max_steps)
    progress = Progress(position.step, training.max_steps)

    def report(metrics: dict[str, float]) -> None:
        if tracker:
            tracker.log(position.step, position.step * training.tokens_per_step, metrics)

    with Interruption() as interruption:
        for step, micro_batches in throughput.waiting(ahead(batches, distributed.rank(), steps)):
            lr = lr_at(step, config.optim, training.max_steps)
            set_lr(engine, lr)
            loss = train_batch(engine, micro_batches)
            position.step, position.order_hash = (
                step + 1,
                batches.order_hash(position.order_hash, step),
            )
            throughput.step()
            progress.step()

            stop = distributed.true_on_any_rank(interruption.requested)
            last = position.step == training.max_steps
            logging = position.step % training.log_every == 0
            evaluating = last or is_due(position.step, training.eval_every)
            saving = last or stop or is_due(position.step, training.save_every)

            if logging or saving:
                mean_loss = finite(distributed.mean_over_ranks(loss), position.step)
            if logging:
                speed = throughput.read()
                norm = grad_norm(engine)
                measured = {"train/loss": mean_loss, "optim/lr": lr, **speed}
                report(measured if norm is None else {**measured, "optim/grad_norm": norm})
                progress.metrics(position.step, mean_loss, speed["train/tokens_per_s"])
            if evaluating:
                metrics = evaluate()
                report(metrics)
                progress.say(describe(position.step, metrics))
            if saving:
                save(position)
            if evaluating or saving:
                throughput.restart()
            if stop:
                break
    progress.close()
    return position.step == training.max_steps


def is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is {loss} at step {step}: take a lower optim.lr or a longer warm-up; the checkpoints stay"
        )
    return loss


def describe(step: int, metrics: dict[str, float]) -> str:
    parts = [f"step {step:,}", f"val/loss {metrics['val/loss']:.4f} nats"]
    parts += [
        f"{key.removeprefix('val/')} {value:.2f}" for key, value in metrics.items() if "ppl@" in key
    ]
    parts += [
        f"{key} {metrics[key]:{form}}"
        for key, form in (("icl/score", "+.3f"), ("val/acc", ".1%"))
        if key in metrics
    ]
    return "  ".join(parts)
