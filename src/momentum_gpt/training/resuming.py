"""With which options a run may be resumed that are not those it began with."""

from __future__ import annotations

from momentum_gpt.core.config import TrainConfig, changes_nothing, flat
from momentum_gpt.core.errors import UserError
from momentum_gpt.training.optim import first_step_of_decay

COMPUTED_OTHERWISE = ("deepspeed", "training.precision", "training.max_tokens_per_forward")
"""Options by which the same is computed in another way, and rounded otherwise; or their section."""

LATER = ("data.path", "training.eval_every", "training.bad_step", "training.spike")
"""Options that may change for the steps to come. Of the data, the hash is what counts."""


def take_over(new: TrainConfig, old: TrainConfig) -> None:
    """Fill in the options that were left open with what was chosen when the run began."""
    new.model.vocab_size = new.model.vocab_size or old.model.vocab_size
    now, then = new.evaluation, old.evaluation
    now.tokens = now.tokens or then.tokens
    now.induction_sequences = now.induction_sequences or then.induction_sequences
    now.icl.queries = now.icl.queries or then.icl.queries


def refuse_changes(old: TrainConfig, new: TrainConfig, step: int) -> None:
    """Raise a UserError if an option is not what the run began with and may not change.

    Args:
        step: of the newest checkpoint.
    """
    before = flat(old)
    now = flat(new)
    differences = []
    for key in sorted(before | now):
        if before.get(key) == now.get(key) or may_change(key):
            continue
        if key == "training.max_steps" and is_longer(old, new, step):
            continue
        differences.append(f"{key} was {before.get(key)!r} and is {now.get(key)!r}")
    if differences:
        raise UserError(
            f"{new.run_dir} is a run with another config ({', '.join(differences)}): "
            "choose another name"
        )


def may_change(option: str) -> bool:
    """Return whether a run may be resumed with another value of an option."""
    section = option.partition(".")[0]
    computed_otherwise = option in COMPUTED_OTHERWISE or section in COMPUTED_OTHERWISE
    return computed_otherwise or option in LATER or changes_nothing(option)


def is_longer(old: TrainConfig, new: TrainConfig, step: int) -> bool:
    """Return whether the run may have another length: its learning rates so far stay the same.

    They do under the wsd schedule, until the rate begins to fall.
    """
    if new.optim.schedule != "wsd":
        return False
    falls = [first_step_of_decay(run.optim, run.training.max_steps) for run in (old, new)]
    return step <= min(falls)
