"""One rank of a run, from its written config: `python -m momentum_gpt.worker CONFIG`.

It is started in place by `momentum_gpt.train`, or by torchrun once per rank. It never imports
Hydra: all ranks read one file, so that they cannot disagree.
"""

from __future__ import annotations

from momentum_gpt.core import stopping

if __name__ == "__main__":
    stopping.listen()  # before the imports, which take seconds

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import get_error_handler, record

from momentum_gpt.core import activity, distributed, outcome, ownership, scheduler
from momentum_gpt.core.config import TrainConfig, read_config
from momentum_gpt.core.disk import checkpoint_bytes, require_room_for_run
from momentum_gpt.core.errors import MachineError, UserError
from momentum_gpt.core.files import keep_json_lines
from momentum_gpt.core.flops import flops_per_token
from momentum_gpt.core.outcome import Outcome
from momentum_gpt.data import (
    TokenShards,
    TrainingData,
    ValidationData,
    describe_data,
    open_training,
    open_validation,
)
from momentum_gpt.models import GPT, start_from
from momentum_gpt.models.gpt import init_weights
from momentum_gpt.models.weights import weights_sha256
from momentum_gpt.tracking import Tracker
from momentum_gpt.training.bad_steps import MOST_IN_A_ROW, Rewind
from momentum_gpt.training.checkpoint import Checkpoint, newest_good, set_aside, tidy
from momentum_gpt.training.describe import describe
from momentum_gpt.training.engine import build_engine, check_deepspeed_options
from momentum_gpt.training.loop import train
from momentum_gpt.training.run import Run
from momentum_gpt.training.supervision import MARGIN, HangError, Watchdog
from momentum_gpt.training.throughput import Throughput


def pretrain(config: TrainConfig, timeout: timedelta) -> Outcome:
    """Train the run to its end, or until somebody asks to stop; return how it ended.

    Args:
        timeout: how long a rank waits in a collective operation.
    """
    run, batches, n_parameters = prepare(config, timeout)
    flops = flops_per_token(config.model)
    throughput = Throughput(config.training.tokens_per_step, flops)
    facts = {"n_parameters": n_parameters, "flops_per_token": flops, **run.hashes}

    code = None
    while code is None:
        try:
            with tracked(config, run.position.step, facts) as tracker:
                code = train(config, batches, run, tracker, throughput)
        except Rewind as rewind:
            go_back(run, rewind.step)

    step = run.position.step
    if code == 0:
        return Outcome(0, step, f"all {step} steps are done")
    message = f"stopped after step {step}, checkpoint saved; the same command resumes the run"
    say(message)
    return Outcome(code, step, message)


def prepare(config: TrainConfig, timeout: timedelta) -> tuple[Run, TrainingData, int]:
    """Open the data, build the model and the engine, and restore the newest checkpoint.

    Returns:
        The run, what it is trained on, and its number of parameters.
    """
    activity.pulse("opening the data, building the model")
    check_deepspeed_options(config.deepspeed, config.training.precision, config.optim.name)
    plan = config.plan_batch(distributed.world_size())
    batches = open_training(config, plan)
    validation = open_validation(config)

    found = find_checkpoint(config)
    model = build_model(config, validation, is_new=found is None)
    initial_weights = weights_sha256(model)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    say(describe(config, plan, describe_data(batches, validation, config), n_parameters))

    stage = config.stage_on(distributed.world_size())
    size = checkpoint_bytes(n_parameters, config.training.precision, stage)
    keep = config.training.keep_checkpoints
    distributed.on_main_rank(lambda: require_room_for_run(config.run_dir, size, keep))
    activity.pulse("building the engine")
    engine = build_engine(model, config, plan)
    distributed.set_timeout(timeout)
    run = Run(config, batches, validation, engine, initial_weights, size)
    resume(run, found)
    return run, batches, n_parameters


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


def find_checkpoint(config: TrainConfig) -> Checkpoint | None:
    """Return the newest good checkpoint, if there is any, and put the folder in order.

    Every rank must call this.

    Raises:
        UserError: there are checkpoints, but none is good.
    """
    folder = config.run_dir / "checkpoints"
    found, passed_over = newest_good(folder)
    for reason in passed_over:
        say(f"passed over a checkpoint: {reason}")
    if distributed.is_main():
        tidy(folder, found.folder.name if found else None)
    distributed.barrier()
    return found


