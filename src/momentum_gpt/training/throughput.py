"""Speed: tokens per second and, on a known GPU, model FLOPs utilisation (MFU)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TypeVar

import torch

from momentum_gpt.core import distributed
from momentum_gpt.core.config import ModelConfig

T = TypeVar("T")

PEAK_BF16_FLOPS = {"A100": 312e12, "H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12}
"""Dense bf16 FLOP/s by a part of the device's name, from NVIDIA's data sheets. A GPU that is not here gets no MFU."""


def flops_per_token(model: ModelConfig, n_parameters: int) -> float:
    """6 N + 12 L T C: forward and backward, attention not halved for causality (PaLM, arXiv 2204.02311, appendix B)."""
    return 6 * n_parameters + 12 * model.n_layers * model.seq_len * model.d_model


class Throughput:
    """Counts tokens since `restart`, which leaves out evaluations and checkpoints."""

    def __init__(self, tokens_per_step: int, flops_per_token: float) -> None:
        self.tokens_per_step, self.flops_per_token = tokens_per_step, flops_per_token
        self.peak = _peak_flops()
        self.restart()

    def restart(self) -> None:
        self.began, self.steps, self.waited = time.perf_counter(), 0, 0.0

    def step(self) -> None:
        self.steps += 1

    def waiting(self, items: Iterator[T]) -> Iterator[T]:
        """The items, the time that they keep us waiting being counted."""
        while True:
            began = time.perf_counter()
            item = next(items, None)
            self.waited += time.perf_counter() - began
            if item is None:
                return
            yield item

    def read(self) -> dict[str, float]:
        """The metrics since the last restart, over all ranks; restarts. Call it when the device has finished its steps."""
        seconds = time.perf_counter() - self.began
        rate = self.steps * self.tokens_per_step / seconds
        metrics = {"train/tokens_per_s": rate, "train/data_wait": self.waited / seconds}
        self.restart()
        if self.peak:
            metrics["train/mfu"] = (
                rate * self.flops_per_token / (self.peak * distributed.world_size())
            )
        return metrics


def _peak_flops() -> float | None:
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next(
        (
            peak
            for part, peak in PEAK_BF16_FLOPS.items()
            if all(word in name for word in part.split())
        ),
        None,
    )
