"""Several processes with the same command, as srun and torchrun start them, are one run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from momentum_gpt.core import scheduler
from momentum_gpt.core.files import read_json_lines, sha256_of_file
from tests.conftest import SMOKE, command

STEP = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_ID": "7"}
"""What srun tells each of two tasks on one node."""


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def tasks(*arguments: str) -> list[subprocess.Popen[str]]:
    """Start two tasks like srun."""
    port = free_port()
    started = []
    for rank in ("0", "1"):
        place = {"SLURM_STEP_ID": "0", "SLURM_PROCID": rank, "SLURM_LOCALID": rank}
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "momentum_gpt.train", *arguments],
                env=os.environ | STEP | place | {"MASTER_PORT": port},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def options(data: Path, runs: Path, *more: str) -> list[str]:
    return ["name=x", f"data={data}", f"runs={runs}", *SMOKE, *more]


@pytest.mark.slow
def test_two_tasks_of_srun_train_one_run(data_folder: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    first, second = tasks(*options(data_folder, there))
    said, _ = first.communicate(timeout=120)
    silent, _ = second.communicate(timeout=120)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "2 rank(s)" in said
    assert silent == ""

    here = tmp_path / "here"
    ended = command("momentum_gpt.train", *options(data_folder, here, "launch.nproc_per_node=2"))
    assert ended.code == 0
    name = "x/checkpoints/step_00000020/model/model.safetensors"
    assert sha256_of_file(there / name) == sha256_of_file(here / name)

    # Complete: nobody trains, and nobody waits.
    first, second = tasks(*options(data_folder, there))
    assert "is complete" in first.communicate(timeout=60)[0]
    assert (first.wait(), second.wait(60)) == (0, 0)


@pytest.mark.slow
def test_a_request_to_one_task_of_srun_stops_all(data_folder: Path, tmp_path: Path) -> None:
    more = ["training.max_steps=100000", "training.eval_every=0"]
    first, second = tasks(*options(data_folder, tmp_path, *more))
    end = time.monotonic() + 90
    while len(read_json_lines(tmp_path / "x" / "metrics.jsonl")) < 5:
        assert time.monotonic() < end
        time.sleep(0.1)
    second.send_signal(signal.SIGUSR1)
    said, _ = first.communicate(timeout=60)
    assert (first.returncode, second.wait(60)) == (75, 75)
    assert "checkpoint saved" in said


def test_a_mistake_ends_all_tasks_of_srun_and_is_said_once(
    data_folder: Path, tmp_path: Path
) -> None:
    first, second = tasks(*options(data_folder, tmp_path, "model.vocab_size=3"))
    _, said = first.communicate(timeout=60)
    _, silent = second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (2, 2)
    assert said.count("error: ") == 1
    assert silent == ""


@pytest.mark.slow
def test_torchrun_may_start_the_command_itself(data_folder: Path, tmp_path: Path) -> None:
    words = ["--standalone", "--nproc-per-node=2", "-m", "momentum_gpt.train"]
    ended = command("torch.distributed.run", *words, *options(data_folder, tmp_path))
    assert ended.code == 0, ended.err
    assert "2 rank(s)" in ended.out


def place(monkeypatch: pytest.MonkeyPatch, **environment: str) -> dict[str, str]:
    """Return what a task sets for torch, given what SLURM has set."""
    found = dict(environment)
    monkeypatch.setattr(os, "environ", found)
    scheduler.take_place()
    return {name: value for name, value in found.items() if name not in environment}


def test_the_place_of_a_task_is_that_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    task = {"SLURM_STEP_ID": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}
    found = place(monkeypatch, **STEP | task)
    assert found == {
        "RANK": "5",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "22025",
    }
    kept = place(monkeypatch, **STEP | task, MASTER_ADDR="h", MASTER_PORT="9")
    assert {"MASTER_ADDR", "MASTER_PORT"}.isdisjoint(kept)


SECOND_TASK = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}


def test_ranks_are_those_of_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    assert scheduler.ranks() == (0, 1)
    monkeypatch.setattr(os, "environ", {"RANK": "3", "WORLD_SIZE": "4"})
    assert scheduler.ranks() == (3, 4)
    monkeypatch.setattr(os, "environ", STEP | SECOND_TASK)
    assert scheduler.ranks() == (1, 2)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_PROCID": "0", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"},  # in a batch script
        STEP | {"SLURM_STEP_NUM_TASKS": "1"},
        STEP | {"RANK": "3"},  # torchrun within srun
    ],
)
def test_a_process_that_is_no_task_has_no_place(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    assert place(monkeypatch, **environment) == {}


def test_the_first_of_several_hosts_is_asked_from_slurm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames n[3-4]" ] && printf "n3\\nn4\\n"\n')
    scontrol.chmod(0o755)
    hosts = {"SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "n[3-4]", "SLURM_STEP_ID": "0"}
    ranks = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert place(monkeypatch, **STEP | hosts | ranks | path)["MASTER_ADDR"] == "n3"
