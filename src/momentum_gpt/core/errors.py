"""The exceptions that a command prints as one line, and the checks that raise the first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields
from math import isfinite
from typing import Any


class UserError(ValueError):
    """A mistake the user can correct. Every command prints it as one line and exits with code 2.

    The message names the value, the rule it breaks and the remedy.
    """


class MachineError(Exception):
    """What this machine cannot do at present, such as writing to a full disk.

    Every command prints it as one line and exits with code 1. The message names what was to be
    done, why it cannot be, and the remedy. The same command succeeds once that is mended.
    """


class JobsFailedError(MachineError):
    """Jobs of a sweep failed, and the others have been done.

    Args:
        jobs: those that failed, each in one line, which names the cause where it is known.
    """

    def __init__(self, jobs: Sequence[str]) -> None:
        super().__init__("\n  ".join([f"{len(jobs)} job(s) of the sweep failed:", *jobs]))


def require(holds: bool, option: str, value: Any, rule: str) -> None:
    """Raise a UserError that names the option, its value and the rule, unless the rule holds."""
    if not holds:
        raise UserError(f"{option} must be {rule}, got {value!r}")


def require_at_least(least: float, option: str, value: float | None) -> None:
    """Raise a UserError if the value is smaller than `least`; None passes."""
    require(value is None or value >= least, option, value, f"at least {least}")


def require_choice(choices: Collection[str | None], option: str, value: str | None) -> None:
    """Raise a UserError unless the value is one of the choices."""
    names = ", ".join(choice for choice in choices if choice is not None)
    require(value in choices, option, value, f"one of {names}")


def require_finite(section: str, config: Any) -> None:
    """Raise a UserError if a number of the dataclass is infinite or not a number.

    Args:
        section: what the options' names begin with on the command line, e.g. "optim".
        config: a dataclass object.
    """
    for entry in fields(config):
        value = getattr(config, entry.name)
        if isinstance(value, float):
            require(isfinite(value), f"{section}.{entry.name}", value, "a finite number")
