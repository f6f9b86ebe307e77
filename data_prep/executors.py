"""How the tasks of a stage are run: in processes here, as jobs of SLURM, on a Ray cluster. The only file with the executors
of datatrove, which mark each task that is complete and never run it again.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TextIO

import multiprocess
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from loguru import logger
from tqdm import tqdm

from momentum_gpt.core.config import require
from momentum_gpt.core.errors import UserError

KINDS = ("local", "slurm", "ray")


@dataclass
class ExecutorConfig:
    """Where the tasks run; what they make does not depend on it."""

    kind: str = "local"
    """local | slurm | ray."""
    workers: int | None = None
    """Tasks at a time. null: as many as this machine has cores; on SLURM and Ray as many as there are."""
    partition: str | None = None
    """SLURM's partition."""
    time: str = "24:00:00"
    """SLURM's limit for a task."""
    memory_gb: int = 4
    """Of a task, for SLURM and Ray."""
    address: str = "auto"
    """Of the Ray cluster."""

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "executor.kind", self.kind, f"one of {', '.join(KINDS)}")
        require(
            self.workers is None or self.workers >= 1,
            "executor.workers",
            self.workers,
            "at least 1",
        )
        require(self.memory_gb >= 1, "executor.memory_gb", self.memory_gb, "at least 1")
        if self.kind == "slurm" and not self.partition:
            raise UserError("executor=slurm needs a partition: add executor.partition=...")


class Meter:
    """How far a task has come, for the bar that the driver draws: a small file, written twice a second."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = folder / f"{rank:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        self.bytes = self.tokens = 0
        self.written = 0.0

    def add(self, n_bytes: int, n_tokens: int = 0) -> None:
        self.bytes, self.tokens = self.bytes + n_bytes, self.tokens + n_tokens
        if time.monotonic() - self.written > 0.5:
            self.close()

    def close(self) -> None:
        self.path.write_text(f"{self.bytes} {self.tokens}")
        self.written = time.monotonic()


class _Task:
    """Mixed into datatrove's executors: a task is silent but for its log, and leaves the reason of its failure behind."""

    logging_dir: Any

    def _run_for_rank(self, rank: int, *arguments: Any, **named: Any) -> Any:
        folder = Path(self.logging_dir.resolve_paths("failures"))
        failure = folder / f"{rank:05d}.json"
        failure.unlink(missing_ok=True)
        with redirect_stderr(_log(str(folder.parent))):
            try:
                return super()._run_for_rank(rank, *arguments, **named)  # type: ignore[misc]
            except Exception as error:
                folder.mkdir(exist_ok=True)
                message = str(error) or type(error).__name__
                failure.write_text(
                    json.dumps({"message": message, "ours": isinstance(error, UserError)})
                )
                raise


@cache
def _log(folder: str) -> TextIO:
    return open(Path(folder) / f"console.{os.getpid()}.log", "a")  # noqa: PTH123 - of the process, to its end


class _Local(_Task, LocalPipelineExecutor):
    pass


class _Slurm(_Task, SlurmPipelineExecutor):
    pass


class _Ray(_Task, RayPipelineExecutor):
    pass


def run_stage(
    config: ExecutorConfig,
    pipeline: list[Any],
    tasks: int,
    folder: Path,
    title: str,
    total_bytes: int,
) -> float:
    """Run the tasks of a stage that are not complete yet; returns the seconds it took.

    Args:
        pipeline: datatrove's steps, the same for each task, which sees its rank and the number of tasks.
        folder: the stage's; its subfolder `tasks` gets the completion marks and the logs.

    Raises:
        UserError: a task failed, with the reason of the first that did.
    """
    began = time.monotonic()
    logs = folder / "tasks"
    logs.mkdir(parents=True, exist_ok=True)
    executor = _executor(config, pipeline, tasks, logs)
    error: Exception | None = None
    with _bar(title, folder / "progress", total_bytes), redirect_stderr(_log(str(logs))):
        logger.remove()
        try:
            executor.run()
            if config.kind == "slurm":
                _wait(executor)
        except (
            Exception
        ) as failed:  # its reason, whatever the executor made of it, is in the task's folder
            error = failed
    if missing := executor.get_incomplete_ranks(skip_completed=True):
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
    multiprocess.get_context("forkserver").set_forkserver_preload(
        ["data_prep.steps", "data_prep.decontaminate"]
    )
    return _Local(pipeline, tasks, workers, logging_dir=str(logs))


def _wait(executor: Any) -> None:
    """Until SLURM has no more tasks of the job."""
    import subprocess

    while executor.get_incomplete_ranks(skip_completed=True):
        queue = ["squeue", "--noheader", "--jobs", str(executor.job_id)]
        left = subprocess.run(queue, capture_output=True, text=True, check=False)
        if (
            not left.stdout.strip()
        ):  # none is waiting and none runs: what is incomplete now has failed
            time.sleep(2)
            return
        time.sleep(2)


def _reason(logs: Path, missing: list[int], title: str, error: Exception | None) -> str:
    for rank in missing:
        path = logs / "failures" / f"{rank:05d}.json"
        if path.is_file():
            failure = json.loads(path.read_text())
            if failure["ours"]:
                return failure["message"]
            message = " ".join(failure["message"].split())
            return f"{title}: task {rank} failed ({message}); see {logs / 'logs' / f'task_{rank:05d}.log'}"
    what = f" ({' '.join(str(error).split())})" if error else ""
    return f"{title}: {len(missing)} tasks did not finish{what}; the same command goes on with them; see {logs}"


@contextmanager
def _bar(title: str, folder: Path, total_bytes: int) -> Iterator[None]:
    """A bar in a terminal, drawn from the meters of the tasks."""
    stop = threading.Event()
    bar = tqdm(
        desc=title, total=total_bytes or None, unit="B", unit_scale=True, file=sys.stderr, leave=False, disable=None,
        dynamic_ncols=True,
    )  # fmt: skip

    def draw() -> None:
        while not stop.wait(0.5):
            if folder.is_dir():
                n_bytes, n_tokens = meters(folder)
                bar.n = n_bytes
                bar.set_postfix_str(f"{n_tokens:,} tokens" if n_tokens else "", refresh=False)
                bar.refresh()

    thread = threading.Thread(target=draw, daemon=True)
    if not bar.disable:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if thread.is_alive():
            thread.join()
        bar.close()


def meters(folder: Path) -> tuple[int, int]:
    """Bytes and tokens of all tasks so far."""
    read = [path.read_text().split() for path in folder.iterdir()]
    counted = [(int(it[0]), int(it[1])) for it in read if len(it) == 2]
    return sum(n for n, _ in counted), sum(n for _, n in counted)
