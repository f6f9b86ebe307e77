"""The training loop: the page to read first."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from momentum_gpt.core import distributed
from momentum_gpt.core.config import TrainConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import TrainingData, prefetch
from momentum_gpt.evaluation.statistics import margin_key
from momentum_gpt.tracking import Tracker
from momentum_gpt.training.engine import grad_norm, set_lr, train_batch
from momentum_gpt.training.optim import lr_at
from momentum_gpt.training.progress import Interruption, Progress
from momentum_gpt.training.throughput import Throughput


@dataclass
class Position:
    """How far a run has come: all of its state that is not in the engine."""

    step: int = 0
    """Optimizer steps done."""
    order_hash: str = field(default="", repr=False)
    """Hash of the windows read so far."""


def train(
    config: TrainConfig,
    engine: Any,
    batches: TrainingData,
    position: Position,
    evaluate: Callable[[], dict[str, float]],
    save: Callable[[Position], None],
    tracker: Tracker | None,
    throughput: Throughput,
) -> bool:
    """Train from `position` to the last step, or until an interruption is requested.

    Args:
        evaluate, save: called by every rank, as the engine may be spread over them.
        tracker: the main rank's; None on the others.

    Returns:
        Whether the last step was reached. A checkpoint is written either way.

    Raises:
        UserError: the loss is no longer a finite number; the checkpoints are left as they are.
    """
    training = config.training
    steps = range(position.step, training.max_steps)
    progress = Progress(position.step, training.max_steps)

    def log(metrics: dict[str, float]) -> None:
        if tracker:
            tracker.log(position.step, position.step * training.tokens_per_step, metrics)

    with Interruption() as interruption:
        coming = prefetch(batches, distributed.rank(), steps)
        for step, micro_batches, n_targets in throughput.waiting(coming):
            lr = lr_at(step, config.optim, training.max_steps)
            set_lr(engine, lr)
            part = train_batch(engine, micro_batches, n_targets)

            position.step = step + 1
            position.order_hash = batches.order_hash(position.order_hash, step)
            throughput.step()
            progress.step()

            # Every rank must take the same decisions, or one would wait for the others forever.
            stop = distributed.true_on_any_rank(interruption.requested)
            last = position.step == training.max_steps
            logging = position.step % training.log_every == 0
            evaluating = last or is_due(position.step, training.eval_every)
            saving = last or stop or is_due(position.step, training.save_every)

            if logging or saving:
                loss = finite(distributed.sum_over_ranks(part.double()).item(), position.step)
            if logging:
                speed = throughput.read()
                log({"train/loss": loss, "optim/lr": lr, **speed, **norm_of(engine)})
                progress.show(position.step, loss, speed["train/tokens_per_s"])
            if evaluating:
                metrics = evaluate()
                log(metrics)
                progress.say(describe(position.step, metrics))
            if saving:
                if tracker:
                    tracker.flush()
                save(position)

            if evaluating or saving:
                throughput.restart()
            if stop:
                break

    progress.close()
    return position.step == training.max_steps


def is_due(step: int, every: int) -> bool:
    """Return whether something that happens every so many steps happens now; 0 is never."""
    return every > 0 and step % every == 0


def finite(loss: float, step: int) -> float:
    """Return the loss.

    Raises:
        UserError: it is infinite or not a number.
    """
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is {loss} at step {step}: use a lower optim.lr or a longer warm-up; "
            "the checkpoints are left as they are"
        )
    return loss


def norm_of(engine: Any) -> dict[str, float]:
    """Return the gradient's norm as a metric, where DeepSpeed computes it."""
    norm = grad_norm(engine)
    return {} if norm is None else {"optim/grad_norm": norm}


def describe(step: int, metrics: dict[str, float]) -> str:
    """Return one line on an evaluation: its results, their 95% intervals, and its sample."""
    parts = [f"step {step:,}", f"val/loss {_with_margin(metrics, 'val/loss', '.4f')} nats"]
    for key, value in metrics.items():
        if "ppl@" in key:
            parts.append(f"{key.removeprefix('val/')} {value:.2f}")
    if "icl/score" in metrics:
        parts.append(f"icl/score {_with_margin(metrics, 'icl/score', '+.3f')}")
    if "val/acc" in metrics:
        parts.append(f"val/acc {metrics['val/acc']:.1%}")
    if "val/documents" in metrics:
        sample = f"{metrics['val/targets']:,} targets of {metrics['val/documents']:,} documents"
        parts.append(f"on {sample}")
    return "  ".join(parts)


def _with_margin(metrics: dict[str, float], metric: str, form: str) -> str:
    value = format(metrics[metric], form)
    half = metrics.get(margin_key(metric))
    return value if half is None else f"{value} ± {half:{form.lstrip('+')}}"
