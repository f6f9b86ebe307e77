"""Ranks that fail are started again, ranks that were stopped are not, and none outlives its driver.

Real runs on two ranks, as a user starts them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from momentum_gpt.core.config import LaunchConfig
from momentum_gpt.core.files import read_json_lines
from momentum_gpt.launching.torchrun import run_ranks
from momentum_gpt.models import load_model
from tests.conftest import SMOKE

Start = Callable[..., "Run"]

LONG = ["training.max_steps=100000", "training.eval_every=0", "training.save_every=10"]


class Run:
    """A run on two ranks, and what can be seen of it from outside."""

    def __init__(self, folder: Path, data: Path, *options: str) -> None:
        self.folder = folder / "x"
        self.log = folder / "log"
        command = ["momentum_gpt.train", "name=x", f"data={data}", f"runs={folder}", *SMOKE]
        with self.log.open("w") as log:
            self.driver = subprocess.Popen(
                [sys.executable, "-m", *command, "launch.nproc_per_node=2", *options],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def text(self) -> str:
        return self.log.read_text()

    def ranks(self) -> dict[int, int]:
        """Return the process id of each rank."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                environment = (path / "environ").read_bytes().split(b"\0")
                is_worker = b"momentum_gpt.worker" in (path / "cmdline").read_bytes()
            except OSError:  # it has just ended
                continue
            rank = [entry for entry in environment if entry.startswith(b"RANK=")]
            if parent == self.driver.pid and is_worker and rank:
                found[int(rank[0][5:])] = int(path.name)
        return found

    def steps(self) -> int:
        records = read_json_lines(self.folder / "metrics.jsonl")
        return records[-1]["step"] if records else 0

    def wait_until(self, holds: Callable[[], Any], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert self.driver.poll() is None, self.text()
            assert time.monotonic() < end, self.text()
            time.sleep(0.05)

    def ends(self, seconds: float = 120) -> int:
        return self.driver.wait(seconds)

    def outcome(self) -> dict[str, Any]:
        return json.loads((self.folder / "outcome.json").read_text())


@pytest.fixture
def start(tmp_path: Path, data_folder: Path) -> Iterator[Start]:
    """Return a function that starts a run; nothing of it is left after the test."""
    runs = []

    def begin(*options: str, name: str = "run") -> Run:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        runs.append(Run(folder, data_folder, *options))
        return runs[-1]

    yield begin
    for run in runs:
        run.driver.kill()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.chaotic
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_frozen_while_it_starts_is_named_and_started_again(
    start: Start, rank: int
) -> None:
    """Before the ranks have met, none of them can watch another."""
    run = start("training.max_steps=5")
    run.wait_until(lambda: len(run.ranks()) == 2)
    os.kill(run.ranks()[rank], signal.SIGSTOP)
    assert "engine" not in run.text()
    run.wait_until(lambda: f"rank {rank} (process" in run.text(), seconds=60)
    assert "was stopped (SIGSTOP) for 45 s" in run.text()
    assert run.ends() == 0
    assert "restart 1 of 3 from step 0: rank" in run.text()


@pytest.mark.chaotic
def test_a_killed_rank_is_started_again_and_the_run_ends_as_if_nothing_had_happened(
    start: Start,
) -> None:
    options = ["attention=momentum", "training.max_steps=40", "training.save_every=5"]
    straight = start(*options, name="straight")
    assert straight.ends() == 0, straight.text()

    run = start(*options)
    run.wait_until(lambda: run.steps() > 6)
    os.kill(run.ranks()[1], signal.SIGKILL)
    assert run.ends() == 0, run.text()
    assert "restart 1 of 3 from step " in run.text()
    assert ": rank 1 was ended by signal 9 (SIGKILL)" in run.text()
    assert run.outcome()["exit_code"] == 0
    assert run.outcome()["step"] == 40

    expected = load_model(straight.folder).state_dict()
    for name, value in load_model(run.folder).state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.chaotic
def test_failures_without_a_new_checkpoint_end_the_run_and_say_why(start: Start) -> None:
    run = start("launch.max_restarts=1")
    killed: set[int] = set()
    for _ in range(2):
        run.wait_until(lambda: run.ranks().get(1, 0) not in killed | {0})
        pid = run.ranks()[1]
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    assert run.ends() == 1
    assert run.text().count("restart 1 of 1 from step 0: ") == 1
    assert run.text().splitlines()[-1] == (
        "error: crash loop: 2 starts in a row failed without a new checkpoint, "
        "the last one because rank 1 was ended by signal 9 (SIGKILL)"
    )


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGUSR1, 75, marks=pytest.mark.chaotic),
        pytest.param(signal.SIGHUP, 75, marks=pytest.mark.chaotic),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.chaotic),
    ],
)
def test_a_run_that_is_stopped_saves_and_is_not_started_again(
    start: Start, number: signal.Signals, code: int
) -> None:
    run = start(*LONG)
    run.wait_until(lambda: run.steps() > 3)
    run.driver.send_signal(number)
    run.driver.send_signal(signal.SIGTERM)  # a batch system is impatient
    assert run.ends(60) == code, run.text()
    assert "restart" not in run.text()
    assert "death signal" not in run.text()
    found = run.outcome()
    assert found["exit_code"] == code
    latest = (run.folder / "checkpoints" / "latest").read_text()
    assert latest == f"step_{found['step']:08d}\n"


