"""Ranks: which one this is, how many there are, and what they agree on.

The same calls work for one process and for many.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from momentum_gpt.core.errors import MachineError, UserError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits in a collective operation before it gives up, where nobody says more."""

BUCKET = 50_000_000
"""Gradients that are summed over the ranks at once, at most: 100 MB in bf16."""

_control_group: dist.ProcessGroup | None = None


def start(device: torch.device, timeout: timedelta = TIMEOUT) -> None:
    """Join the process group: the launcher's if it started us, else one of this process alone.

    Args:
        timeout: how long a rank waits in a collective operation before it raises an error.
    """
    global _control_group
    backend = "nccl" if device.type == "cuda" else "gloo"

    if torch.cuda.device_count() == 1:
        os.environ["LOCAL_RANK"] = "0"  # srun may show each rank its own GPU alone
    own = device if device.type == "cuda" else None  # NCCL would guess it, and warn
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timeout, device_id=own)
    else:
        os.environ["LOCAL_RANK"] = "0"  # DeepSpeed reads it
        dist.init_process_group(
            backend,
            store=dist.HashStore(),
            rank=0,
            world_size=1,
            timeout=timeout,
            device_id=own,
        )

    # Small agreements between hosts go over gloo, so that they never wait for the GPU's queue.
    _control_group = dist.new_group(backend="gloo", timeout=timeout)


def set_timeout(timeout: timedelta) -> None:
    """Set how long this rank waits in any group, those included that a library made for itself.

    New groups take a default of their backend's, not the timeout of the first group.
    """
    for group in groups():
        dist.distributed_c10d._set_pg_timeout(timeout, group)


def groups() -> list[dist.ProcessGroup]:
    """Return all process groups that this rank belongs to."""
    return list(dist.distributed_c10d._world.pg_map)


def stop() -> None:
    """Leave the process group."""
    dist.destroy_process_group()


def rank() -> int:
    """Return this process's rank; 0 outside a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of ranks; 1 outside a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Return whether this is the rank that writes files and prints."""
    return rank() == 0


def bucket(n_parameters: int) -> int:
    """Return how many gradients of a model are summed over the ranks at once."""
    return min(n_parameters, BUCKET)


def local_device() -> torch.device:
    """Return this rank's GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def use_gpu(number: int) -> None:
    """Make one of the machine's GPUs that of this process; without GPUs do nothing.

    Args:
        number: of the process, from 0. Processes are dealt out to the GPUs in turn.
    """
    n_gpus = torch.cuda.device_count()
    if n_gpus:
        os.environ["LOCAL_RANK"] = str(number % n_gpus)
        torch.cuda.set_device(local_device())


def barrier() -> None:
    """Wait until every rank has called this."""
    if world_size() > 1:
        dist.barrier(group=_control_group)


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Return the sum over all ranks, on the CPU, in the shape of `values`."""
    values = values.detach().cpu().clone()
    if world_size() > 1:
        dist.all_reduce(values, group=_control_group)
    return values


def tensors_of_all_ranks(mine: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors of all ranks, by rank, which have one shape; they stay on the device."""
    if world_size() == 1:
        return [mine]
    tensors = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(tensors, mine.contiguous())
    return tensors


def true_on_any_rank(flag: bool) -> bool:
    """Return whether the flag is true on at least one rank."""
    return bool(sum_over_ranks(torch.tensor(int(flag))).item())


def same_on_all_ranks(value: T) -> T:
    """Return the main rank's value on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_control_group)
    return box[0]


def on_main_rank(act: Callable[[], None]) -> None:
    """Call `act` on the main rank alone.

    Raises:
        UserError, MachineError: `act` raised it; every rank raises the same.
    """
    error = None
    if is_main():
        try:
            act()
        except (UserError, MachineError) as raised:
            error = raised
    error = same_on_all_ranks(error)
    if error is not None:
        raise error


def from_all_ranks(value: T) -> list[T]:
    """Return the values of all ranks, by rank, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_control_group)
    return values
