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
"""Dense bf16 FLOP/s by words in the device's name, from NVIDIA's data sheets.

A GPU that is not here gets no MFU.
"""


def flops_per_token(model: ModelConfig, n_parameters: int) -> float:
    """Return 6 N + 12 L T C, the FLOPs of the forward and backward pass of one token.

    Attention is not halved for causality (PaLM, arXiv 2204.02311, appendix B).
    """
    return 6 * n_parameters + 12 * model.n_layers * model.seq_len * model.d_model


class Throughput:
    """Counts tokens and seconds since the last `restart`.

    Restarting after evaluations and checkpoints leaves their time out.
    """

    def __init__(self, tokens_per_step: int, flops_per_token: float) -> None:
        self.tokens_per_step = tokens_per_step
        self.flops_per_token = flops_per_token
        self.peak = _peak_flops()
        self.restart()

    def restart(self) -> None:
        """Begin to count again."""
        self.began = time.perf_counter()
        self.steps = 0
        self.waited = 0.0

    def step(self) -> None:
        """Count one step."""
        self.steps += 1

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
        metrics = {"train/tokens_per_s": rate, "train/data_wait": self.waited / seconds}
        self.restart()
        if self.peak:
            peak = self.peak * distributed.world_size()
            metrics["train/mfu"] = rate * self.flops_per_token / peak
        return metrics


def _peak_flops() -> float | None:
    if not torch.cuda.is_available():
        return None
    words = torch.cuda.get_device_name().split()
    for name, peak in PEAK_BF16_FLOPS.items():
        if all(_is_in(part, words) for part in name.split()):
            return peak
    return None


def _is_in(part: str, words: list[str]) -> bool:
    """Return whether a part of a device's name, such as "H100", is within one of its words."""
    return any(part in word for word in words)
