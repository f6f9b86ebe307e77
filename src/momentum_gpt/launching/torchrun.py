"""Several ranks on this host, or on several: this process becomes torchrun, again if need be.

torchrun restarts ranks itself, but whatever their exit code. It would start a run again that a
user stopped, or one with a mistake in its options.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil
from torch import distributed as dist
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import parse_args, run

from momentum_gpt.core import outcome, ownership, stopping
from momentum_gpt.core.config import LaunchConfig

STOPPING_WITHIN = 600
"""Seconds that the ranks have after a request to stop to save; then they are killed."""

STOPPED_FOR = 45.0
"""Seconds after which a rank that is stopped is killed, if no other rank has noticed it before."""

TRY_FOR = 20
"""Seconds that torchrun waits for the other hosts at a time: meanwhile no signal is noticed."""

ENDS = (0, 2, stopping.REQUEUE, stopping.INTERRUPTED)
"""Exit codes after which nothing is started again; see `core.outcome.Outcome`."""

FAILED = 1


@dataclass(frozen=True)
class Attempt:
    """What became of the ranks that were started once."""

    exit_code: int
    cause: str = ""
    """Why they failed, in one line; "" if they did not."""


def run_ranks(config_path: Path, launch: LaunchConfig, latest_step: Callable[[], int]) -> int:
    """Run `momentum_gpt.worker` on several ranks to its end, and start them again if they fail.

    Args:
        config_path: the `config.yaml` of the run, in its folder.
        latest_step: returns the step of the newest checkpoint, by which progress is known.

    Returns:
        The exit code of the main rank: 0, 2, 75 or 130; or 1 after as many failures in a row as
        are allowed.
    """
    _prepare(launch.nproc_per_node)
    n_failures = 0
    with _requests_for_the_ranks(), _no_rank_stays_stopped():
        while not stopping.requested():
            before = latest_step()
            attempt = _start(config_path, launch)
            if attempt.exit_code in ENDS or stopping.requested():
                _say_unsaid(config_path.parent, attempt)
                return attempt.exit_code

            if latest_step() > before:
                n_failures = 0
            n_failures += 1
            if n_failures > launch.max_restarts:
                _say(_last_word(attempt.cause, n_failures, launch.max_restarts))
                return FAILED
            _say(
                f"restart {n_failures} of {launch.max_restarts} from step {latest_step():,}: "
                f"{attempt.cause}"
            )
    return stopping.requested()


def _prepare(ranks: int) -> None:
    """Set what torchrun and the ranks read from the environment."""
    threads = max(1, (os.cpu_count() or 1) // ranks)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(STOPPING_WITHIN))
    os.environ[ownership.DRIVER] = str(os.getpid())
    # A rank prints itself what goes wrong in it; torchrun would add a traceback of its own.
    for part in ("agent.server.api", "multiprocessing.api"):
        logging.getLogger(f"torch.distributed.elastic.{part}").setLevel(logging.CRITICAL)


@contextmanager
def _requests_for_the_ranks() -> Iterator[None]:
    """Let torchrun pass the first request to stop on to the ranks, and wait for them.

    A second Ctrl-C ends this process at once, and the ranks with it.
    """
    before = {number: signal.getsignal(number) for number in stopping.heeded()}
    stopping.listen()
    stopping.obey()  # as long as the ranks take
    first: list[float] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        stopping.note(number)
        if not first:
            first.append(now)
            raise SignalException("a request to stop", signal.Signals(number))
        if number == signal.SIGINT and now - first[0] > stopping.SAME_KEYSTROKE:
            os._exit(stopping.INTERRUPTED)

    for number in before:
        signal.signal(number, pass_on)
    try:
        yield
    except SignalException:  # between two starts; `requested` knows of it
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _no_rank_stays_stopped() -> Iterator[None]:
    """Kill ranks that stay stopped: they watch one another only after all of them have started."""
    over = threading.Event()
    threading.Thread(target=_kill_stopped_ranks, args=(over,), daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _kill_stopped_ranks(over: threading.Event) -> None:
    since: dict[int, float] = {}
    while not over.wait(1.0):
        for rank in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):  # it has just ended
                _kill_if_stopped(rank, since)


def _kill_if_stopped(rank: psutil.Process, since: dict[int, float]) -> None:
    """Kill a rank that has been stopped for too long.

    Args:
        since: process id -> when it was first seen stopped.
    """
    if rank.status() != psutil.STATUS_STOPPED:
        since.pop(rank.pid, None)
        return
    now = time.monotonic()
    if now - since.setdefault(rank.pid, now) > STOPPED_FOR:
        name = f"rank {rank.environ().get('RANK')} (process {rank.pid})"
        rank.kill()
        _say(f"{name} was stopped (SIGSTOP) for {STOPPED_FOR:.0f} s, and was killed")


def _start(config_path: Path, launch: LaunchConfig) -> Attempt:
    """Start the ranks once, wait until they end, and return what became of them."""
    arguments = [
        *_meeting_place(launch),
        f"--nproc-per-node={launch.nproc_per_node}",
        "--signals-to-handle=SIGQUIT",  # all others are ours
        "-m",
        "momentum_gpt.worker",
        str(config_path),
    ]
    if launch.node_rank == 0:
        outcome.forget(config_path.parent)
    sys.stdout.flush()
    try:
        _run_when_all_hosts_are_there(parse_args(arguments), launch)
    except SignalException:
        ended = outcome.read(config_path.parent)
        # Without an outcome the ranks had nothing to save yet, or were stuck and ended themselves.
        return Attempt(ended.exit_code if ended else _asked_for())
    except ChildFailedError as failed:
        return _failure(failed)
    except dist.DistError as error:
        return Attempt(FAILED, _no_meeting(launch, error))
    return Attempt(0)


def _run_when_all_hosts_are_there(arguments: Namespace, launch: LaunchConfig) -> None:
    """Become torchrun; with several hosts, try again until the others are there.

    Raises:
        DistError: they are not there in time.
    """
    until = time.monotonic() + launch.wait_for_hosts
    is_said = False
    while True:
        try:
            run(arguments)
            return
        except dist.DistError:
            if launch.nnodes == 1 or time.monotonic() > until:
                raise
        if not is_said:
            is_said = True
            place = f"{launch.master_addr}:{launch.master_port}"
            _say(f"waiting for the other hosts at {place}, up to {launch.wait_for_hosts:.0f} s")


def _meeting_place(launch: LaunchConfig) -> list[str]:
    """Return torchrun's options for the place where the hosts meet."""
    if launch.nnodes == 1:
        return ["--standalone"]
    # Not c10d's rendezvous, whose host is found by names that hosts often have not.
    return [
        f"--nnodes={launch.nnodes}",
        f"--node-rank={launch.node_rank}",
        f"--master-addr={launch.master_addr}",
        f"--master-port={launch.master_port}",
        f"--rdzv-conf=timeout={TRY_FOR}",
    ]


