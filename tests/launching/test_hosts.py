"""Two hosts, as two network namespaces with a cable between them: launch/hosts.sh for root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from momentum_gpt.core.files import read_json_lines, sha256_of_file
from tests.conftest import SMOKE, command
from tests.slurm import run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
HOSTS = {"10.77.0.1": "momentum1", "10.77.0.2": "momentum2"}
"""Address -> network namespace."""

STEPS = 600
OPTIONS = [*SMOKE, f"training.max_steps={STEPS}", "training.save_every=50", "training.eval_every=0"]

RSH = """#!/usr/bin/env bash
exec ip netns exec "momentum${1##*.}" bash -c "$2"
"""


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a hostfile of two hosts with one rank each."""
    has_ip = shutil.which("ip") is not None
    if not has_ip or subprocess.run(["ip", "netns", "add", "probe"], check=False).returncode:
        pytest.skip("no network namespaces can be made here")
    run("ip", "netns", "delete", "probe")
    for namespace in HOSTS.values():
        run("ip", "netns", "add", namespace)
    try:
        first, second = HOSTS.values()
        cable = ["type", "veth", "peer", "name", "cable", "netns", second]
        run("ip", "link", "add", "cable", "netns", first, *cable)
        for address, namespace in HOSTS.items():
            run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                run("ip", "-n", namespace, "link", "set", device, "up")

        shell = tmp_path / "rsh"
        shell.write_text(RSH)
        shell.chmod(0o755)
        monkeypatch.setenv("RSH", str(shell))
        monkeypatch.setenv("PYTHON", sys.executable)
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "cable")
        file = tmp_path / "hostfile"
        file.write_text("".join(f"{address} slots=1\n" for address in HOSTS))
        yield file
    finally:
        for namespace in HOSTS.values():
            run("ip", "netns", "delete", namespace)


class Job:
    """A run that launch/hosts.sh has started."""

    def __init__(self, hostfile: Path, data: Path, folder: Path, *options: str) -> None:
        self.run = folder / "x"
        self.log = folder.with_suffix(".log")
        words = [ROOT / "launch" / "hosts.sh", hostfile, "name=x", f"data={data}"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*map(str, words), f"runs={folder}", *OPTIONS, *options], stdout=log, stderr=log
            )

    @property
    def steps(self) -> int:
        records = read_json_lines(self.run / "metrics.jsonl")
        return records[-1]["step"] if records else 0

    def wait_until(self, holds: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.2)

    def said(self, text: str) -> bool:
        return text in self.log.read_text()

    @property
    def weights(self) -> str:
        folder = self.run / "checkpoints" / f"step_{STEPS:08d}"
        return sha256_of_file(folder / "model" / "model.safetensors")


def test_two_hosts_are_like_one_and_a_host_that_is_cut_off_comes_back(
    hosts: Path, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(hosts, data_folder, tmp_path / "there")
    job.wait_until(lambda: job.steps > 120, 120)
    cut = time.monotonic()
    run("ip", "-n", HOSTS["10.77.0.2"], "link", "set", "cable", "down")
    job.wait_until(lambda: job.said("rank 1 (host"), 90)
    print(f"named after {time.monotonic() - cut:.0f} s")
    job.wait_until(lambda: job.said("restart 1 of 3"), 90)
    time.sleep(10)
    run("ip", "-n", HOSTS["10.77.0.2"], "link", "set", "cable", "up")
    assert job.process.wait(300) == 0, job.log.read_text()

    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    here = tmp_path / "here"
    options = ["name=x", f"runs={here}", f"data={data_folder}", *OPTIONS]
    assert command("momentum_gpt.train", *options, "launch.nproc_per_node=2").code == 0
    folder = here / "x" / "checkpoints" / f"step_{STEPS:08d}"
    assert job.weights == sha256_of_file(folder / "model" / "model.safetensors")


def test_a_request_to_stop_reaches_all_hosts(
    hosts: Path, data_folder: Path, tmp_path: Path
) -> None:
    job = Job(hosts, data_folder, tmp_path / "there", "training.max_steps=100000")
    job.wait_until(lambda: job.steps > 20, 120)
    job.process.terminate()
    assert job.process.wait(60) == 75, job.log.read_text()
    assert job.said("checkpoint saved")


def test_a_mistake_ends_all_hosts(hosts: Path, data_folder: Path, tmp_path: Path) -> None:
    job = Job(hosts, data_folder, tmp_path / "there", "model.vocab_size=3")
    assert job.process.wait(90) == 2
    assert job.log.read_text().count("error: ") == 1


@pytest.mark.parametrize("content", ["", "a slots=2\nb slots=1\n", "a slots=x\n"])
def test_a_bad_hostfile_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "hostfile"
    file.write_text(content)
    done = subprocess.run(
        [ROOT / "launch" / "hosts.sh", file, "name=x"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHON": sys.executable},
        check=False,
    )
    assert done.returncode == 2
    assert "HOSTFILE has a line" in done.stderr
