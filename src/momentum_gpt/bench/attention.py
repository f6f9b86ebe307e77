"""What momentum costs beside vanilla attention: training steps and decoding, in turns in one process, medians.

    python -m momentum_gpt.bench.attention
    python -m momentum_gpt.bench.attention lengths=[1024] attention=shift

On a CPU: a 12-layer, d_model 768 model in fp32. On CUDA: the 350M model in bf16, compiled, with its peak memory, and the
bytes per second of the momentum kernel beside those of a plain copy; minutes. A step is forward, backward and AdamW's update.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from momentum_gpt.cli import Command
from momentum_gpt.core import distributed
from momentum_gpt.core.config import ModelConfig, require
from momentum_gpt.models import GPT, Cache
from momentum_gpt.models.gpt import init_weights
from momentum_gpt.ops import add_ema_of_past

VOCABULARY = 8192
"""Small: a large one would hide what attention costs."""


@dataclass
class BenchAttentionConfig:
    attention: dict[str, Any]
    """The variant held against vanilla."""
    lengths: list[int] | None = None
    """Tokens of context. null: 256, 1024 and 4096; 1024 alone on CUDA, where each takes minutes to compile."""
    repeats: int = 7
    """Timed pairs at each length."""

    def __post_init__(self) -> None:
        require(self.repeats >= 1, "repeats", self.repeats, "at least 1")
        for length in self.lengths or []:
            require(length >= 128, "lengths", length, "at least 128, each")


def bench_attention(config: BenchAttentionConfig) -> None:
    device = distributed.local_device()
    variants = {"vanilla": {"name": "vanilla"}, config.attention["name"]: config.attention}
    where = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(f"torch {torch.__version__}, {where}; {config.attention}")
    print(
        f"{'':<34}{'vanilla':>12}{config.attention['name']:>12}   ratio, median of pairs [least, most]"
    )
    for length in config.lengths or ([1024] if device.type == "cuda" else [256, 1024, 4096]):
        rows = max(1, (16384 if device.type == "cuda" else 1024) // length)
        steps, peaks = [], []
        for options in variants.values():
            before = allocated(device)
            steps.append(training_step(options, length, rows, device))
            peaks.append(peak_memory(steps[-1], device) - before)
        report(f"step, T={length}, {rows} rows, ms", in_turns(steps, config.repeats, device))
        if device.type == "cuda":
            print(
                f"{'  peak memory, GiB':<34}{peaks[0]:>12.2f}{peaks[1]:>12.2f}   {peaks[1] / peaks[0]:.4f}"
            )
        del steps
    decoders = [decoding(options, 1024, device) for options in variants.values()]
    report("32 decoded tokens, 8 rows, ms", in_turns(decoders, config.repeats, device))
    if device.type == "cuda":
        kernel, copy = kernel_rate(device)
        print(f"momentum kernel {kernel:.0f} GB/s, plain copy {copy:.0f} GB/s: {kernel / copy:.2f}")
    else:
        print(
            "on a GPU (350M, bf16, compiled; kernel against copy): not measured, there is no CUDA here"
        )


def build(options: dict[str, Any], length: int, device: torch.device) -> GPT:
    on_gpu = device.type == "cuda"
    n_layers, n_heads, d_model = (24, 16, 1024) if on_gpu else (12, 12, 768)
    model = GPT(ModelConfig(n_layers, n_heads, d_model, length, VOCABULARY), options)
    init_weights(model, seed=0)
    return model.to(device, torch.bfloat16 if on_gpu else torch.float32)


def training_step(
    options: dict[str, Any], length: int, rows: int, device: torch.device
) -> Callable[[], None]:
    model = build(options, length, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    if device.type == "cuda":
        model.compile()
    tokens = torch.randint(
        VOCABULARY, (rows, length + 1), generator=torch.Generator().manual_seed(0)
    ).to(device)

    def step() -> None:
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def decoding(options: dict[str, Any], length: int, device: torch.device) -> Callable[[], None]:
    model = build(options, length, device).eval()
    tokens = torch.randint(
        VOCABULARY, (8, length // 2), generator=torch.Generator().manual_seed(0)
    ).to(device)

    @torch.no_grad()
    def decode() -> None:
        cache = Cache(model.config.n_layers, len(tokens), length, device)
        for tensors, filled in zip(cache.layers, prefilled.layers, strict=True):
            tensors.tensors = dict(filled.tensors)
        cache.lengths, cache.longest = prefilled.lengths, prefilled.longest
        last = tokens[:, -1:]
        for _ in range(32):
            last = model(last, cache=cache).argmax(-1)

    with torch.no_grad():
        prefilled = Cache(model.config.n_layers, len(tokens), length, device)
        model.hidden(tokens, cache=prefilled)
    return decode


def in_turns(
    acts: list[Callable[[], None]], repeats: int, device: torch.device
) -> list[list[float]]:
    """Milliseconds of each act, `repeats` times, one after the other in turns; the first turn, untimed, warms up."""
    times: list[list[float]] = [[] for _ in acts]
    for turn in range(repeats + 1):
        order = list(zip(acts, times, strict=True))
        for act, its in order if turn % 2 else reversed(order):
            milliseconds = timed(act, device)
            if turn:
                its.append(milliseconds)
    return times


def timed(act: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) * 1e3


def report(what: str, times: list[list[float]]) -> None:
    ratios = [variant / vanilla for vanilla, variant in zip(*times, strict=True)]
    medians = "".join(f"{median(its):>12.1f}" for its in times)
    print(
        f"{what:<34}{medians}   {median(ratios):.4f} [{min(ratios):.4f}, {max(ratios):.4f}]",
        flush=True,
    )


def allocated(device: torch.device) -> float:
    """GiB in tensors now; 0 on a CPU."""
    return torch.cuda.memory_allocated() / 2**30 if device.type == "cuda" else 0.0


def peak_memory(step: Callable[[], None], device: torch.device) -> float:
    """GiB allocated at most in a training step, after one that compiles and makes the optimizer's state; 0 on a CPU."""
    if device.type != "cuda":
        return 0.0
    step()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 2**30


def kernel_rate(device: torch.device) -> tuple[float, float]:
    """GB/s of the momentum kernel, which reads values and attention output and writes their sum, and of a plain copy."""
    y, v = (
        torch.randn(32, 1024, 16, 64, device=device, dtype=torch.bfloat16).transpose(1, 2)
        for _ in range(2)
    )
    copied = torch.empty_like(y)

    def rate(act: Callable[[], Tensor], n_tensors: int) -> float:
        times = [timed(act, device) for _ in range(50)]
        return n_tensors * y.nbytes / median(times[10:]) / 1e6

    return rate(lambda: add_ema_of_past(y, v, 0.5), 3), rate(lambda: copied.copy_(y), 2)


main = Command(bench_attention, BenchAttentionConfig, "bench_attention")


if __name__ == "__main__":
    main()
