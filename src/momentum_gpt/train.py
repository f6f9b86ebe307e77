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

from pathlib import Path

from momentum_gpt.cli import Command, is_sweep
from momentum_gpt.core.config import TrainConfig, changes_nothing, flat, read_config, write_config
from momentum_gpt.core.errors import UserError


def train(config: TrainConfig) -> int:
    """Check the config, claim the run's folder, and train; return the exit code."""
    # Imported here so that --help does not load torch.
    from momentum_gpt.training.checkpoint import latest_step
    from momentum_gpt.training.settle import settle

    settle(config)
    path = claim_run_folder(config)

    max_steps = config.training.max_steps
    if latest_step(config.run_dir / "checkpoints") >= max_steps:
        print(f"{config.run_dir} is complete: all {max_steps} steps are done")
        return 0
    return launch(config, path)


def claim_run_folder(config: TrainConfig) -> Path:
    """Write `config.yaml` into the run folder and return its path.

    Raises:
        UserError: the folder holds a run with another config, or `resume=never` and it holds any.
    """
    path = config.run_dir / "config.yaml"
    if path.is_file():
        if config.resume == "never":
            raise UserError(
                f"{config.run_dir} exists already and resume=never: "
                "choose another name, or resume=auto to resume it"
            )
        refuse_changes(read_config(path), config)

    config.run_dir.mkdir(parents=True, exist_ok=True)
    write_config(config, path)
    return path


CHANGES_ROUNDING = ("deepspeed", "training.precision", "training.max_tokens_per_forward")
"""Options that a run may be resumed with other values of, as they change how it is computed only.

A section stands for all options in it.
"""


def refuse_changes(old: TrainConfig, new: TrainConfig) -> None:
    """Raise a UserError if an option that changes the result is not what the run began with."""
    before = flat(old)
    now = flat(new)
    differences = []
    for key in sorted(before | now):
        if before.get(key) != now.get(key) and not may_change(key):
            differences.append(f"{key} was {before.get(key)!r} and is {now.get(key)!r}")
    if differences:
        raise UserError(
            f"{new.run_dir} is a run with another config ({', '.join(differences)}): "
            "choose another name"
        )


def may_change(option: str) -> bool:
    """Return whether a run may be resumed with another value of an option."""
    section = option.partition(".")[0]
    return changes_nothing(option) or option in CHANGES_ROUNDING or section in CHANGES_ROUNDING


def launch(config: TrainConfig, path: Path) -> int:
    """Run the worker in this process, or one per rank under torchrun; return the exit code."""
    from momentum_gpt.launching.torchrun import run_ranks
    from momentum_gpt.worker import work

    # DeepSpeed starts only once in a process, and a sweep has several jobs.
    if config.launch.nproc_per_node > 1 or is_sweep():
        return run_ranks(path, config.launch.nproc_per_node)
    return work(path)


main = Command(train, TrainConfig, "train")


if __name__ == "__main__":
    main()
