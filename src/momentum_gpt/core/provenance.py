"""What computed a run: the code, by a hash of it, and the libraries."""

from __future__ import annotations

import hashlib
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
