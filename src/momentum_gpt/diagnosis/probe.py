"""A program of its own that lets ranks talk, and looks at the GPUs: `python -m ...probe`.

It prints a JSON list [state, text, remedy] a line, as it goes. It imports torch once; the ranks are
forks of it, made before it touches a GPU.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

RANKS = 2

PATIENCE = timedelta(seconds=6)
"""How long a rank waits for the other."""


def say(state: str, text: str, remedy: str = "") -> None:
    """Print a finding."""
    print(json.dumps([state, text, remedy]), flush=True)


def main() -> None:
    """Print the findings."""
    torch.set_num_threads(1)
    n_gpus = torch.cuda.device_count()
    remedy = "set GLOO_SOCKET_IFNAME to a network interface that works, such as lo"
    say(*ranks_talk("gloo", remedy))
    if n_gpus >= RANKS:
        say(*ranks_talk("nccl", "see the reason with NCCL_DEBUG=INFO; try NCCL_P2P_DISABLE=1"))
    look_at_gpus(n_gpus)


def ranks_talk(backend: str, remedy: str) -> tuple[str, str, str]:
    """Let two processes add their tensors; return the finding."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        children = [fork(all_reduce, backend, rank, folder) for rank in range(RANKS)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        errors = [path.read_text() for path in sorted(Path(folder).glob("error_*"))]
    seconds = time.monotonic() - began
    if any(codes):
        reason = errors[0] if errors else f"exit codes {codes}"
        return "bad", f"{backend}: {RANKS} ranks could not add a tensor ({reason})", remedy
    return "ok", f"{backend}: {RANKS} ranks added a tensor in {seconds:.1f} s", ""


def fork(act: Callable[[str, int, str], bool], backend: str, rank: int, folder: str) -> int:
    """Run a rank in a child process, whose exit code says whether it failed; return its id."""
    child = os.fork()
    if child:
        return child
    try:
        os._exit(0 if act(backend, rank, folder) else 1)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        Path(folder, f"error_{rank}").write_text(reason)
    finally:
        os._exit(1)


def all_reduce(backend: str, rank: int, folder: str) -> bool:
    """Add 1 + 2 with the other rank; return whether that is 3."""
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    store = dist.FileStore(str(Path(folder, "store")), RANKS)
    dist.init_process_group(backend, store=store, rank=rank, world_size=RANKS, timeout=PATIENCE)
    value = torch.full((1024,), rank + 1.0, device=device)
    dist.all_reduce(value)
    return bool((value == 3).all())


def look_at_gpus(n_gpus: int) -> None:
    """Print a finding for each GPU, or why there is none."""
    if n_gpus == 0:
        if Path("/dev/nvidia0").exists():
            text = f"there is an NVIDIA GPU that PyTorch {torch.__version__} cannot use"
            say("bad", text, "install a PyTorch with CUDA and a driver that is new enough for it")
        else:
            say("ok", "no GPU: runs train on the CPU")
        return
    for number in range(n_gpus):
        say(*gpu(number))


def gpu(number: int) -> tuple[str, str, str]:
    """Multiply two matrices on a GPU, and look at its memory; return the finding."""
    name = torch.cuda.get_device_name(number)
    try:
        ones = torch.ones(256, 256, device=torch.device("cuda", number))
        right = bool(((ones @ ones) == 256).all())
        free, total = torch.cuda.mem_get_info(number)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        return "bad", f"GPU {number}, {name}: {reason}", "see nvidia-smi for who uses it"
    if not right:
        return "bad", f"GPU {number}, {name}: it multiplies wrongly", "do not train on it"

    text = f"GPU {number}, {name}: {free / 2**30:.0f} of {total / 2**30:.0f} GiB are free"
    if free < 0.8 * total:
        return "warning", text, "another program uses it: see nvidia-smi"
    return "ok", text, ""


if __name__ == "__main__":
    main()
