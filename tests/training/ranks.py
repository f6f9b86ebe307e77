"""Run a function on several real ranks over gloo, in processes of their own."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp


def on_ranks(
    world_size: int, function: Callable[..., Any], folder: Path, *arguments: Any
) -> list[Any]:
    """Return what `function(*arguments)` returned on each rank.

    The function must be importable; the results travel through `folder`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(
        _rank, (world_size, port, str(folder), function, arguments), nprocs=world_size, join=True
    )
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(world_size)]


def _rank(
    rank: int,
    world_size: int,
    port: int,
    folder: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from momentum_gpt.core import distributed

    distributed.start(torch.device("cpu"))
    torch.save(function(*arguments), Path(folder) / f"rank{rank}.pt")
    distributed.barrier()
    distributed.stop()
