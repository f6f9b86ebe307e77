"""Pretrain a model.

    momentum-gpt train name=a data=data/stdlib
    momentum-gpt train name=b data=data/stdlib attention=momentum \\
        attention.ema_decay=0.5
    momentum-gpt train name=c data=data/mine experiment=dai2023_350m \\
        launch.nproc_per_node=8
    momentum-gpt train name=d data=data/mine model=gpt2 init=/models/gpt2 \\
        attention=momentum

The options are composed once, checked, and written to runs/NAME/config.yaml,
which the ranks read. The same command resumes a run that was interrupted.
"""

from __future__ import annotations

from momentum_gpt.core import stopping

if __name__ == "__main__":
    stopping.listen()  # before the imports, which take seconds

import os
from collections.abc import Iterator
from contextlib import contextmanager

from momentum_gpt.cli import Command, is_sweep, typed_options
from momentum_gpt.core import ownership
from momentum_gpt.core.config import TrainConfig, read_config, write_config
from momentum_gpt.core.errors import UserError


def train(config: TrainConfig) -> int:
    """Check the config, claim the run's folder, and train; return the exit code."""
    # Imported here so that --help does not load torch.
    from torch.distributed.elastic.multiprocessing.errors import record

    from momentum_gpt.launching.peers import peers
    from momentum_gpt.launching.submit import submit
    from momentum_gpt.worker import work

    launch = config.launch
    if config.dry_run:
        check(config)
        print(rehearsal(config))
        return 0
    if launch.kind != "local":
        check(config)
        return submit(config, typed_options())
    if launch.node_rank > 0:  # the first host checks the options
        return start(config)

    others = peers()
    path = config.run_dir / "config.yaml"
    claim = claimed(config)
    with others.prepared(claim, path) if others else claim as code:
        if code is not None:
            return code
        if others is None:
            return start(config)
        code = record(work)(path)
        others.leave()
        return code or 0


def check(config: TrainConfig) -> None:
    """Check the options against the run that is in the folder, if there is one, and all they name.

    Raises:
        UserError: an option cannot be what it is.
    """
    from momentum_gpt.launching.plan import settle_stage
    from momentum_gpt.tracking.tensorboard import require_installed
    from momentum_gpt.training.checkpoint import newest_step
    from momentum_gpt.training.engine import check_deepspeed_options
    from momentum_gpt.training.resuming import refuse_changes, take_over
    from momentum_gpt.training.settle import settle

    require_installed(config.tracking.also)
    old = begun_run(config)
    if old:
        take_over(config, old)
    settle(config)
    chosen = settle_stage(config)
    mended = check_deepspeed_options(config.deepspeed, config.training.precision, config.optim.name)
    for message in filter(None, (chosen, mended)):
        print(message)
    if old:
        refuse_changes(old, config, newest_step(config.run_dir / "checkpoints"))


def rehearsal(config: TrainConfig) -> str:
    """Open the data, build the model without memory, and return what would be trained."""
    import torch

    from momentum_gpt.core.disk import amount, checkpoint_bytes
    from momentum_gpt.data import describe_data, open_training, open_validation
    from momentum_gpt.models import GPT
    from momentum_gpt.training.describe import describe

    ranks = config.launch.nnodes * config.launch.nproc_per_node
    plan = config.plan_batch(ranks)
    data = describe_data(open_training(config, plan), open_validation(config), config)
    with torch.device("meta"):
        model = GPT(config.model, config.attention)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())

    size = checkpoint_bytes(n_parameters, config.training.precision, config.stage_on(ranks))
    return "\n".join(
        [
            describe(config, plan, data, n_parameters),
            f"disk      {amount(size)} for each checkpoint, in {config.run_dir}",
            "dry_run=true: nothing was written",
        ]
    )


@contextmanager
def claimed(config: TrainConfig) -> Iterator[int | None]:
    """Check the options, own the run's folder and write its config.

    Yields:
        None if there is something to train, else the exit code.
    """
    from momentum_gpt.tracking import show_again
    from momentum_gpt.training.checkpoint import is_complete

    check(config)
    with ownership.own(config.run_dir):
        os.environ[ownership.DRIVER] = str(os.getpid())
        write_config(config, config.run_dir / "config.yaml")
        max_steps = config.training.max_steps
        if not is_complete(config.run_dir / "checkpoints", max_steps):
            yield stopping.requested() or None
            return

        print(f"{config.run_dir} is complete: all {max_steps} steps are done")
        if message := show_again(config):
            print(message)
        yield 0


def begun_run(config: TrainConfig) -> TrainConfig | None:
    """Return the config of the run that is in the folder; None if there is none.

    A folder without a checkpoint holds nothing that could be resumed: whatever made the first
    start fail may be changed.

    Raises:
        UserError: there is one, and resume=never.
    """
    from momentum_gpt.training.checkpoint import has_any

    if not has_any(config.run_dir / "checkpoints"):
        return None
    if config.resume == "never":
        raise UserError(
            f"{config.run_dir} exists already and resume=never: "
            "choose another name, or resume=auto to resume it"
        )
    return read_config(config.run_dir / "config.yaml")


def start(config: TrainConfig) -> int:
    """Run the worker in this process, or one per rank under torchrun; return the exit code."""
    from momentum_gpt.launching.torchrun import run_ranks
    from momentum_gpt.training.checkpoint import newest_step
    from momentum_gpt.worker import work

    path = config.run_dir / "config.yaml"
    launch = config.launch
    # DeepSpeed starts only once in a process, and a sweep has several jobs.
    if launch.nproc_per_node * launch.nnodes > 1 or is_sweep():
        checkpoints = config.run_dir / "checkpoints"
        return run_ranks(path, launch, lambda: newest_step(checkpoints))
    return work(path)


def final_loss(config: TrainConfig) -> float:
    """Return the validation loss of the last evaluation, in nats per token."""
    from momentum_gpt.comparison.runs import load_run

    return float(load_run(str(config.run_dir)).final["val/loss"])


main = Command(train, TrainConfig, "train", value=final_loss)


if __name__ == "__main__":
    main()
