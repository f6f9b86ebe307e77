"""What computed a run: the code, by a hash of it and its commit, the libraries, the machine."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

COMPUTING = ("core/batch_plan.py", "data", "models", "ops", "training")
"""The parts of the package that decide what a model becomes; the others decide what is shown."""

LIBRARIES = ("torch", "deepspeed")


@cache
def code_sha256() -> str:
    """Return a hash of the code that trains, over the names and the content of its files."""
    digest = hashlib.sha256()
    for part in COMPUTING:
        path = PACKAGE / part
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(str(file.relative_to(PACKAGE)).encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the version of each library that computes."""
    return {name: version(name) for name in LIBRARIES}


@cache
def commit() -> str:
    """Return the commit of a git checkout, with "+" if its files were changed; else ""."""
    checkout = PACKAGE.parents[1]
    if not (checkout / ".git").exists():
        return ""
    changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    return _git(checkout, "rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


def _git(checkout: Path, *words: str) -> str:
    """Return what a git command prints; "" if it fails, or there is no git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(checkout), *words], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()


def processor() -> str:
    """Return the model and the cores of this machine's processor, such as "AMD EPYC, 8 cores"."""
    found = re.search(r"^model name\s*: (.+)$", _cpuinfo(), re.MULTILINE)
    name = found.group(1).strip() if found else platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
