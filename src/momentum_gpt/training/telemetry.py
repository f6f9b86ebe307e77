"""What a run tells about itself beside its loss: norms by layer, memory, and where a step went."""

from __future__ import annotations

import resource
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, schedule

from momentum_gpt.core import distributed
from momentum_gpt.core.terminal import table_text
from momentum_gpt.models import GPT
from momentum_gpt.models.attention import Variant
from momentum_gpt.training.engine import gradients, weights

T = TypeVar("T")

PROFILED = 4
"""Steps that are profiled, after as many that are not."""

SHOWN = 15
"""Rows of the table of a profile."""


def norms_by_layer(engine: Any) -> dict[str, float]:
    """Return the L2 norms of each layer's weights and of its gradient, before clipping.

    Every rank must call this, after `accumulate` and before `update`.
    """
    metrics = {}
    for what, tensors in (("grad_norm", gradients(engine)), ("weight_norm", weights(engine))):
        squares: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=engine.device))
        for name, tensor in tensors:
            squares[layer_of(name)] += tensor.float().square().sum()
        for layer, square in squares.items():
            metrics[f"layers/{what}@{layer}"] = float(square.sqrt())
    return metrics


def layer_of(name: str) -> str:
    """Return the layer of a parameter: its number, or "embedding" or "norm" outside the blocks."""
    first, second, *_ = name.split(".")
    if first == "blocks":
        return second
    return "embedding" if "embedding" in first else "norm"


@torch.no_grad()
def added_by_layer(model: GPT, tokens: Tensor, targets: Tensor) -> dict[str, float]:
    """Return the norm of what the variant adds to plain attention, divided by that of the latter.

    For momentum this is the decayed sum of past values. A variant that adds nothing has no metrics.
    Every rank must call this.

    Args:
        tokens, targets: (B, T) each.
    """
    ratios: dict[str, float] = {}

    def compare(number: int) -> Any:
        def hook(attend: Variant, inputs: Any, y: Tensor) -> None:
            assert attend.mix is not None
            plain = attend.mix(*inputs)
            added = (y - plain).float().norm() / plain.float().norm()
            ratios[f"layers/added@{number}"] = float(added)

        return hook

    variants = [module for module in model.modules() if isinstance(module, Variant)]
    handles = []
    for number, attend in enumerate(variants):
        if attend.mix is not None:
            handles.append(attend.register_forward_hook(compare(number)))
    if handles:
        model.eval()
        with torch.compiler.set_stance("force_eager"):  # compiled code knows nothing of hooks
            model(tokens, targets)
        model.train()
    for handle in handles:
        handle.remove()
    return ratios


def peak_memory_gb() -> float:
    """Return the most memory that this rank has had so far, in GB: of its GPU, or of the process.

    On a GPU it is what torch has allocated.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def profiled(items: Iterator[T], folder: Path, is_on: bool) -> Iterator[T]:
    """Yield the items, one for each step, while the main rank's steps are profiled.

    A few steps are watched; then a trace is written, and where a step went is printed.

    Args:
        folder: for the trace and the table.
        is_on: if not, the items are yielded and nothing else happens.
    """
    if not is_on or not distributed.is_main():
        yield from items
        return
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    steps = schedule(wait=PROFILED - 1, warmup=1, active=PROFILED, repeat=1)
    ready = partial(_write_profile, folder)
    with profile(activities=activities, schedule=steps, on_trace_ready=ready) as profiler:
        for item in items:
            yield item
            profiler.step()


def _write_profile(folder: Path, found: profile) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    found.export_chrome_trace(str(folder / "trace.json.gz"))
    on_gpu = torch.cuda.is_available()
    events = []
    for event in found.key_averages():
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        events.append((own, event.key, event.count))
    events.sort(reverse=True)
    whole = sum(own for own, _, _ in events)

    rows = []
    for own, name, count in events[:SHOWN]:
        calls = f"{count / PROFILED:.0f}"
        name = "Python, and waiting" if name.startswith("ProfilerStep") else name
        rows.append([name[:60], f"{own / 1000 / PROFILED:.2f}", f"{own / whole:.1%}", calls])
    title = f"where a step went, without what it calls; the whole trace is in {folder}"
    table = table_text(title, ["operation", "ms a step", "share", "calls"], rows)
    (folder / "table.txt").write_text(table + "\n", encoding="utf-8")
    print(table, flush=True)
