"""Trainings as jobs: several at a time, each in a process of its own, with its own log.

Several trainings in one process would share torch's threads and its generator.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from momentum_gpt.core import outcome, stopping
from momentum_gpt.core.errors import JobsFailedError
from momentum_gpt.core.files import write_text
from momentum_gpt.core.stopping import StoppedError
from momentum_gpt.core.terminal import progress_bar

TRAIN = (sys.executable, "-m", "momentum_gpt.train")
"""The command of every job."""

LOOK_EVERY = 0.1
"""Seconds between two looks at the jobs that run."""


@dataclass(frozen=True)
class Job:
    """One training."""

    name: str
    """The name of the run, and of its log beside the run's folder."""
    options: tuple[str, ...] = ()
    """Options of `train`, but for `name` and `runs`."""


@dataclass(frozen=True)
class Ended:
    """A job that has ended, complete or not."""

    job: Job
    exit_code: int
    """0: complete, also if there was nothing left to train; below 0: killed by that signal."""
    seconds: float
    log: Path

    @property
    def failure(self) -> str:
        """What went wrong, in one line: the last one of a log names the cause."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1] if lines else "(empty)"
        return f"{self.job.name} (exit code {self.exit_code}), last line of {self.log}: {last}"


@dataclass(frozen=True)
class Running:
    """A job whose process has been started."""

    job: Job
    process: subprocess.Popen[bytes]
    log: Path
    began: float

    def ended(self, exit_code: int) -> Ended:
        """Return what became of it."""
        return Ended(self.job, exit_code, time.perf_counter() - self.began, self.log)


def run_jobs(jobs: Iterable[Job], at_a_time: int, runs: Path) -> Iterator[Ended]:
    """Train every job to its end, or resume it, and yield each as it ends.

    A job that fails does not end the others. When the loop over the jobs is left, those that still
    run are asked to stop, and waited for.

    Args:
        jobs: asked for the next one only when there is room for it, so that it may depend on
            those that were yielded before.
        at_a_time: jobs that run at the same time.
        runs: the folder of the runs and their logs.

    Raises:
        StoppedError: this process, or a job, was asked to stop; the same jobs go on from there.
    """
    runs.mkdir(parents=True, exist_ok=True)
    waiting = iter(jobs)
    running: list[Running] = []
    with _noting_requests(), _none_left(running):
        while True:
            coming = list(islice(waiting, at_a_time - len(running)))
            if not coming and not running:
                return
            for job in coming:
                if is_complete(job, runs):
                    yield Ended(job, 0, 0.0, _log_of(job, runs))
                else:
                    running.append(_start(job, at_a_time, runs))

            time.sleep(LOOK_EVERY if running else 0)
            for ended in _take_ended(running):
                # A job may have been killed by the Ctrl-C that this process got as well.
                _go_on(stopping.requested())
                _go_on(ended.exit_code)
                yield ended
            _go_on(stopping.requested())


def is_complete(job: Job, runs: Path) -> bool:
    """Return whether the job has been trained to its end with these options.

    `train` would say so as well, after it has started.
    """
    options = _options_of(job, runs)
    ended = outcome.read(runs / job.name)
    is_trained = ended is not None and ended.exit_code == 0
    return is_trained and options.is_file() and options.read_text() == _as_text(job)


def train_all(
    jobs: Sequence[Job], at_a_time: int, runs: Path, describe: Callable[[Ended], str]
) -> None:
    """Train all jobs, as `run_jobs`, and print what `describe` says of each as it ends.

    Raises:
        JobsFailedError: some failed; the others are complete.
        StoppedError: a job, or this process, was asked to stop.
    """
    done = []
    with progress_bar("Runs", total=len(jobs)) as advance:
        for ended in run_jobs(jobs, at_a_time, runs):
            done.append(ended)
            print(f"[{len(done)}/{len(jobs)}] {describe(ended)}", flush=True)
            advance(1)
    require_success(done)


def require_success(jobs: Sequence[Ended]) -> None:
    """Check that all jobs are complete.

    Raises:
        JobsFailedError: some are not; it names them.
    """
    failed = [ended.failure for ended in jobs if ended.exit_code]
    if failed:
        raise JobsFailedError(failed)


def _start(job: Job, at_a_time: int, runs: Path) -> Running:
    log = _log_of(job, runs)
    write_text(_options_of(job, runs), _as_text(job))
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*TRAIN, f"name={job.name}", f"runs={runs}", *job.options],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": _threads(at_a_time)},
        )
    return Running(job, process, log, time.perf_counter())


def _log_of(job: Job, runs: Path) -> Path:
    return runs / f"{job.name}.log"


def _options_of(job: Job, runs: Path) -> Path:
    """Return the file with the options that the job was started with last."""
    return runs / f"{job.name}.options"


def _as_text(job: Job) -> str:
    return "".join(f"{option}\n" for option in job.options)


def _threads(at_a_time: int) -> str:
    """Return the threads of each job: as the user has chosen, or a share of the cores."""
    chosen = os.environ.get("OMP_NUM_THREADS")
    cores = os.cpu_count() or 1
    return chosen or str(max(1, cores // at_a_time))


def _take_ended(running: list[Running]) -> Iterator[Ended]:
    """Take the jobs that have ended out of those that run."""
    for entry in list(running):
        exit_code = entry.process.poll()
        if exit_code is not None:
            running.remove(entry)
            yield entry.ended(exit_code)


def _go_on(exit_code: int) -> None:
    """Go on, unless the exit code is that of a stop.

    Raises:
        StoppedError: it is.
    """
    if exit_code in stopping.STOPPED:
        raise StoppedError(exit_code)


@contextmanager
def _noting_requests() -> Iterator[None]:
    """Let signals that ask to stop be noted, instead of ending this process before its jobs."""
    before = {number: signal.getsignal(number) for number in stopping.heeded()}
    for number in before:
        signal.signal(number, lambda number, _: stopping.note(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _none_left(running: list[Running]) -> Iterator[None]:
    """Stop the jobs that are left at the end of the block: they save a checkpoint first."""
    try:
        yield
    finally:
        # Those that have had a Ctrl-C take no further notice of this one.
        for entry in running:
            entry.process.terminate()
        for entry in running:
            entry.process.wait()