@pytest.mark.chaotic
def test_a_run_that_is_stopped_before_its_first_step_is_not_started_again(start: Start) -> None:
    run = start(*LONG)
    run.wait_until(lambda: len(run.ranks()) == 2)
    run.driver.send_signal(signal.SIGTERM)
    assert run.ends(60) == 75, run.text()
    assert "restart" not in run.text()


def test_no_rank_outlives_its_driver(start: Start) -> None:
    run = start(*LONG)
    run.wait_until(lambda: run.steps() > 3)
    ranks = run.ranks().values()
    assert len(ranks) == 2
    run.driver.kill()
    run.driver.wait()
    end = time.monotonic() + 10
    while any(is_alive(pid) for pid in ranks):
        assert time.monotonic() < end, "a rank is left"
        time.sleep(0.1)


def test_a_mistake_of_the_user_is_said_once_and_not_tried_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("name: x\nnonsense: 1\n")
    before = signal.getsignal(signal.SIGTERM)
    assert run_ranks(config, LaunchConfig(nproc_per_node=2), lambda: 0) == 2
    assert signal.getsignal(signal.SIGTERM) is before
    errors = capfd.readouterr().err
    assert errors.count("error: ") == 1
    assert "is not a config of this version" in errors


@pytest.mark.chaotic
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("within", ["training", "evaluation", "save"])
def test_a_frozen_rank_is_named_and_the_run_ends(start: Start, victim: int, within: str) -> None:
    every = {"evaluation": "training.eval_every=1", "save": "training.save_every=1"}
    run = start(*LONG, "launch.max_restarts=0", *filter(None, [every.get(within)]))
    run.wait_until(lambda: run.steps() > 3)
    if within == "save":
        folder = run.folder / "checkpoints"
        run.wait_until(lambda: list(folder.glob(".*.partial")))
    frozen = time.monotonic()
    pid = run.ranks()[victim]
    os.kill(pid, signal.SIGSTOP)

    run.wait_until(lambda: f"process {pid}) has not answered for " in run.text(), 60)
    assert run.ends(90 - (time.monotonic() - frozen)) == 1
    assert f"stacks of rank {1 - victim}:" in run.text()
    last = run.text().splitlines()[-1]
    assert last.startswith(f"error: rank {1 - victim}: HangError: rank {victim} (host ")
    assert not is_alive(pid)


@pytest.mark.chaotic
def test_a_run_whose_rank_froze_goes_on_and_so_does_one_whose_driver_was_paused(
    start: Start,
) -> None:
    run = start(*LONG)
    run.wait_until(lambda: run.steps() > 20)
    os.kill(run.ranks()[1], signal.SIGSTOP)
    run.wait_until(lambda: "restart 1 of 3 from step " in run.text(), 90)
    run.wait_until(lambda: len(run.ranks()) == 2 and run.text().count("resume ") == 1)

    run.driver.send_signal(signal.SIGSTOP)
    time.sleep(40)
    run.driver.send_signal(signal.SIGCONT)
    seen = run.steps()
    run.wait_until(lambda: run.steps() > seen + 20)
    run.driver.send_signal(signal.SIGTERM)
    assert run.ends() == 75, run.text()
    assert run.text().count("has not answered for") == 2  # the alarm, and the reason of the restart
