"""Sweeps whose jobs submitit starts, here without SLURM; see tests/launching/test_slurm.py."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from momentum_gpt import train
from momentum_gpt.cli.launchers import is_submitit
from momentum_gpt.core.files import read_json_lines
from tests.conftest import SMOKE, Result, command

LOCAL = "hydra/launcher=submitit_local"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-m", LOCAL, "training.seed=0,1"], True),
        (["hydra/launcher=submitit_slurm", "--multirun"], True),
        ([LOCAL, "training.seed=0"], False),  # without a sweep, Hydra starts no jobs
        (["-m", "hydra/launcher=basic"], False),
    ],
)
def test_a_sweep_with_its_launcher_is_known(arguments: list[str], expected: bool) -> None:
    assert is_submitit(arguments) is expected


def test_without_submitit_the_extra_is_named(
    invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    done = invoke(train.main, "-m", LOCAL, "name=a", "training.seed=0,1")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "pip install 'momentum-gpt[sweep]'" in done.err


def steps(run: Path) -> int:
    records = read_json_lines(run / "metrics.jsonl")
    return records[-1]["step"] if records else 0


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 200
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def job_of(seed: int, driver: psutil.Process) -> psutil.Process:
    """Return the process in which a job's run is driven."""
    for process in driver.children(recursive=True):
        if f"runs/s{seed}/config.yaml" in process.cmdline():
            return process.parent()
    raise AssertionError(f"no job trains the seed {seed}")


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_job_that_is_killed_is_named_after_the_others_and_resumed(
    data_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    options = [*SMOKE, "training.max_steps=600", "training.save_every=10", "training.eval_every=0"]
    sweep = ["-m", LOCAL, "name=s${training.seed}", "training.seed=0,1"]
    words = ["momentum_gpt.train", *sweep, f"data={data_folder}", *options]
    log = tmp_path / "err"
    with log.open("w") as file:
        driver = subprocess.Popen([sys.executable, "-m", *words], cwd=tmp_path, stderr=file)
    runs = tmp_path / "runs"
    wait_until(lambda: min(steps(runs / "s0"), steps(runs / "s1")) > 20)
    job_of(0, psutil.Process(driver.pid)).kill()

    assert driver.wait(300) == 1
    head, named, *more = log.read_text().partition("error: ")[2].splitlines()
    assert (head, more) == ("1 job(s) of the sweep failed:", [])
    assert "training.seed=0" in named
    assert "(no result, logs: " in named
    assert 20 < steps(runs / "s0") < 600
    assert steps(runs / "s1") == 600

    again = command(*words, cwd=tmp_path, timeout=400)
    assert again.code == 0, again.err
    assert steps(runs / "s0") == 600
    logs = [path.read_text() for path in tmp_path.rglob("*_log.out")]
    assert sum("resume    from runs/s0/checkpoints" in text for text in logs) == 1
    assert sum("runs/s1 is complete: all 600 steps" in text for text in logs) == 1


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_ctrl_c_ends_the_waiting_and_no_job(data_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    sweep = ["-m", LOCAL, "name=s${training.seed}", "training.seed=0,1", *SMOKE]
    words = ["momentum_gpt.train", *sweep, f"data={data_folder}"]
    log = tmp_path / "err"
    with log.open("w") as file:
        driver = subprocess.Popen([sys.executable, "-m", *words], cwd=tmp_path, stderr=file)
    runs = tmp_path / "runs"
    wait_until(lambda: min(steps(runs / "s0"), steps(runs / "s1")) > 0)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(10) == 130
    said = log.read_text()
    assert said.count("\n") == 1
    assert "the same command does what is left" in said
    wait_until(lambda: min(steps(runs / "s0"), steps(runs / "s1")) == 20)