def _no_meeting(launch: LaunchConfig, error: Exception) -> str:
    said = str(error).splitlines()[0]
    if launch.nnodes == 1:
        return f"the ranks did not meet ({said})"
    place = f"{launch.master_addr}:{launch.master_port}"
    return (
        f"the {launch.nnodes} hosts did not meet at {place} within {launch.wait_for_hosts:.0f} s "
        f"({said}): see that all of them train and reach it"
    )


def _asked_for() -> int:
    """Return the exit code that a signal asked for; SIGQUIT, Ctrl-\\, is an interruption."""
    return stopping.requested() or stopping.INTERRUPTED


def _failure(failed: ChildFailedError) -> Attempt:
    """Return the failure that came first; the others follow from it."""
    rank, first = min(failed.failures.items(), key=lambda item: _order(item[1]))
    if -first.exitcode in stopping.SIGNALS and stopping.requested():
        return Attempt(stopping.requested())
    if first.exitcode < 0:
        cause = f"rank {rank} was ended by signal {-first.exitcode} ({first.signal_name()})"
        return Attempt(FAILED, cause)
    if isinstance(first.message, dict):  # written by the rank itself
        said = " ".join(first.message["message"].split())
        return Attempt(first.exitcode, f"rank {rank}: {said}")
    return Attempt(first.exitcode, f"rank {rank} ended with exit code {first.exitcode}")


def _order(failure: ProcessFailure) -> tuple[bool, int, bool]:
    """Return the place of a failure among others, most of which follow from the first.

    torchrun sends SIGTERM to the others. Of two failures within one second, that of a rank which
    was killed is the cause of the other one's error.
    """
    terminated = failure.exitcode == -signal.SIGTERM
    return terminated, failure.timestamp, failure.exitcode >= 0


def _last_word(cause: str, n_failures: int, allowed: int) -> str:
    if not allowed:
        return f"error: {cause}"
    return (
        f"error: crash loop: {n_failures} starts in a row failed without a new checkpoint, "
        f"the last one because {cause}"
    )


def _say_unsaid(run_dir: Path, attempt: Attempt) -> None:
    """Say what only another rank than the main one found, which does not print."""
    said = outcome.read(run_dir)
    if attempt.cause and (said is None or said.exit_code != attempt.exit_code):
        _say(f"error: {attempt.cause}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
