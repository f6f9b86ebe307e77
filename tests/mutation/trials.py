"""Runs the tests of a mutant in a copy of the checkout."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from tests.mutation.mutants import Mutant

PACKAGE = Path("src/momentum_gpt")

COMMANDS = {
    "models": ["tests/test_generate.py"],
    "data": ["tests/test_evaluate.py", "tests/test_train.py"],
    "training": ["tests/test_train.py"],
    "evaluation": ["tests/test_evaluate.py", "tests/test_train.py"],
    "comparison": ["tests/test_evaluate.py"],
}
"""Tests of whole commands that cover a package, beside the folder that mirrors it."""

MEMORY = 6 * 2**30
"""Bytes that a process of the tests may have for data: an endless loop may fill a list."""

KILLED = "killed"
TIMEOUT = "timeout"
SURVIVED = "survived"

TESTS_FAILED = 1
TESTS_NOT_COLLECTED = 2
"""pytest's exit codes that mean a killed mutant."""

TIMED_OUT = "+ Timeout +"
"""What pytest-timeout prints."""


def suite_of(root: Path, file: str, quick: bool) -> list[str]:
    """Return the tests of a file of the package: those that mirror it, its package's, the rest.

    Args:
        root: the checkout.
        file: relative to the root.
        quick: only those that mirror it; if there are none, its package's.
    """
    inside = Path(file).relative_to(PACKAGE)
    package = inside.parts[0]
    mirrored = Path("tests") / inside.parent / f"test_{inside.name}"
    near = [str(mirrored)] if (root / mirrored).is_file() else []
    if quick:
        return near or [f"tests/{package}"]
    return [*near, f"tests/{package}", *COMMANDS[package]]


class Copy:
    """A copy of the checkout, in which one mutant at a time is tried."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        for name in _files(root):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, path)

    def slowest_test(self, tests: Iterable[str], jobs: int) -> float:
        """Run tests on the code without mistakes, and return the seconds that the slowest takes.

        Raises:
            SystemExit: one fails, which would kill every mutant.
        """
        report = self.folder.with_suffix(".xml")
        parallel = ["-n", str(jobs), "--dist", "loadfile", "--junit-xml", str(report)]
        code, output = self._pytest([*parallel, *tests], None)
        if code:
            raise SystemExit(f"tests fail without a mutant:\n{output[-3000:]}")

        cases = ElementTree.parse(report).iter("testcase")
        return max(float(case.attrib["time"]) for case in cases)

    def try_mutant(self, mutant: Mutant, tests: Sequence[str], seconds: float) -> str:
        """Return whether tests kill a mutant; each test has so many seconds."""
        path = self.folder / mutant.file
        original = path.with_suffix(".original")
        path.rename(original)
        path.write_text(mutant.code, "utf-8")
        try:
            # Another method raises an error, which hypothesis takes for a reason to try again.
            alone = ["-x", "-p", "no:xdist", "--timeout-method=thread", f"--timeout={seconds}"]
            code, output = self._pytest([*alone, *tests], 20 * seconds)
        finally:
            original.replace(path)

        if code is None or TIMED_OUT in output:
            return TIMEOUT
        if code == 0:
            return SURVIVED
        if code in (TESTS_FAILED, TESTS_NOT_COLLECTED):
            return KILLED
        raise SystemExit(f"pytest ended with {code}:\n{mutant.diff()}\n{output[-3000:]}")

    def _pytest(self, arguments: list[str], seconds: float | None) -> tuple[int | None, str]:
        """Return its exit code and what it printed; the code is None if it was killed for time."""
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        # A file and not a pipe: processes that a killed test leaves behind would keep it open.
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (MEMORY, MEMORY))
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _kill_session(process)
            output.seek(0)
            return code, output.read()

    def _environment(self) -> dict[str, str]:
        """The code of the copy comes before that of the installed package.

        No bytecode is written: Python compares whole seconds, and would take that of the mutant
        before.
        """
        path = os.pathsep.join([str(self.folder / "src"), str(self.folder)])
        return os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def _kill_session(process: subprocess.Popen) -> None:
    """Kill what is left of the process and of all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _files(root: Path) -> list[str]:
    """Return what git knows or would add: the code, without environments, data and runs."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    names = listed.stdout.split("\0")
    return [name for name in names if (root / name).is_file()]
