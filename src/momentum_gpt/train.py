"""Pretrain a model.

    momentum-gpt train name=a data=data/stdlib
    momentum-gpt train name=b data=data/stdlib attention=momentum \\
        attention.ema_decay=0.5
    momentum-gpt train name=c data=data/mine experiment=paper_350m \\
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
from pathlib import Path

from momentum_gpt.cli import Command, is_sweep
from momentum_gpt.core import ownership
from momentum_gpt.core.config import TrainConfig, read_config, write_config
from momentum_gpt.core.errors import UserError


def train(config: TrainConfig) -> int:
    """Check the config, claim the run's folder, and train; return the exit code."""
    # Imported here so that --help does not load torch.
    from momentum_gpt.tracking import show_again
    from momentum_gpt.training.checkpoint import is_complete, newest_step
    from momentum_gpt.training.resuming import refuse_changes, take_over
    from momentum_gpt.training.settle import settle

    old = begun_run(config)
    if old:
        take_over(config, old)
    settle(config)
    if old:
        refuse_changes(old, config, newest_step(config.run_dir / "checkpoints"))

    with ownership.own(config.run_dir):
        os.environ[ownership.DRIVER] = str(os.getpid())
        path = config.run_dir / "config.yaml"
        write_config(config, path)
        max_steps = config.training.max_steps
        if is_complete(config.run_dir / "checkpoints", max_steps):
            print(f"{config.run_dir} is complete: all {max_steps} steps are done")
            if message := show_again(config):
                print(message)
            return 0
        return stopping.requested() or launch(config, path)


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


def launch(config: TrainConfig, path: Path) -> int:
    """Run the worker in this process, or one per rank under torchrun; return the exit code."""
    from momentum_gpt.launching.torchrun import run_ranks
    from momentum_gpt.training.checkpoint import newest_step
    from momentum_gpt.worker import work

    # DeepSpeed starts only once in a process, and a sweep has several jobs.
    if config.launch.nproc_per_node > 1 or is_sweep():
        checkpoints = config.run_dir / "checkpoints"
        return run_ranks(path, config.launch, lambda: newest_step(checkpoints))
    return work(path)


main = Command(train, TrainConfig, "train")


if __name__ == "__main__":
    main()
