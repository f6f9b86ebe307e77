"""Pretrain a model: compose the config once, check it, write it to the run folder, and start the worker(s).

    python -m momentum_gpt.train name=first data=data/stdlib
    python -m momentum_gpt.train name=first_momentum data=data/stdlib attention=momentum attention.ema_decay=0.5
    launch/local.sh 8 name=paper data=DIR experiment=paper_350m attention=momentum
    python -m momentum_gpt.train name=further data=DIR model=gpt2 init=/models/gpt2 attention=momentum attention.ema_decay=0.1

The same command goes on where an interrupted run stopped.
"""

from __future__ import annotations

from pathlib import Path

from momentum_gpt.cli import Command, is_sweep
from momentum_gpt.core.config import CHANGES_NOTHING, TrainConfig, flat, read_config, write_config
from momentum_gpt.core.errors import UserError
from momentum_gpt.data import SyntheticTask, open_validation
from momentum_gpt.evaluation.budget import settle_evaluation
from momentum_gpt.launching.torchrun import run_ranks
from momentum_gpt.models import build_attention
from momentum_gpt.models.weights import check_start, load_model_config
from momentum_gpt.training.checkpoint import latest_step
from momentum_gpt.training.engine import check_deepspeed_options


def train(config: TrainConfig) -> int:
    settle(config)
    path = claim_run_folder(config)
    if latest_step(config.run_dir / "checkpoints") >= config.training.max_steps:
        print(f"{config.run_dir} is complete: all {config.training.max_steps} steps are done")
        return 0
    return launch(config, path)


def settle(config: TrainConfig) -> None:
    """Check what the dataclasses cannot see (data, variant, engine, weights) and fill in what the user left to us."""
    build_attention(config.attention, config.model)
    if said := check_deepspeed_options(config.deepspeed, config.training.precision):
        print(said)
    validation = open_validation(config)
    if not isinstance(validation, SyntheticTask):
        print(
            f"measuring {settle_evaluation(config.evaluation, config.training, config.model.seq_len, validation.tokenizer)}"
        )
    needed = validation.vocab_size
    if config.init and latest_step(
        config.run_dir / "checkpoints"
    ):  # what it began with is in its checkpoint
        config.model.vocab_size = (
            config.model.vocab_size or read_config(config.run_dir / "config.yaml").model.vocab_size
        )
    elif config.init:
        settle_init(config, config.init, needed)
    if config.model.vocab_size is None:
        config.model.vocab_size = -(-needed // 64) * 64
    if config.model.vocab_size < needed:
        raise UserError(
            f"model.vocab_size={config.model.vocab_size} is smaller than the {needed} tokens of the data: leave it out or "
            f"take at least {needed}"
        )


def settle_init(config: TrainConfig, init: str, needed: int) -> None:
    """Check that the weights to start from fit the model, and that they know the tokens of the data."""
    known = load_model_config(init).vocab_size
    assert known is not None
    if known < needed:
        raise UserError(
            f"the data have {needed} tokens, but init={init!r} knows {known}: prepare the data with its tokenizer"
        )
    config.model.vocab_size = config.model.vocab_size or known
    check_start(config.model, init)


def claim_run_folder(config: TrainConfig) -> Path:
    """Write `config.yaml` into the run folder, unless another run has it.

    Raises:
        UserError: the folder holds a run with another config, or `resume=never` and it holds any.
    """
    path = config.run_dir / "config.yaml"
    if path.is_file():
        if config.resume == "never":
            raise UserError(
                f"{config.run_dir} exists already and resume=never: choose another name, or resume=auto to go on"
            )
        old, new = flat(read_config(path)), flat(config)
        changed = [
            key
            for key in sorted(old | new)
            if old.get(key) != new.get(key) and not key.startswith(CHANGES_NOTHING)
        ]
        if changed:
            differences = ", ".join(
                f"{key} was {old.get(key)!r} and is {new.get(key)!r}" for key in changed
            )
            raise UserError(
                f"{config.run_dir} is a run with another config ({differences}): choose another name"
            )
    config.run_dir.mkdir(parents=True, exist_ok=True)
    write_config(config, path)
    return path


def launch(config: TrainConfig, path: Path) -> int:
    """Run the worker: here, or once per rank under torchrun. In a sweep always so: DeepSpeed starts once a process."""
    if config.launch.nproc_per_node > 1 or is_sweep():
        return run_ranks(path, config.launch.nproc_per_node)
    from momentum_gpt.worker import work

    return work(path)


main = Command(train, TrainConfig, "train")


if __name__ == "__main__":
    main()
