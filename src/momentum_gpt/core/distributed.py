"""Ranks: who am I, how many are we, and what do we agree on. The same calls work for one process and for many."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits in a collective before it gives up."""

_control_group: dist.ProcessGroup | None = None


def start(device: torch.device) -> None:
    """Join the process group: torchrun's when it started us, else one of this process alone."""
    global _control_group
    backend = "nccl" if device.type == "cuda" else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=TIMEOUT)
    else:
        os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it
        dist.init_process_group(
            backend, store=dist.HashStore(), rank=0, world_size=1, timeout=TIMEOUT
        )
    # Small host-side agreements go over gloo, so that they never wait for the GPU's queue.
    _control_group = dist.new_group(backend="gloo", timeout=TIMEOUT)


def stop() -> None:
    dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def local_device() -> torch.device:
    """The GPU of this rank where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def barrier() -> None:
    if world_size() > 1:
        dist.barrier(group=_control_group)


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The sum over all ranks, on the CPU."""
    values = values.detach().cpu().clone()
    if world_size() > 1:
        dist.all_reduce(values, group=_control_group)
    return values


def mean_over_ranks(value: torch.Tensor) -> float:
    return (sum_over_ranks(value.double()) / world_size()).item()


def true_on_any_rank(flag: bool) -> bool:
    return bool(sum_over_ranks(torch.tensor(int(flag))).item())


def same_on_all_ranks(value: str | None) -> str | None:
    """The main rank's value, on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_control_group)
    return box[0]
