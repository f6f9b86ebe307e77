"""Checks of the machine: versions, CPUs, memory and the limits of this process."""

from __future__ import annotations

import os
import resource
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path

import psutil

from momentum_gpt.core.files import CLONE, PACKAGE
from momentum_gpt.diagnosis.findings import BAD, OK, WARNING, Finding

SHOWN = ("torch", "deepspeed", "sentencepiece", "datasets", "wandb")
"""Libraries whose version is shown."""

LITTLE_MEMORY = 2 << 30
"""Free bytes below which a small training on the CPU may be killed."""

FEW_FILES = 1024
"""Open files below which a run with many shards may fail."""

LITTLE_SHARED_MEMORY = 128 << 20
"""Bytes of /dev/shm below which NCCL's buffers may not fit: a container has 64 MiB by default."""

DAY = 86_400.0


def versions() -> list[Finding]:
    """Compare the installed libraries with the ranges that this version of the project needs."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    python, dependencies = declared()
    version = sys.version.split()[0]
    findings = []
    if not SpecifierSet(python).contains(version.rstrip("+"), prereleases=True):
        text = f"this is Python {version}, and {python} is needed"
        findings.append(Finding(BAD, text, "install one that is in this range"))

    shown = [f"Python {version}"]
    for line in dependencies:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = installed_version(requirement.name)
        if installed is None or not requirement.specifier.contains(installed, prereleases=True):
            needed = f"{requirement.name}{requirement.specifier}"
            text = f"{requirement.name} {installed or '(missing)'}, but {needed} is needed"
            findings.append(Finding(BAD, text, f"pip install '{needed}'"))
        elif requirement.name in SHOWN:
            shown.append(f"{requirement.name} {installed.partition('+')[0]}")
    return findings or [Finding(OK, ", ".join(shown))]


def declared() -> tuple[str, list[str]]:
    """Return the range of Python, and the requirements: those of the clone, or of the wheel."""
    clone = CLONE / "pyproject.toml"
    if clone.is_file():
        project = tomllib.loads(clone.read_text(encoding="utf-8"))["project"]
        return project["requires-python"], project["dependencies"]
    package = metadata.metadata("momentum-gpt")
    return package["Requires-Python"], metadata.requires("momentum-gpt") or []


def installed_version(name: str) -> str | None:
    """Return the version of an installed library; None if it is missing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cpus() -> list[Finding]:
    """Look at the CPU cores that this process may use, and at who else uses them."""
    cores = len(os.sched_getaffinity(0))
    share = cpu_quota()
    usable = min(cores, share) if share else cores
    text = f"{cores} cores" + (f", of which a container lets us use {share:.3g}" if share else "")

    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > cores:
        remedy = f"unset OMP_NUM_THREADS, or set it to {cores} at most"
        return [Finding(WARNING, f"{text}, but OMP_NUM_THREADS={threads}", remedy)]
    load = os.getloadavg()[0]
    if load > 1.5 * usable:
        text = f"{text}, and {load:.1f} threads want to run on them"
        return [Finding(WARNING, text, "a training is slower until their programs end")]
    return [Finding(OK, f"{text}, load {load:.1f}")]


def cpu_quota() -> float | None:
    """Return how many CPU cores a container may use; None without such a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def memory() -> list[Finding]:
    """Look at the free memory, also within a container's limit."""
    free = psutil.virtual_memory().available
    total = psutil.virtual_memory().total
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        free, total = min(free, limit - used), min(total, limit)
    except (OSError, ValueError):  # no container, or one without a limit
        pass
    text = f"{gib(free)} of {gib(total)} are free"
    if free < LITTLE_MEMORY:
        return [Finding(WARNING, text, "end other programs, or the training may be killed")]
    return [Finding(OK, text)]


def limits() -> list[Finding]:
    """Look at the limit of open files, and at the shared memory."""
    findings = []
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < FEW_FILES:
        text = f"this shell allows {files:,} open files"
        more = f"ulimit -n {min(most, 65_536) if most > 0 else 65_536}"
        findings.append(Finding(WARNING, text, more))
    else:
        findings.append(Finding(OK, f"{files:,} open files"))

    shared = Path("/dev/shm")
    if not shared.is_dir():
        findings.append(Finding(WARNING, "there is no /dev/shm", "mount a tmpfs there"))
        return findings
    size = psutil.disk_usage(str(shared)).free
    state = OK if size >= LITTLE_SHARED_MEMORY else WARNING
    remedy = "" if state == OK else "start the container with --shm-size=1g, which NCCL needs"
    findings.append(Finding(state, f"{gib(size)} of shared memory in /dev/shm", remedy))
    return findings


def clock() -> list[Finding]:
    """Find a clock that is absurdly late: before this program was installed."""
    now = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now))
    installed = (PACKAGE / "__init__.py").stat().st_mtime
    if now < installed - DAY:
        text = f"the clock says {shown}, which is before this program was installed"
        return [Finding(BAD, text, "set it: sudo timedatectl set-ntp true")]
    return [Finding(OK, shown)]


def gib(n_bytes: float) -> str:
    """Return an amount of memory for a person, in GiB."""
    return f"{n_bytes / 2**30:,.3g} GiB"
