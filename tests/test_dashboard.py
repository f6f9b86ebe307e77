"""The dashboard: run folders that grow, and the page that follows them in a real browser."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from momentum_gpt.comparison.report.live import Follower, Lines
from momentum_gpt.dashboard import conclude
from tests.comparison.report.browser import opened
from tests.comparison.report.synthetic import VANILLA, curve_of, finish, momentum, write_run
from tests.conftest import command


def add_lines(run: Path, seed: int, gain: float, steps: int, done: int) -> None:
    """Let a synthetic run go on to step `done`."""
    have = len((run / "metrics.jsonl").read_text().splitlines())
    records = curve_of(seed, gain, steps, done, 10)[have:]
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Start a dashboard as a user does, and yield its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "momentum_gpt.dashboard", f"runs=[{folder}]", "port=0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert found is not None
        yield found[0]
    finally:
        process.terminate()
        process.wait()


def get(address: str, host: str) -> int:
    """Return the status of the answer to a request with this Host."""
    port = int(address.rstrip("/").rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/", headers={"Host": host})
    status = connection.getresponse().status
    connection.close()
    return status


def test_only_new_lines_are_read_and_half_a_line_waits(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = Lines(path)
    assert not lines.read()

    path.write_text('{"step": 1, "tokens": 8, "optim/lr": 0.1}\nnot a record\n{"step": 2, "tok')
    assert lines.read()
    assert lines.records == [{"step": 1, "tokens": 8}]
    assert not lines.read()

    with path.open("a") as file:
        file.write('ens": 16, "val/loss": 3.0, "val/acc": 0.5}\n')
    assert lines.read()
    assert lines.records[1] == {"step": 2, "tokens": 16, "val/loss": 3.0, "val/acc": 0.5}


def test_a_file_that_was_replaced_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "tokens": 8}\n{"step": 2, "tokens": 16}\n')
    lines = Lines(path)
    lines.read()

    other = tmp_path / "other"
    other.write_text('{"step": 1, "tokens": 8, "train/loss": 5.0}\n{"step": 3, "tokens": 24}\n')
    other.replace(path)
    lines.read()
    assert [record["step"] for record in lines.records] == [1, 3]


def test_the_page_follows_runs_from_nothing_to_their_comparison(tmp_path: Path) -> None:
    follower = Follower([tmp_path], conclude)
    follower.read()
    assert "0 of 0 runs have finished." in follower.page()

    runs = [write_run(tmp_path, "a", VANILLA, done=10)]
    runs.append(write_run(tmp_path, "b", momentum(0.5), gain=0.05, done=10))
    assert follower.read()
    assert not follower.read()
    page = follower.page()
    assert "0 of 2 runs have finished." in page
    assert "<td>going on</td><td>10</td><td>400</td>" in page
    assert "Losses of" not in page

    for run, gain in zip(runs, (0.0, 0.05), strict=True):
        add_lines(run, 0, gain, 400, 400)
        finish(run, 0, gain, few_shot=False)
    assert follower.read()
    page = follower.page()
    assert "2 of 2 runs have finished." in page
    assert "<h2>Losses of b against a, paired by document</h2>" in page
    assert "Identical initial weights." in page


def test_a_damaged_folder_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    write_run(tmp_path, "good", VANILLA, done=200)
    write_run(tmp_path, "damaged", VANILLA, done=200)
    (tmp_path / "damaged" / "config.yaml").write_text("{")
    follower = Follower([tmp_path], conclude)
    follower.read()
    page = follower.page()
    assert "<td>good</td>" in page
    assert "damaged/config.yaml cannot be read" in page


@pytest.mark.parametrize("done", [200, 400])
def test_an_analysis_that_cannot_be_read_is_the_mistake_of_its_run(
    tmp_path: Path, done: int
) -> None:
    write_run(tmp_path, "good", VANILLA, done=200)
    path = write_run(tmp_path, "older", VANILLA, done=done)
    (path / "evaluations").mkdir(exist_ok=True)
    (path / "evaluations" / "analysis.jsonl").write_text('{"step": 200, "task": "sst2"}\n')
    follower = Follower([tmp_path], conclude)
    follower.read()
    page = follower.page()
    assert "<td>good</td>" in page
    assert "analysis.jsonl is not a record of this version" in page


def test_a_folder_that_is_none_is_a_mistake(tmp_path: Path) -> None:
    done = command("momentum_gpt.dashboard", f"runs=[{tmp_path}/none]")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "is not a folder" in done.err


def test_a_port_that_is_taken_is_a_mistake(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = command("momentum_gpt.dashboard", f"runs=[{tmp_path}]", f"port={port}")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert f"port {port} cannot be used" in done.err


def test_only_this_machine_is_answered(tmp_path: Path) -> None:
    with served(tmp_path) as address:
        port = address.rstrip("/").rpartition(":")[2]
        assert get(address, f"127.0.0.1:{port}") == 200
        assert get(address, f"localhost:{port}") == 200
        assert get(address, f"evil.example:{port}") == 403


@pytest.mark.browser
def test_new_lines_and_runs_appear_and_the_switches_stay(tmp_path: Path) -> None:
    from playwright.sync_api import expect

    first = write_run(tmp_path, "a", VANILLA, done=200)
    with served(tmp_path) as address, opened(address) as page:
        names = page.locator("#runs .name")
        step = page.locator("#tables td:nth-child(3)").first
        page.get_by_role("radio", name="time").check()
        expect(step).to_have_text("200")

        add_lines(first, 0, 0.0, 400, 300)
        expect(step).to_have_text("300")
        assert page.evaluate("page.axis") == "time"

        write_run(tmp_path, "b", momentum(0.5), done=100)
        expect(names).to_have_text(["vanilla", "momentum 0.5"])
        expect(page.locator("#state")).to_have_text("live")
        shutil.rmtree(tmp_path / "b")
        expect(names).to_have_text(["vanilla"])
