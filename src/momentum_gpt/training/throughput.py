"""Speed, and where the time goes: tokens per second, the share of each phase, MFU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import torch

from momentum_gpt.core import distributed
from momentum_gpt.core.flops import peak_flops
from momentum_gpt.training.telemetry import peak_memory_gb

T = TypeVar("T")
Mark: TypeAlias = float | torch.cuda.Event

PHASES = {
    "data": "train/data_wait",
    "passes": "train/passes_share",
    "update": "train/update_share",
    "logging": "train/logging_share",
    "evaluation": "train/evaluation_share",
    "saving": "train/saving_share",
}
"""What a run spends its time on, and the metric of each."""


class Phases:
    """Adds up the time of each phase: `with phases("update"): ...`.

    A GPU works behind its host, whose clock would time how long it takes to start the work. So
    there a phase begins and ends when the GPU gets to it, and nothing waits before `read`.
    """

    def __init__(self) -> None:
        self.began = mark()
        self.marks: list[tuple[str, Mark, Mark]] = []

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the time of the block, or of the function that is decorated, as the phase's."""
        began = mark()
        yield
        self.marks.append((phase, began, mark()))

    def waiting(self, items: Iterator[T]) -> Iterator[T]:
        """Yield the items, and count the time spent waiting for them as that of the data."""
        while True:
            with self("data"):
                item = next(items, None)
            if item is None:
                return
            yield item

    def read(self) -> dict[str, float]:
        """Return each phase's share of the time since the last reading, and begin again.

        This waits until the device has finished its work.
        """
        now = mark()
        whole = seconds_between(self.began, now)
        shares = dict.fromkeys(PHASES.values(), 0.0)
        for phase, began, ended in self.marks:
            shares[PHASES[phase]] += seconds_between(began, ended) / whole
        self.began = now
        self.marks.clear()
        return shares


def mark() -> Mark:
    """Return the time, or what will know it when the GPU has done all that it was given so far."""
    if not torch.cuda.is_available():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(began: Any, ended: Any) -> float:
    """Return the seconds between two marks; on a GPU, wait for the later one first."""
    if isinstance(ended, float):
        return ended - began
    ended.synchronize()
    return began.elapsed_time(ended) / 1000


class Throughput:
    """Counts tokens and seconds since the last `restart`.

    Restarting after evaluations and checkpoints leaves their time out of the speed. The shares of
    the phases are those of all the time.
    """

    def __init__(self, tokens_per_step: int, flops_per_token: float) -> None:
        self.tokens_per_step = tokens_per_step
        self.flops_per_token = flops_per_token
        self.peak = _peak_of_this_device()
        self.phases = Phases()
        self.restart()

    def restart(self) -> None:
        """Begin to count again."""
        self.began = time.perf_counter()
        self.steps = 0

    def step(self) -> None:
        """Count one step."""
        self.steps += 1

    def read(self) -> dict[str, float]:
        """Return the metrics since the last restart, over all ranks, and restart."""
        shares = self.phases.read()
        seconds = time.perf_counter() - self.began
        rate = self.steps * self.tokens_per_step / seconds
        metrics = {
            "train/tokens_per_s": rate,
            "train/memory_gb": peak_memory_gb(),
            **shares,
        }
        self.restart()
        if self.peak:
            peak = self.peak * distributed.world_size()
            metrics["train/mfu"] = rate * self.flops_per_token / peak
        return metrics


def _peak_of_this_device() -> float | None:
    return peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
