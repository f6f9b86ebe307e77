"""The training loop: the page to read first."""

from __future__ import annotations

import math
from typing import Any

from momentum_gpt.core import activity, distributed, stopping
from momentum_gpt.core.config import TrainConfig
from momentum_gpt.core.errors import MachineError
from momentum_gpt.data import TrainingData, prefetch
from momentum_gpt.evaluation.statistics import margin_key
from momentum_gpt.tracking import Tracker
from momentum_gpt.training.bad_steps import BadSteps
from momentum_gpt.training.engine import accumulate, grad_norm, set_lr, update
from momentum_gpt.training.optim import lr_at
from momentum_gpt.training.progress import Progress
from momentum_gpt.training.run import Run
from momentum_gpt.training.telemetry import profiled
from momentum_gpt.training.throughput import Throughput


def train(
    config: TrainConfig,
    batches: TrainingData,
    run: Run,
    tracker: Tracker | None,
    throughput: Throughput,
) -> int:
    """Train from the run's position to the last step, or until somebody asks to stop.

    A checkpoint is written either way. Every rank must call this.

    Args:
        run: evaluates and saves, on every rank, as the engine may be spread over them.
        tracker: the main rank's; None on the others.

    Returns:
        The exit code: 0 after the last step, else that of the request to stop.

    Raises:
        UserError: a step is bad, and the run is to stop then, or bad steps do not end.
        Rewind: a step is bad, and the run is to go on from its last checkpoint.
        MachineError: the model is broken, or the last checkpoint could not be written.
    """
    training = config.training
    engine = run.engine
    position = run.position
    phases = throughput.phases
    bad_steps = BadSteps(config, batches, position)
    progress = Progress(position.step, training.max_steps)

    @phases("logging")
    def log(metrics: dict[str, Any]) -> None:
        if tracker:
            tracker.log(position.step, run.tokens, metrics)

    def evaluate() -> bool:
        """Return whether the evaluation was done, and not stopped."""
        with phases("evaluation"):
            metrics = run.evaluate()
        if metrics is None:
            return False
        log(metrics)
        progress.say(describe(position.step, metrics))
        return True

    problem = None
    stop = position.evaluation_is_due and not evaluate()
    steps = range(position.step, position.step if stop else training.max_steps)
    coming = prefetch(batches, batches.plan.reader(distributed.rank()), steps)
    coming = profiled(phases.waiting(coming), config.run_dir / "profile", training.profile)
    for step, micro_batches, n_targets in coming:
        activity.pulse(f"step {step + 1}: forward and backward passes")
        lr = lr_at(step, config.optim, training.max_steps)
        set_lr(engine, lr)
        with phases("passes"):
            parts = accumulate(engine, micro_batches, n_targets)

        # Every rank must take the same decisions, or one would wait for the others forever.
        loss, stop, is_writing = run.agree(parts)
        with phases("logging"):
            by_layer = run.by_layer() if is_due(step + 1, training.layers_every) else {}
        with phases("update"):
            was_taken = update(engine, leave_out=bad_steps.is_bad(step, loss, engine))
        position.advance(batches.order_hash(position.order_hash, step))
        throughput.step()
        progress.step()

        if not was_taken and step not in position.skipped_steps:
            event = bad_steps.handle(step, parts)
            log(event)
            progress.say(event["event"])

        last = position.step == training.max_steps
        evaluating = last or is_due(position.step, training.eval_every)
        saving = last or is_due(position.step, training.save_every)
        if is_due(position.step, training.log_every) and math.isfinite(loss):
            speed = throughput.read()
            log({"train/loss": loss, "optim/lr": lr, **speed, **norm_of(engine)})
            progress.show(position.step, loss, speed["train/tokens_per_s"])
        if by_layer:
            log(by_layer)
        if evaluating:
            position.evaluation_is_due = stop  # whoever asked to stop should not wait for it
            stop = stop or not evaluate()
        if saving or stop:
            with phases("saving"):
                if tracker:
                    tracker.flush()  # a checkpoint must not be ahead of the metrics
                progress.say(run.finish_saving())
                problem = run.save()
            progress.say(problem)
        elif not is_writing:
            progress.say(run.finish_saving())

        if evaluating or saving:
            throughput.restart()
        if stop:
            break

    problem = run.finish_saving() or problem
    progress.close()
    if problem:
        raise MachineError(problem)
    if position.step < training.max_steps or position.evaluation_is_due:
        return max(distributed.from_all_ranks(stopping.requested()))
    return 0


def is_due(step: int, every: int) -> bool:
    """Return whether something that happens every so many steps happens now; 0 is never."""
    return every > 0 and step % every == 0


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
