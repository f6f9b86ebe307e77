"""`kill -9`: the final result is that of an undisturbed run, to the byte."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import prepare
from tests.conftest import Result
from tests.data_prep.samples import ONE_PROCESS, SMALL, contents


def start(text: Path, output: Path) -> subprocess.Popen[bytes]:
    """Start a preparation in processes of its own."""
    arguments = ["corpus=text", f"corpus.paths={text}", f"output={output}", *SMALL]
    return subprocess.Popen(
        [sys.executable, "-m", "data_prep.prepare", *arguments, "executor.workers=2"],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill(process: subprocess.Popen[bytes], output: Path) -> None:
    """Kill a preparation and its workers."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # The workers have the lock, too, and may end a moment later.
    lock = output.parent / f".{output.name}.partial" / "lock"
    if lock.exists():
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)


def test_after_a_kill_in_a_stage_the_bytes_are_the_same(
    invoke: Callable[..., Result],
    text_folder: Path,
    straight: Path,
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    process = start(text_folder, output)
    # Some, but not all, of the tasks of this stage are complete.
    marks = tmp_path / ".out.partial" / "tokenize" / "tasks" / "completions"
    while not (marks.is_dir() and any(marks.iterdir())):
        assert process.poll() is None
        time.sleep(0.005)
    kill(process, output)
    assert not output.exists()

    command = ["corpus=text", f"corpus.paths={text_folder}", f"output={output}", *SMALL]
    done = invoke(prepare.main, *command, ONE_PROCESS)
    assert done.code == 0, done.err
    assert contents(output) == contents(straight)


@pytest.mark.slow
def test_after_kills_at_random_moments_the_bytes_are_the_same(
    text_folder: Path,
    tmp_path: Path,
) -> None:
    """A run that gets through before its kill is another result to compare."""
    began = time.monotonic()
    assert start(text_folder, tmp_path / "straight").wait() == 0
    seconds = time.monotonic() - began

    output = tmp_path / "out"
    drawn = random.Random(0)
    kills = 0
    finished = 0
    while kills < 20:
        process = start(text_folder, output)
        time.sleep(drawn.uniform(0.2, 0.9) * seconds)
        if process.poll() is None:
            kill(process, output)
            kills += 1
        else:
            assert process.returncode == 0
            output.rename(tmp_path / f"out_{finished}")
            finished += 1
    assert start(text_folder, output).wait() == 0

    expected = contents(tmp_path / "straight")
    for folder in tmp_path.glob("out*"):
        assert contents(folder) == expected, folder
