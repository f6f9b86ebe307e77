"""Time a variant beside vanilla attention: training steps, decoding, memory, and the kernel.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from momentum_gpt.core import distributed
from momentum_gpt.core.config import ModelConfig
from momentum_gpt.models import GPT, Cache
from momentum_gpt.models.gpt import init_weights
from momentum_gpt.ops import add_ema_of_past

VOCABULARY = 8192
"""A large vocabulary would hide what attention costs."""

N_DECODED = 32
"""Tokens decoded in each timed run."""

Step = Callable[[], None]


def measure(attention: dict[str, Any], lengths: list[int] | None, repeats: int) -> None:
    """Print a table of vanilla attention and the variant.

    Args:
        attention: name and options of the variant.
        lengths: context lengths, tokens. None: what suits the device.
        repeats: timed pairs.
    """
    device = distributed.local_device()
    on_gpu = device.type == "cuda"
    where = f"CPU, {torch.get_num_threads()} threads"
    if on_gpu:
        where = torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {where}; {attention}")
    columns = f"{'vanilla':>12}{attention['name']:>12}"
    print(f"{'':<34}{columns}   ratio, median of pairs [least, most]")

    pair = [{"name": "vanilla"}, attention]
    for length in lengths or ([1024] if on_gpu else [256, 1024, 4096]):
        rows = max(1, (16384 if on_gpu else 1024) // length)
        measure_training(pair, length, rows, repeats, device)

    decoders = [decoding(options, 1024, device) for options in pair]
    times = in_turns(decoders, repeats, device)
    report(f"{N_DECODED} decoded tokens, 8 rows, ms", times)

    if on_gpu:
        kernel, copy = kernel_rate(device)
        share = kernel / copy
        print(f"momentum kernel {kernel:.0f} GB/s, plain copy {copy:.0f} GB/s: {share:.2f}")
    else:
        print("on a GPU (350M, bf16, compiled; kernel and copy): not measured without CUDA")


def measure_training(
    pair: list[dict[str, Any]], length: int, rows: int, repeats: int, device: torch.device
) -> None:
    """Print the time of a training step at one length, and on CUDA the peak memory."""
    steps = []
    peaks = []
    for options in pair:
        before = allocated(device)
        step = training_step(options, length, rows, device)
        peaks.append(peak_memory(step, device) - before)
        steps.append(step)

    report(f"step, T={length}, {rows} rows, ms", in_turns(steps, repeats, device))
    if device.type == "cuda":
        vanilla, variant = peaks
        cells = f"{vanilla:>12.2f}{variant:>12.2f}"
        print(f"{'  peak memory, GiB':<34}{cells}   {variant / vanilla:.4f}")


def build(options: dict[str, Any], length: int, device: torch.device) -> GPT:
    """Return the model that suits the device, with random weights."""
    config = ModelConfig(12, 12, 768, length, VOCABULARY)
    dtype = torch.float32
    if device.type == "cuda":
        config = ModelConfig(24, 16, 1024, length, VOCABULARY)
        dtype = torch.bfloat16

    model = GPT(config, options)
    init_weights(model, seed=0)
    return model.to(device, dtype)


def random_tokens(rows: int, length: int, device: torch.device) -> Tensor:
    """Return random tokens, (rows, length), the same each time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(VOCABULARY, (rows, length), generator=generator).to(device)


def training_step(options: dict[str, Any], length: int, rows: int, device: torch.device) -> Step:
    """Return a function that trains a model of its own by one step."""
    model = build(options, length, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    if device.type == "cuda":
        model.compile()
    tokens = random_tokens(rows, length + 1, device)

    def step() -> None:
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def decoding(options: dict[str, Any], length: int, device: torch.device) -> Step:
    """Return a function that decodes N_DECODED tokens after half a context, in 8 rows."""
    model = build(options, length, device).eval()
    tokens = random_tokens(8, length // 2, device)
    with torch.no_grad():
        prefilled = Cache(model.config.n_layers, len(tokens), length, device)
        model.hidden(tokens, cache=prefilled)

    @torch.no_grad()
    def decode() -> None:
        # Only decoding is timed, so each run starts from the same filled cache.
        cache = Cache(model.config.n_layers, len(tokens), length, device)
        for layer, filled in zip(cache.layers, prefilled.layers, strict=True):
            layer.tensors = dict(filled.tensors)
        cache.lengths = prefilled.lengths
        cache.longest = prefilled.longest

        last = tokens[:, -1:]
        for _ in range(N_DECODED):
            last = model(last, cache=cache).argmax(-1)

    return decode


def in_turns(steps: list[Step], repeats: int, device: torch.device) -> list[list[float]]:
    """Time each step `repeats` times, in turns, in milliseconds.

    The order is reversed every other turn, so that drifts of the machine favour none. The first
    turn warms up and is not timed.
    """
    times: list[list[float]] = [[] for _ in steps]
    for turn in range(repeats + 1):
        order = list(range(len(steps)))
        if turn % 2 == 0:
            order.reverse()
        for number in order:
            milliseconds = timed(steps[number], device)
            if turn:
                times[number].append(milliseconds)
    return times


def timed(step: Callable[[], Any], device: torch.device) -> float:
    """Return the milliseconds that a call takes, until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) * 1e3


def report(what: str, times: list[list[float]]) -> None:
    """Print the medians of vanilla and of the variant, and the ratios of their pairs."""
    ratios = [variant / vanilla for vanilla, variant in zip(*times, strict=True)]
    medians = "".join(f"{median(of_model):>12.1f}" for of_model in times)
    spread = f"{median(ratios):.4f} [{min(ratios):.4f}, {max(ratios):.4f}]"
    print(f"{what:<34}{medians}   {spread}", flush=True)


def allocated(device: torch.device) -> float:
    """Return the GiB in tensors now; 0 on a CPU."""
    return torch.cuda.memory_allocated() / 2**30 if device.type == "cuda" else 0.0


def peak_memory(step: Step, device: torch.device) -> float:
    """Return the peak memory of a training step in GiB; 0 on a CPU.

    A first step, not measured, compiles the model and creates the optimizer's state.
    """
    if device.type != "cuda":
        return 0.0
    step()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 2**30


def kernel_rate(device: torch.device) -> tuple[float, float]:
    """Return GB/s of the momentum kernel, and of a plain copy.

    The kernel reads the values and the output of attention, and writes their sum.
    """
    shape = (32, 1024, 16, 64)
    y = torch.randn(shape, device=device, dtype=torch.bfloat16).transpose(1, 2)
    v = torch.randn(shape, device=device, dtype=torch.bfloat16).transpose(1, 2)
    copied = torch.empty_like(y)

    def rate(act: Callable[[], Tensor], n_tensors: int) -> float:
        times = [timed(act, device) for _ in range(50)]
        return n_tensors * y.nbytes / median(times[10:]) / 1e6

    kernel = rate(lambda: add_ema_of_past(y, v, 0.5), 3)
    copy = rate(lambda: copied.copy_(y), 2)
    return kernel, copy
