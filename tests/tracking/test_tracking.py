"""metrics.jsonl is the truth; W&B, the real client, is a view that never delays a run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from momentum_gpt.core.errors import MachineError
from momentum_gpt.core.files import read_json_lines
from momentum_gpt.tracking import Tracker, dashboard, metrics_file, show_again
from momentum_gpt.tracking.copies import run_id
from tests.tracking.support import (
    KEY,
    config,
    copies,
    inspect,
    log_steps,
    logged_in,
    metrics,
    sync,
    x_axes,
)
from tests.wandb_server import WandbServer

ROOT = Path(__file__).resolve().parents[2]
UNREACHABLE = "warning: W&B is not reachable ("


@contextmanager
def small_disk(folder: Path, size: str = "64k") -> Iterator[None]:
    """Mount a file system of this size in memory."""
    if os.geteuid() != 0:
        pytest.skip("a small disk is mounted by root")
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        # Lazily: a client that was killed may need a moment to go.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, but: int = 0) -> Path:
    """Fill a disk, but for some bytes, and return the file that takes the room."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    os.truncate(filler, filler.stat().st_size - but)
    return filler


def wait_until(holds: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


# The view


def test_an_offline_run_holds_config_tags_group_token_axis_and_every_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    tracker = Tracker(config(tmp_path, "offline"), 0)
    log_steps(tracker, range(1, 4))
    message = tracker.close()
    assert message is not None
    assert "wandb sync" in message
    records = inspect(tmp_path)
    assert x_axes(records) == {"tokens": None, "*": "tokens", "step": "tokens"}
    text = json.dumps(records)
    for part in (
        "train/loss",
        "0.3333333333333333",
        '"g"',
        '"t"',
        "momentum",
        "ema_decay",
    ):
        assert part in text, part
    assert [r["tokens"] for r in metrics(tmp_path)] == [8, 16, 24]
    for root, _, files in os.walk(tmp_path):
        for name in files:
            assert KEY.encode() not in (Path(root) / name).read_bytes(), name


def test_on_the_server_a_run_is_its_metrics_also_after_rewinds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = config(tmp_path, "auto")

    def attempt(start: int, steps: range, loss: float) -> str:
        tracker = Tracker(c, start)
        log_steps(tracker, steps, loss)
        return tracker.close() or ""

    with WandbServer() as server:
        for name, value in logged_in(server.url).items():
            monkeypatch.setenv(name, value)
        attempt(0, range(1, 7), 1.0)
        message = attempt(4, range(5, 8), 2.0)  # back to step 4
        (name,) = server.rows
        assert message == f"W&B: {server.url}/someone/p/runs/{name}"
        assert server.history(name) == metrics(tmp_path)

        monkeypatch.setenv("WANDB_MODE", "offline")
        message = attempt(6, range(7, 10), 3.0)  # back to step 6, without the server
        sync(message, server)
        assert list(server.rows) == [name]
        history = server.history(name)

    assert history == metrics(tmp_path)
    assert [row["tokens"] for row in history] == [8 * step for step in range(1, 10)]
    losses = [row["train/loss"] * row["step"] for row in history]
    assert losses == pytest.approx([1.0] * 4 + [2.0] * 2 + [3.0] * 3)
    assert len(copies(tmp_path)) == 1


# A server that fails


PROGRAM = """
import json, os, sys, time
from pathlib import Path
from momentum_gpt.tracking import Tracker
from tests.tracking.support import config, log_steps

tracker = Tracker(config(Path(sys.argv[1]), "auto"), 0)
log_steps(tracker, range(1, 101))
tracker.flush()
print("ready", flush=True)
sys.stdin.readline()
began = time.monotonic()
log_steps(tracker, range(101, 301))
took = time.monotonic() - began
print(json.dumps([took, tracker.close()]), flush=True)
"""

AT_INIT = ["refuses", "unauthorized", "broken", "slow", "frozen"]
IN_MID_RUN = ["then gone", "then unauthorized", "then frozen"]


@dataclass
class Trained:
    """A process that logged 300 records while the server failed."""

    took: float
    """Seconds in which it logged 200 of them."""
    ended_after: float
    """Seconds from its last record to its end."""
    message: str
    err: str
    folder: Path
    synced: list[dict[str, Any]]
    """What a server that works had after `wandb sync`."""


def start_program(folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)],
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def train_against(fault: str, folder: Path, healthy: WandbServer) -> Trained:
    """Log to a server that fails, and sync to one that works."""
    with WandbServer() as server:
        url = server.url
        if fault == "refuses":
            with socket.create_server(("127.0.0.1", 0)) as closed:
                url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        elif fault in AT_INIT:
            server.behaviour = fault

        program = start_program(folder, **logged_in(url))
        assert program.stdout is not None
        program.stdout.readline()
        if fault in IN_MID_RUN:
            wait_until(lambda: any(server.rows.values()))
            server.behaviour = fault.removeprefix("then ")

        began = time.monotonic()
        out, err = program.communicate("\n", timeout=100)
        ended_after = time.monotonic() - began
    took, message = json.loads(out)
    sync(message, healthy)
    synced = healthy.history(run_id(folder / "run"))
    return Trained(took, ended_after, message, err, folder, synced)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Trained]]]:
    """All faults at once, because most of the time is spent waiting."""
    with WandbServer() as healthy, ThreadPoolExecutor(8) as pool:
        yield {
            fault: pool.submit(train_against, fault, tmp_path_factory.mktemp("fault"), healthy)
            for fault in [*AT_INIT, *IN_MID_RUN]
        }


