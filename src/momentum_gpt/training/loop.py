"""The training loop: the page to read first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
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
    return Loop(config, batches, run, tracker, throughput).train()


@dataclass(frozen=True)
class Step:
    """A step that was taken."""

    lr: float
    loss: float
    """Nats per token, over all ranks."""
    stop: bool
    """Whether somebody asked to stop, on any rank."""
    is_writing: bool
    """Whether a checkpoint is still being written, on any rank."""
    by_layer: dict[str, Any]
    """Metrics of each layer, where they are due."""


class Loop:
    """The steps of a run, and what is logged, measured and saved between them."""

    def __init__(
        self,
        config: TrainConfig,
        batches: TrainingData,
        run: Run,
        tracker: Tracker | None,
        throughput: Throughput,
    ) -> None:
        self.config = config
        self.batches = batches
        self.run = run
        self.position = run.position
        self.tracker = tracker
        self.throughput = throughput
        self.phases = throughput.phases
        self.bad_steps = BadSteps(config, batches, run.position)
        self.progress = Progress(run.position.step, config.training.max_steps)
        self.problem: str | None = None
        """Why the last checkpoint could not be written."""

    def train(self) -> int:
        """Take step after step; see the function `train`."""
        training, position = self.config.training, self.position
        stop = position.evaluation_is_due and not self.evaluate()
        steps = range(position.step, position.step if stop else training.max_steps)
        for number, micro_batches, n_targets in self.coming(steps):
            step = self.take(number, micro_batches, n_targets)
            self.log_step(step)

            last = position.step == training.max_steps
            evaluating = last or is_due(position.step, training.eval_every)
            saving = last or is_due(position.step, training.save_every)
            stop = step.stop
            if evaluating:
                position.evaluation_is_due = stop  # whoever asked to stop should not wait for it
                stop = stop or not self.evaluate()
            if saving or stop:
                self.save()
            elif not step.is_writing:
                self.progress.say(self.run.finish_saving())
            if evaluating or saving:
                self.throughput.restart()
            if stop:
                break
        return self.end()

    def coming(self, steps: range) -> Iterator[tuple[int, Any, int]]:
        """Yield the number, the micro-batches and the targets of each step, read ahead."""
        reader = self.batches.plan.reader(distributed.rank())
        coming = self.phases.waiting(prefetch(self.batches, reader, steps))
        return profiled(coming, self.config.run_dir / "profile", self.config.training.profile)

    def take(self, number: int, micro_batches: Any, n_targets: int) -> Step:
        """Take one step: forward and backward passes, and the update."""
        engine, position, training = self.run.engine, self.position, self.config.training
        activity.pulse(f"step {number + 1}: forward and backward passes")
        lr = lr_at(number, self.config.optim, training.max_steps)
        set_lr(engine, lr)
        with self.phases("passes"):
            parts = accumulate(engine, micro_batches, n_targets)

        # Every rank must take the same decisions, or one would wait for the others forever.
        loss, stop, is_writing = self.run.agree(parts)
        with self.phases("logging"):
            by_layer = self.run.by_layer() if is_due(number + 1, training.layers_every) else {}
        with self.phases("update"):
            leave_out = self.bad_steps.is_bad(number, loss, engine)
            was_taken = update(engine, leave_out=leave_out)
        position.advance(self.batches.order_hash(position.order_hash, number))
        self.throughput.step()
        self.progress.step()

        if not was_taken and number not in position.skipped_steps:
            event = self.bad_steps.handle(number, parts)
            self.log(event)
            self.progress.say(event["event"])
        return Step(lr, loss, stop, is_writing, by_layer)

    def log_step(self, step: Step) -> None:
        """Log what is due after a step."""
        is_logged = is_due(self.position.step, self.config.training.log_every)
        if is_logged and math.isfinite(step.loss):
            speed = self.throughput.read()
            metrics = {"train/loss": step.loss, "optim/lr": step.lr}
            self.log(metrics | speed | norm_of(self.run.engine))
            self.progress.show(self.position.step, step.loss, speed["train/tokens_per_s"])
        if step.by_layer:
            self.log(step.by_layer)

    def log(self, metrics: dict[str, Any]) -> None:
        """Log metrics, on the main rank."""
        with self.phases("logging"):
            if self.tracker:
                self.tracker.log(self.position.step, self.run.tokens, metrics)

    def evaluate(self) -> bool:
        """Measure the model; return whether that was done, and not stopped."""
        with self.phases("evaluation"):
            metrics = self.run.evaluate()
        if metrics is None:
            return False
        self.log(metrics)
        self.progress.say(describe(self.position.step, metrics))
        return True

    def save(self) -> None:
        """Begin to write a checkpoint, after the one before it is written."""
        with self.phases("saving"):
            if self.tracker:
                self.tracker.flush()  # a checkpoint must not be ahead of the metrics
            self.progress.say(self.run.finish_saving())
            self.problem = self.run.save()
        self.progress.say(self.problem)

    def end(self) -> int:
        """Wait until the last checkpoint is written; return the exit code."""
        problem = self.run.finish_saving() or self.problem
        self.progress.close()
        if problem:
            raise MachineError(problem)
        is_last = self.position.step == self.config.training.max_steps
        if is_last and not self.position.evaluation_is_due:
            return 0
        return max(distributed.from_all_ranks(stopping.requested()))


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
