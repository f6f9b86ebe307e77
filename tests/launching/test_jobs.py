"""Jobs in processes of their own. A small script stands in for `train`, which takes seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from momentum_gpt.core import outcome
from momentum_gpt.core.errors import JobsFailedError
from momentum_gpt.core.outcome import Outcome
from momentum_gpt.core.stopping import StoppedError
from momentum_gpt.launching import jobs
from momentum_gpt.launching.jobs import Job, require_success, run_jobs

STAND_IN = """
import os, signal, sys, time

name, runs = (argument.partition("=")[2] for argument in sys.argv[1:3])
options = dict(argument.split("=") for argument in sys.argv[3:])

def note(word):
    with open(f"{runs}/history", "a") as file:
        print(word, name, file=file)

def stop(number, frame):
    note("stopped")
    sys.exit(130 if number == signal.SIGINT else 75)

signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
note("started")
print("threads", os.environ["OMP_NUM_THREADS"], flush=True)
time.sleep(float(options.get("seconds", 0)))
note("ended")
code = int(options.get("code", 0))
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""
"""Takes some seconds, and ends with an exit code or, below 0, by a signal; leaves a history."""

LONG = "seconds=60"

DRIVER = """
import sys
from pathlib import Path
from momentum_gpt.core.stopping import StoppedError
from momentum_gpt.launching import jobs

jobs.TRAIN = (sys.executable, "-c", Path(sys.argv[1]).read_text())
try:
    for ended in jobs.run_jobs([jobs.Job(n, ("seconds=60",)) for n in "abc"], 2, Path(sys.argv[2])):
        print(ended)
except StoppedError as stopped:
    sys.exit(stopped.exit_code)
"""


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "TRAIN", (sys.executable, "-c", STAND_IN))
    monkeypatch.setattr(jobs, "LOOK_EVERY", 0.01)


def history(runs: Path) -> list[str]:
    path = runs / "history"
    return path.read_text().splitlines() if path.exists() else []


def wait_for(runs: Path, *words: str) -> None:
    end = time.monotonic() + 30
    while not set(words) <= set(history(runs)):
        assert time.monotonic() < end, history(runs)
        time.sleep(0.02)


def most_at_once(words: list[str]) -> int:
    changes = {"started": 1, "ended": -1}
    running = [0]
    for word in words:
        running.append(running[-1] + changes[word.split()[0]])
    return max(running)


@pytest.mark.parametrize("at_a_time", [1, 2])
def test_every_job_runs_once_and_so_many_at_a_time(tmp_path: Path, at_a_time: int) -> None:
    names = ["a", "b", "c", "d", "e"]
    ended = list(run_jobs([Job(name, ("seconds=0.3",)) for name in names], at_a_time, tmp_path))
    assert sorted(entry.job.name for entry in ended) == names
    assert all(entry.exit_code == 0 and 0.3 <= entry.seconds < 30 for entry in ended)

    assert sorted(history(tmp_path)) == sorted(
        f"{w} {n}" for w in ("started", "ended") for n in names
    )
    assert most_at_once(history(tmp_path)) == at_a_time


def test_a_quick_job_does_not_wait_for_a_slow_one(tmp_path: Path) -> None:
    slow = Job("slow", ("seconds=4",))
    ended = run_jobs([slow, Job("a"), Job("b"), Job("c")], 2, tmp_path)
    assert [entry.job.name for entry in ended] == ["a", "b", "c", "slow"]