def resume(run: Run, found: Checkpoint | None) -> None:
    """Restore a checkpoint, or an older one if its model is broken. Every rank must call this.

    Raises:
        UserError: no checkpoint gives a model back that is as it was saved.
    """
    while found is not None:
        fault = run.resume(found)
        if fault is None:
            say(f"resume    from {found.folder} ({found.manifest.tokens:,} tokens seen)")
            return
        say(f"passed over a checkpoint: {found.folder.name} is broken ({fault})")
        if distributed.is_main():
            set_aside(found.folder)
        distributed.barrier()
        found = find_checkpoint(run.config)


def go_back(run: Run, bad_step: int) -> None:
    """Go back to the last checkpoint, to leave out the update of a step. Every rank must call this.

    Raises:
        UserError: there is no checkpoint, or it was gone back to too often.
    """
    say(run.finish_saving())
    found = find_checkpoint(run.config)
    if found is None:
        raise UserError(
            f"step {bad_step + 1} is bad, and there is no checkpoint to go back to: use "
            "training.bad_step=skip, or a smaller training.save_every"
        )
    skipped = [*run.position.skipped_steps, bad_step]
    if sum(step >= found.manifest.step for step in skipped) > MOST_IN_A_ROW:
        raise UserError(
            f"more than {MOST_IN_A_ROW} steps after step {found.manifest.step} are bad: use a "
            "lower optim.lr or a longer warm-up"
        )
    resume(run, found)
    run.position.skipped_steps = skipped


@contextmanager
def tracked(config: TrainConfig, step: int, facts: dict[str, Any]) -> Iterator[Tracker | None]:
    """Yield the main rank's tracker, and close it afterwards.

    Raises:
        MachineError: metrics could not be written, and nothing else was raised.
    """
    tracker = open_tracker(config, step, facts)
    try:
        yield tracker
    except BaseException:
        with suppress(MachineError):  # what comes first is what the user is told
            say(tracker.close() if tracker else None)
        raise
    say(tracker.close() if tracker else None)


def open_tracker(config: TrainConfig, step: int, facts: dict[str, Any]) -> Tracker | None:
    """Return the main rank's tracker, after dropping what an earlier attempt wrote after `step`."""
    if not distributed.is_main():
        return None
    for path in (config.run_dir / "evaluations").glob("*.jsonl"):
        keep_json_lines(path, lambda record: record["step"] <= step)
    return Tracker(config, step, facts)


def say(text: str | None) -> None:
    """Print on the main rank, if there is a text."""
    if text and distributed.is_main():
        print(text, flush=True)


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the run's lock: shared with the driver, or its own where nobody else started the ranks.

    Raises:
        UserError: another process holds the run.
    """
    lock = None

    def own() -> None:
        nonlocal lock
        if ownership.DRIVER not in os.environ:
            lock = ownership.own(run_dir)

    distributed.on_main_rank(own)
    with lock or ownership.share(run_dir):
        yield


def work(path: Path) -> int:
    """Join the other ranks, train, and leave; return the exit code.

    The main rank writes `outcome.json` beside the config, however it ends.
    """
    run_dir = path.parent
    is_main = os.environ.get("RANK", "0") == "0"  # also outside the process group
    if is_main:
        outcome.forget(run_dir)

    ended = Outcome(stopping.INTERRUPTED, None, "interrupted")
    try:
        ended = join_and_train(path)
    except (UserError, MachineError) as error:
        ended = Outcome(2 if isinstance(error, UserError) else 1, None, str(error))
        get_error_handler().record_exception(error)  # for the last word of who started us
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
        with locked(config.run_dir), Watchdog(hang_after, report):
            return pretrain(config, timeout)
    finally:
        distributed.stop()


if __name__ == "__main__":
    scheduler.take_place()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        ownership.die_with_parent()
    code = record(work)(Path(sys.argv[1]))
    stopping.ignore()
    sys.exit(code)
