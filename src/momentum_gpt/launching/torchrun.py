"""Several ranks on this machine: this process becomes torchrun."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

STOPPING_WITHIN = 600
"""Seconds that the ranks have after Ctrl-C to end their step and to save; then they are killed."""


def run_ranks(config_path: Path, ranks: int) -> int:
    """Run `momentum_gpt.worker` on that many ranks to its end.

    Returns:
        The exit code of the first rank that failed, or 0.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    threads = max(1, (os.cpu_count() or 1) // ranks)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(STOPPING_WITHIN))
    # A rank prints itself what goes wrong in it; torchrun would add a traceback of its own.
    for part in ("agent.server.api", "multiprocessing.api"):
        logging.getLogger(f"torch.distributed.elastic.{part}").setLevel(logging.CRITICAL)

    arguments = ["--standalone", f"--nproc-per-node={ranks}", "-m", "momentum_gpt.worker"]
    sys.stdout.flush()
    try:
        run(parse_args([*arguments, str(config_path)]))
    except SignalException as interruption:
        return 128 + interruption.sigval
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode < 0:
            print(f"error: rank {rank} was ended by signal {-failure.exitcode}", file=sys.stderr)
            return 128 - failure.exitcode
        return failure.exitcode
    return 0
