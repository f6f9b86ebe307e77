"""Sweeps whose jobs submitit starts, on SLURM or here: `hydra/launcher=submitit_slurm`.

The process that was started by the user only waits for them. The only file that imports submitit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from momentum_gpt.core import stopping
from momentum_gpt.core.errors import UserError

SWEEP = {"-m", "--multirun"}
"""Flags of a sweep."""

SUBMITIT = {"hydra/launcher=submitit_slurm", "hydra/launcher=submitit_local"}
"""Options with which submitit starts the jobs."""

GO_ON = (
    "stopped waiting: jobs that SLURM has go on, and when they have ended, "
    "the same command does what is left"
)
"""What to say after Ctrl-C."""


def is_submitit(arguments: Sequence[str]) -> bool:
    """Return whether this is a sweep whose jobs submitit is to start."""
    return not SWEEP.isdisjoint(arguments) and not SUBMITIT.isdisjoint(arguments)


def wait_for_all(failure: Callable[[str], Exception]) -> None:
    """Wait for every job, whatever becomes of one, until Ctrl-C.

    Hydra's plugin would forget all others at the first job that leaves no result, because it was
    cancelled or killed. Here such a job has failed, like others.

    Args:
        failure: returns the error of a job, given what it was and what became of it.

    Raises:
        UserError: submitit is not installed.
    """
    try:
        import submitit
        from submitit.core.utils import FailedJobError, UncompletedJobError
    except ImportError:
        raise UserError(
            "hydra/launcher=submitit_... needs submitit, which is not installed: "
            "pip install 'momentum-gpt[sweep]'"
        ) from None

    job_class: Any = submitit.Job
    results = job_class.results

    def results_or_failure(job: Any) -> list[Any]:
        try:
            return results(job)
        except (FailedJobError, UncompletedJobError):
            overrides = job.submission().args[0]
            what = f"{' '.join(overrides)} (no result, logs: {job.paths.folder})"
            return [_failed(overrides, failure(what))]

    job_class.results = results_or_failure
    # Nobody here would look whether a request to stop was noted.
    stopping.listen_no_more()


def _failed(overrides: list[str], error: Exception) -> JobReturn:
    job = JobReturn(overrides=overrides, status=JobStatus.FAILED)
    job.return_value = error
    return job
