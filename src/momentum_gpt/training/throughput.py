"""Speed: tokens per second and, on a known GPU, model FLOPs utilisation (MFU)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from momentum_gpt.core import distributed
from momentum_gpt.core.flops import peak_flops
from momentum_gpt.training.telemetry import peak_memory_gb

T = TypeVar("T")


class Throughput:
    """Counts tokens and seconds since the last `restart`.

    Restarting after evaluations and checkpoints leaves their time out.
    """

    def __init__(self, tokens_per_step: int, flops_per_token: float) -> None:
        self.tokens_per_step = tokens_per_step
        self.flops_per_token = flops_per_token
        self.peak = _peak_of_this_device()
        self.restart()

    def restart(self) -> None:
        """Begin to count again."""
        self.began = time.perf_counter()
        self.steps = 0
        self.waited = 0.0
        self.updated = 0.0

    def step(self) -> None:
        """Count one step."""
        self.steps += 1

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Count the time of the block as that of the update."""
        began = time.perf_counter()
        yield
        self.updated += time.perf_counter() - began

    def waiting(self, items: Iterator[T]) -> Iterator[T]:
        """Yield the items, and count the time spent waiting for them."""
        while True:
            began = time.perf_counter()
            item = next(items, None)
            self.waited += time.perf_counter() - began
            if item is None:
                return
            yield item

    def read(self) -> dict[str, float]:
        """Return the metrics since the last restart, over all ranks, and restart.

        Call it when the device has finished its steps, or their time is counted too low.
        """
        seconds = time.perf_counter() - self.began
        rate = self.steps * self.tokens_per_step / seconds
        metrics = {
            "train/tokens_per_s": rate,
            "train/data_wait": self.waited / seconds,
            "train/update_share": self.updated / seconds,
            "train/memory_gb": peak_memory_gb(),
        }
        self.restart()
        if self.peak:
            peak = self.peak * distributed.world_size()
            metrics["train/mfu"] = rate * self.flops_per_token / peak
        return metrics


def _peak_of_this_device() -> float | None:
    return peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