@pytest.mark.chaotic
@pytest.mark.parametrize("fault", [*AT_INIT, *IN_MID_RUN])
def test_a_server_that_fails_neither_delays_nor_ends_a_run_and_gets_all_of_it_later(
    trained: dict[str, Future[Trained]], fault: str
) -> None:
    done = trained[fault].result()
    assert done.took < 1  # 200 records, and not one of the client's waits
    assert done.ended_after < dashboard.CLOSED_WITHIN + 10
    written = metrics(done.folder)
    assert [record["step"] for record in written] == list(range(1, 301))
    assert done.synced == written
    assert len(copies(done.folder)) == 1
    if fault in AT_INIT:
        (warning,) = done.err.splitlines()
        assert warning.startswith(UNREACHABLE)
        assert "offline" in done.message
    else:
        assert done.err == ""
        assert "lacks the end" in done.message


def test_a_killed_training_leaves_a_whole_copy_and_no_process(tmp_path: Path) -> None:
    program = start_program(tmp_path, WANDB_MODE="offline")
    assert program.stdout is not None
    program.stdout.readline()
    wait_until(lambda: copies(tmp_path))
    before = processes_of(tmp_path)
    program.kill()
    program.communicate()
    assert before
    wait_until(lambda: not set(before) & set(processes_of(tmp_path)))
    records = inspect(tmp_path)
    assert records[-1]["type"] == "exit"
    assert records[-1]["exit"]["exit_code"] == 1
    assert sum(record["type"] == "history" for record in records) == 100


def processes_of(folder: Path) -> list[int]:
    """The processes that have a file of a folder open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            is_within = str(folder) in str(link.readlink())
        except OSError:  # it is gone already
            continue
        if is_within:
            found.append(int(link.parts[2]))
    return found


# A disk that is full


def test_a_full_disk_of_the_dashboard_is_said_and_the_copy_is_made_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    c = config(tmp_path, "offline")
    wandb = c.run_dir / "wandb"
    with small_disk(wandb, "256k"):
        tracker = Tracker(c, 0)
        log_steps(tracker, range(1, 101))
        wait_until(lambda: list(wandb.glob("*/*.wandb")))
        filler = fill(wandb)
        log_steps(tracker, range(101, 2001))
        message = tracker.close()
        assert message is not None
        # Which of the client's files meets the full disk first is left to chance.
        assert "disk full" in message or "No space left on device" in message
        assert "the same command" in message
        assert [record["step"] for record in metrics(tmp_path)] == list(range(1, 2001))

        os.truncate(filler, 0)
        subprocess.run(["mount", "-o", "remount,size=4m", str(wandb)], check=True)
        message = show_again(c)
        assert message is not None
        with WandbServer() as server:
            sync(message, server)
            assert server.history(run_id(c.run_dir)) == metrics(tmp_path)
        assert show_again(c) is None
    assert capfd.readouterr().err == ""


@pytest.fixture
def retry_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_file, "RETRY_EVERY", 0.1)


def test_a_disk_that_is_slower_than_the_training_holds_every_record_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync of each record would take 100 seconds, and a run waits 5 at its end."""
    sync_file = os.fsync
    synced: dict[int, int] = {}

    def slow_sync(descriptor: int) -> None:
        time.sleep(0.05)
        status = os.fstat(descriptor)
        synced[status.st_ino] = status.st_size
        sync_file(descriptor)

    monkeypatch.setattr(os, "fsync", slow_sync)
    tracker = Tracker(config(tmp_path, "disabled"), 0)
    log_steps(tracker, range(1, 2001))
    tracker.close()
    assert [record["step"] for record in metrics(tmp_path)] == list(range(1, 2001))
    status = tracker.file.path.stat()
    assert synced[status.st_ino] == status.st_size