def test_a_job_that_fails_ends_no_other_and_is_named_with_its_last_line(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    codes = {"a": 2, "c": 1}
    planned = [Job(name, (f"code={codes.get(name, 0)}",)) for name in names]
    ended = list(run_jobs(planned, 1, tmp_path))
    assert [entry.exit_code for entry in ended] == [2, 0, 1, 0]

    require_success([entry for entry in ended if entry.job.name in "bd"])
    with pytest.raises(JobsFailedError) as failed:
        require_success(ended)
    head, *named = str(failed.value).splitlines()
    assert head.startswith("2 job(s)")
    for line, name in zip(named, "ac", strict=True):
        assert line.startswith(f"  {name} (exit code {codes[name]})")
        assert f"{tmp_path / name}.log: threads " in line


def test_a_job_that_is_killed_has_failed(tmp_path: Path) -> None:
    killed, other = run_jobs([Job("a", ("code=-9",)), Job("b")], 1, tmp_path)
    assert (killed.exit_code, other.exit_code) == (-9, 0)
    assert killed.failure.startswith("a (exit code -9)")


@pytest.mark.parametrize("code", [75, 130])
def test_a_job_that_was_stopped_ends_them_all(tmp_path: Path, code: int) -> None:
    planned = [Job("long", (LONG,)), Job("a", ("seconds=1", f"code={code}")), Job("never")]
    with pytest.raises(StoppedError) as stopped:
        list(run_jobs(planned, 2, tmp_path))
    assert stopped.value.exit_code == code
    assert history(tmp_path)[-1] == "stopped long"
    assert "started never" not in history(tmp_path)


def test_jobs_may_depend_on_those_before(tmp_path: Path) -> None:
    codes: list[int] = []

    def one_after_the_other() -> Iterator[Job]:
        while sum(codes) < 3:
            yield Job(f"job{len(codes)}", (f"code={len(codes)}",))

    for ended in run_jobs(one_after_the_other(), 1, tmp_path):
        codes.append(ended.exit_code)
    assert codes == [0, 1, 2]


def test_whoever_leaves_the_loop_stops_the_jobs(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    ended = run_jobs([Job("long", (LONG,)), Job("a", ("seconds=1",))], 2, tmp_path)
    assert next(ended).job.name == "a"
    ended.close()
    assert history(tmp_path)[-1] == "stopped long"
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize(
    ("number", "group", "code"),
    [
        (signal.SIGTERM, False, 75),
        (signal.SIGINT, True, 130),  # Ctrl-C reaches the jobs as well
        (signal.SIGINT, False, 130),
    ],
)
def test_a_request_to_stop_lets_every_job_stop(
    tmp_path: Path, number: signal.Signals, group: bool, code: int
) -> None:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    command = [sys.executable, "-c", DRIVER, str(script), str(tmp_path)]
    driver = subprocess.Popen(command, start_new_session=True)
    wait_for(tmp_path, "started a", "started b")
    os.killpg(driver.pid, number) if group else driver.send_signal(number)
    assert driver.wait(30) == code
    assert {"stopped a", "stopped b"} <= set(history(tmp_path))
    assert "started c" not in history(tmp_path)


@pytest.mark.parametrize(
    ("environment", "at_a_time", "threads"),
    [({}, 2, "4"), ({}, 3, "2"), ({}, 9, "1"), ({"OMP_NUM_THREADS": "5"}, 2, "5")],
)
def test_a_job_has_its_share_of_the_cores(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    at_a_time: int,
    threads: str,
) -> None:
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    (ended,) = run_jobs([Job("a")], at_a_time, tmp_path)
    assert ended.log.read_text().split() == ["threads", threads]


def test_what_is_complete_is_not_started_again(tmp_path: Path) -> None:
    """Only with the same options, and only if the run itself says so."""
    made = [Job(name, ("seconds=0",)) for name in "abc"]
    assert len(list(run_jobs(made, 1, tmp_path))) == 3
    outcome.write(tmp_path / "a", Outcome(0, 10, "all 10 steps are done"))
    outcome.write(tmp_path / "b", Outcome(75, 5, "stopped"))
    outcome.write(tmp_path / "c", Outcome(0, 10, "all 10 steps are done"))

    changed = [*made[:2], Job("c", ("seconds=0.0",))]
    ended = list(run_jobs(changed, 1, tmp_path))
    assert [(one.job.name, one.exit_code) for one in ended] == [("a", 0), ("b", 0), ("c", 0)]
    started = [line.split()[1] for line in history(tmp_path) if line.startswith("started")]
    assert started == ["a", "b", "c", "b", "c"]
