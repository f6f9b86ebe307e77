"""`kill -9` at random moments: what is finished in the end is what an undisturbed run makes, to the byte."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.data_prep.test_prepare import SMALL, contents


def prepare(text: Path, output: Path) -> subprocess.Popen[bytes]:
    arguments = [
        "corpus=text",
        f"corpus.paths={text}",
        f"output={output}",
        *SMALL,
        "executor.workers=2",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "data_prep.prepare", *arguments],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill(kills: int, text: Path, folder: Path, seconds: float) -> None:
    """Prepare `folder/out` with that many kills on the way, at moments that a seed draws, over and over if it gets through."""
    drawn, done, finished = random.Random(0), 0, 0
    while done < kills:
        process = prepare(text, folder / "out")
        time.sleep(drawn.uniform(0.2, 0.9) * seconds)
        if process.poll() is not None:
            assert process.returncode == 0
            (folder / "out").rename(folder / f"out_{finished}")
            finished += 1
        else:
            os.killpg(process.pid, signal.SIGKILL)
            done += 1
        process.wait()
    assert prepare(text, folder / "out").wait() == 0


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_after_kills_the_bytes_are_the_same(kills: int, text_folder: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    assert prepare(text_folder, tmp_path / "straight").wait() == 0
    kill(kills, text_folder, tmp_path, time.monotonic() - began)
    expected = contents(tmp_path / "straight")
    for folder in tmp_path.glob("out*"):
        assert contents(folder) == expected, folder
