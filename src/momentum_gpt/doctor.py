"""Find out whether this machine, and a run's folder, are fit to train.

    momentum-gpt doctor
    momentum-gpt doctor run=runs/vanilla

Each line is ok, warning or bad, with what was found and what to do about it.
Nothing is changed. It takes ten seconds at most; the exit code is 1 if
anything is bad.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from momentum_gpt.cli import Command
from momentum_gpt.core.errors import UserError

SECONDS = 7.0
"""How long the checks may take, all together; starting the program takes one or two more."""


@dataclass
class DoctorConfig:
    run: str | None = None
    """Folder of a run to look at, too. null: only the machine."""
    runs: str = "runs"
    """Folder that holds the run folders, or will. It is not looked at if `run` is given."""


def examine(config: DoctorConfig) -> int:
    """Print what was found; return the exit code."""
    # Imported here so that --help stays quick.
    from momentum_gpt.diagnosis import machine, outside, run_folder, storage
    from momentum_gpt.diagnosis.findings import BAD, WARNING, check_all, count, report

    folder = Path(config.runs)
    checks = {}
    if config.run is not None:
        run_dir = Path(config.run)
        if not (run_dir / "config.yaml").is_file():
            raise UserError(
                f"run={config.run!r} is not a run folder (it has no config.yaml): "
                "give one like runs/NAME"
            )
        folder = run_dir.absolute().parent
        checks = run_folder.checks_of(run_dir)

    probe = outside.Probe()
    found, have_ended = check_all(
        {
            "versions": machine.versions,
            "CPUs": machine.cpus,
            "memory": machine.memory,
            "limits": machine.limits,
            "clock": lambda: machine.clock() + storage.skew(folder),
            "ranks, GPUs": probe.check,
            "disk": partial(storage.disk, folder),
            "locks": partial(storage.locks, folder),
            "W&B": outside.dashboard,
            **checks,
        },
        SECONDS,
    )
    probe.stop()

    print(report(found))
    n_bad, n_warnings = count(found, BAD), count(found, WARNING)
    verdict = f"{n_bad} bad, {n_warnings} warning(s)"
    print(f"\nfit to train: {verdict}" if n_bad == 0 else f"\nnot fit to train: {verdict}")
    code = 1 if n_bad else 0
    if not have_ended:
        # Python would wait for what the late checks are importing or reading.
        sys.stdout.flush()
        os._exit(code)
    return code


main = Command(examine, DoctorConfig, "doctor")


if __name__ == "__main__":
    main()