@pytest.mark.usefixtures("retry_soon")
def test_records_that_do_not_fit_on_the_disk_are_written_when_there_is_room(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    c = config(tmp_path, "disabled")
    with small_disk(c.run_dir):
        tracker = Tracker(c, 0)
        tracker.flush()
        filler = fill(c.run_dir, but=4096)
        log_steps(tracker, range(1, 401))
        tracker.flush()

        path = c.run_dir / "metrics.jsonl"
        content = path.read_bytes()
        assert 3000 < len(content) <= 4096
        assert content.endswith(b"}\n")
        n_written = content.count(b"\n")
        assert [record["step"] for record in metrics(tmp_path)] == list(range(1, n_written + 1))

        filler.unlink()
        wait_until(lambda: len(metrics(tmp_path)) == 400, seconds=10)
        log_steps(tracker, range(401, 411))
        assert tracker.close() is None
        assert [record["step"] for record in metrics(tmp_path)] == list(range(1, 411))
    (warning,) = capfd.readouterr().err.splitlines()
    assert "metrics.jsonl cannot be written (No space left on device)" in warning


@pytest.mark.usefixtures("retry_soon")
def test_a_run_says_at_its_end_how_many_records_did_not_fit(tmp_path: Path) -> None:
    c = config(tmp_path, "disabled")
    with small_disk(c.run_dir):
        tracker = Tracker(c, 0)
        tracker.flush()
        filler = fill(c.run_dir, but=4096)
        log_steps(tracker, range(1, 401))
        with pytest.raises(MachineError, match=r"free disk space .* the same command") as caught:
            tracker.close()
        n_written = len(metrics(tmp_path))
        assert str(caught.value).startswith(f"{400 - n_written} record(s) are missing in ")
        assert 0 < n_written < 400

        filler.unlink()
        again = Tracker(c, n_written - 3)
        log_steps(again, range(n_written - 2, 401))
        again.close()
        assert [record["step"] for record in metrics(tmp_path)] == list(range(1, 401))


@pytest.mark.usefixtures("retry_soon")
def test_a_folder_that_is_read_only_for_a_while(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    c = config(tmp_path, "disabled")

    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(c.run_dir)], check=True)

    with small_disk(c.run_dir):
        remount("ro")
        tracker = Tracker(c, 0)
        log_steps(tracker, range(1, 51))
        tracker.flush()
        assert metrics(tmp_path) == []
        remount("rw")
        tracker.close()
        assert [record["step"] for record in metrics(tmp_path)] == list(range(1, 51))
    (warning,) = capfd.readouterr().err.splitlines()
    assert "Read-only file system" in warning


def test_a_resumed_run_drops_what_comes_again_and_keeps_its_id(tmp_path: Path) -> None:
    c = config(tmp_path, "disabled")
    first = Tracker(c, 0)
    for step in (1, 2, 3, 4):
        first.log(step, step, {"train/loss": float(step)})
    first.close()
    path = tmp_path / "run" / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"step": 5, "tok')  # a kill in the middle of a line
    again = Tracker(c, 2)
    again.log(3, 3, {"train/loss": 30.0})
    again.close()
    assert [(r["step"], r["train/loss"]) for r in read_json_lines(path)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 30.0),
    ]
    assert run_id(tmp_path / "run") == run_id(tmp_path / "run")
