"""The attention variants that a command trains side by side, by name and options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from momentum_gpt.models import ATTENTIONS

WAIT = ("launch=slurm", "launch.wait=true")
"""A submitted run, and what lets its command wait until it is trained."""


def variants(names: Sequence[str], decays: Sequence[float]) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the options of every variant, once for each decay if it has one.

    Args:
        names: of files in conf/attention/.
        decays: values of `attention.ema_decay`.
    """
    for name in names:
        if not ATTENTIONS[name].has_decay:
            yield name, [f"attention={name}"]
            continue
        for decay in decays:
            yield f"{name} {decay}", [f"attention={name}", f"attention.ema_decay={decay}"]


def waiting(options: Sequence[str]) -> list[str]:
    """Return the options of `train`, with which the command waits for a run that it submits."""
    submitted, wait = WAIT
    return [*options, wait] if submitted in options else list(options)
