"""How the tasks of a stage are run: in processes here, as SLURM jobs, or on a Ray cluster.

This is the only file with datatrove's executors. They mark each task that is complete and never
run it again.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, TextIO

import multiprocess
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from loguru import logger

from data_prep.settings import ExecutorConfig
from momentum_gpt.core.errors import MachineError, UserError
from momentum_gpt.core.files import read_json, write_json
from momentum_gpt.core.terminal import Advance, progress_bar

METER_SECONDS = 0.5
"""Seconds between two updates of a task's meter, and of the bar that shows them."""

SQUEUE_SECONDS = 2
"""Seconds between two questions to SLURM whether the job is still there."""


class Meter:
    """How far a task has come: a small file, written twice a second, that the driver reads."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = folder / f"{rank:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        self.bytes = 0
        self.written = 0.0

    def add(self, n_bytes: int) -> None:
        """Count work that was done."""
        self.bytes += n_bytes
        if time.monotonic() - self.written > METER_SECONDS:
            self.close()

    def close(self) -> None:
        """Write the count."""
        self.path.write_text(str(self.bytes))
        self.written = time.monotonic()


@dataclass(frozen=True)
class Failure:
    """Why a task failed."""

    message: str
    for_user: bool
    """Whether the message is complete by itself: a UserError's or a MachineError's."""


class _Task:
    """Mixed into datatrove's executors: a task is silent, and leaves the reason of its failure."""

    logging_dir: Any

    def _run_for_rank(self, rank: int, *arguments: Any, **named: Any) -> Any:
        folder = Path(self.logging_dir.resolve_paths("failures"))
        path = folder / f"{rank:05d}.json"
        # A failure of an earlier attempt is no reason any more.
        path.unlink(missing_ok=True)
        with redirect_stderr(_log(str(folder.parent))):
            try:
                return super()._run_for_rank(rank, *arguments, **named)  # type: ignore[misc]
            except Exception as error:
                message = str(error) or type(error).__name__
                write_json(
                    path, asdict(Failure(message, isinstance(error, (UserError, MachineError))))
                )
                raise


@cache
def _log(folder: str) -> TextIO:
    """Return this process's log file, which stays open to the end of the process."""
    return open(Path(folder) / f"console.{os.getpid()}.log", "a")  # noqa: PTH123


class _Local(_Task, LocalPipelineExecutor):
    pass


class _Slurm(_Task, SlurmPipelineExecutor):
    pass


class _Ray(_Task, RayPipelineExecutor):
    pass


def run_tasks(
    config: ExecutorConfig,
    pipeline: list[Any],
    tasks: int,
    folder: Path,
    title: str,
    total_bytes: int,
) -> float:
    """Run the tasks that are not complete yet; return the seconds this took.

    Args:
        config: where to run them.
        pipeline: datatrove's steps, the same for each task, which sees its rank.
        tasks: number of tasks.
        folder: gets a subfolder `tasks` with the completion marks and the logs.
        title: what the progress bar is called.
        total_bytes: sum of what the tasks count with their meters; 0 if it is not known.

    Raises:
        UserError: a task failed; the message is the reason of the first task that did.
    """
    began = time.monotonic()
    logs = folder / "tasks"
    logs.mkdir(parents=True, exist_ok=True)
    executor = _executor(config, pipeline, tasks, logs)

    error: Exception | None = None
    with _bar(title, folder / "progress", total_bytes), redirect_stderr(_log(str(logs))):
        # datatrove's log would disturb the bar; each task has a log file of its own.
        logger.remove()
        try:
            executor.run()
            if config.kind == "slurm":
                _wait(executor)
        except Exception as failed:
            # Executors wrap the error of a task; the task's folder holds the real one.
            error = failed

    missing = executor.get_incomplete_ranks(skip_completed=True)
    if missing:
        raise UserError(_reason(logs, missing, title, error))
    return time.monotonic() - began


def _executor(config: ExecutorConfig, pipeline: list[Any], tasks: int, logs: Path) -> Any:
    if config.kind == "slurm":
        return _Slurm(
            pipeline,
            tasks,
            config.time,
            config.partition,
            mem_per_cpu_gb=config.memory_gb,
            workers=config.workers or -1,
            job_name=f"prepare-{logs.parent.name}",
            qos=None,
            # Compute nodes must find the same Python.
            env_command=f"export PATH={Path(sys.executable).parent}:$PATH",
            logging_dir=str(logs),
        )

    if config.kind == "ray":
        import ray

        if not ray.is_initialized():
            ray.init(address=config.address, log_to_driver=False, logging_level=logging.ERROR)
        return _Ray(
            pipeline,
            tasks,
            config.workers or -1,
            logging_dir=str(logs),
            mem_per_cpu_gb=config.memory_gb,
        )

    workers = min(tasks, config.workers or os.cpu_count() or 1)
    # The server imports the stages once, and each worker is forked from it.
    multiprocess.get_context("forkserver").set_forkserver_preload(["data_prep.stages"])
    return _Local(pipeline, tasks, workers, logging_dir=str(logs))


def _wait(executor: Any) -> None:
    """Wait until all tasks of a SLURM job are complete, or none is in the queue any more."""
    queue = ["squeue", "--noheader", "--jobs", str(executor.job_id)]
    while executor.get_incomplete_ranks(skip_completed=True):
        left = subprocess.run(queue, capture_output=True, text=True, check=False)
        # The marks of tasks that have just ended may need a moment to be seen here.
        time.sleep(SQUEUE_SECONDS)
        if not left.stdout.strip():
            return


def _reason(logs: Path, missing: list[int], title: str, error: Exception | None) -> str:
    """Return why tasks are not complete: the first reason that a task left."""
    for rank in missing:
        path = logs / "failures" / f"{rank:05d}.json"
        if path.is_file():
            failure = Failure(**read_json(path))
            if failure.for_user:
                return failure.message
            message = " ".join(failure.message.split())
            log = logs / "logs" / f"task_{rank:05d}.log"
            return f"{title}: task {rank} failed ({message}); see {log}"

    what = f" ({' '.join(str(error).split())})" if error else ""
    return (
        f"{title}: {len(missing)} tasks did not finish{what}; run the same command again to "
        f"resume; see {logs}"
    )


@contextmanager
def _bar(title: str, folder: Path, total_bytes: int) -> Iterator[None]:
    """Show a progress bar in a terminal, moved by the meters of the tasks in `folder`."""
    with progress_bar(title, total_bytes or None, in_bytes=True) as advance:
        if not sys.stderr.isatty():
            yield
            return

        stop = threading.Event()
        thread = threading.Thread(target=_follow, args=(folder, advance, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _follow(folder: Path, advance: Advance, stop: threading.Event) -> None:
    """Advance the bar to the sum of the meters, until `stop` is set."""
    # When a stage is resumed, the meters of complete tasks are there from the beginning.
    shown = 0
    while not stop.wait(METER_SECONDS):
        done = metered_bytes(folder)
        advance(done - shown)
        shown = done


def metered_bytes(folder: Path) -> int:
    """Return the bytes that all tasks together have counted so far."""
    if not folder.is_dir():
        return 0
    total = 0
    for path in folder.iterdir():
        # A meter that is being written may be empty for a moment.
        total += int(path.read_text() or 0)
    return total
