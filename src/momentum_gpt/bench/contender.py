"""One contender in a process of its own: it takes as many steps as it is told to, and times them.

    python -m momentum_gpt.bench.contender NAME SHAPE DATA PEER

SHAPE is the JSON object of a `Shape`. Each line of stdin is a number of steps. Each line of stdout
is a JSON object with the seconds they took and the peak of the process's memory; the first one
follows the first step, and its seconds are those since the process began.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import torch

from momentum_gpt.bench import contenders
from momentum_gpt.bench.shapes import Shape


def contender(name: str, shape: Shape, data: Path, peer: Path) -> Iterator[None]:
    """Return a contender by its name."""
    known: dict[str, Callable[[], Iterator[None]]] = {
        "vanilla": lambda: contenders.ours(shape, data, contenders.VANILLA),
        "momentum": lambda: contenders.ours(shape, data, contenders.MOMENTUM),
        "plain torch": lambda: contenders.plain_torch(shape, data),
        "Trainer": lambda: contenders.trainer(shape, data),
        "nanoGPT": lambda: contenders.nanogpt(shape, data, peer),
        "litgpt": lambda: contenders.litgpt(shape, data, peer),
    }
    return known[name]()


def peak_bytes() -> int:
    """Return the peak of the GPU's memory, or of this process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Take steps."""
    name, written, data, peer = sys.argv[1:]
    shape = Shape(**json.loads(written))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    taking = contender(name, shape, Path(data), Path(peer))

    def take(n_steps: int, began: float) -> None:
        for _ in range(n_steps):
            next(taking)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        answer = {"seconds": time.time() - began, "peak_bytes": peak_bytes()}
        print(json.dumps(answer), file=answers, flush=True)

    take(1, psutil.Process().create_time())
    for line in sys.stdin:
        take(int(line), time.time())
    os._exit(0)  # without the threads of libraries, which may not end


if __name__ == "__main__":
    main()
