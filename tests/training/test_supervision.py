"""Frozen ranks and standstills are found, named and ended; pauses are not taken for them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from momentum_gpt.core import distributed
from momentum_gpt.core.config import plan_batch
from momentum_gpt.models import GPT
from momentum_gpt.training import engine as engines
from momentum_gpt.training.supervision import Sign, _born, _kill, _neighbours
from tests.training.ranks import on_ranks
from tests.training.test_engine import config, steps
from tests.training.watched import SILENCE

Ranks = list[subprocess.Popen[str]]


def start(what: str, seconds: float, world_size: int = 2) -> Ranks:
    """Start watched ranks, the first of which hosts the store; return when all are ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(world_size):
        environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(world_size)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if world_size == 1:
            del environment["RANK"]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.training.watched", what, str(seconds)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        ranks.append(process)
    for process in ranks:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    return ranks


def ends(ranks: Ranks, seconds: float) -> list[tuple[int, str, str]]:
    """Return exit code, output and errors of each rank, which must end in that time."""
    end = time.monotonic() + seconds
    try:
        said = [rank.communicate(timeout=max(1, end - time.monotonic())) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [(rank.returncode, *texts) for rank, texts in zip(ranks, said, strict=True)]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_frozen_rank_is_named_and_killed_and_the_other_one_shows_where_it_waits(
    victim: int,
) -> None:
    ranks = start("work", 300)
    time.sleep(1)
    ranks[victim].send_signal(signal.SIGSTOP)
    found = ends(ranks, 5 * SILENCE)

    assert found[victim][0] == -signal.SIGKILL
    code, out, errors = found[1 - victim]
    assert code == 1
    name = f"rank {victim} (host {socket.gethostname()}, process {ranks[victim].pid})"
    assert errors.count(f"error: {name} has not answered for ") == 1
    assert "and is stopped (SIGSTOP); it last did: step " in errors
    assert f"stacks of rank {1 - victim}:\n  MainThread:\n" in errors
    assert "watched.py" in errors
    assert "in work_on" in errors
    assert f"reported with exit code 1: {name}" in out


@pytest.mark.chaotic
def test_ranks_that_live_and_make_no_progress_are_named_with_what_they_do() -> None:
    for code, _, errors in ends(start("stand", 300), 60):
        assert code == 1
        first = errors.splitlines()[0]
        assert first.startswith("error: no progress for 5 s (launch.hang_after): rank 0 (host ")
        assert ": standing still on rank 0; rank 1 (host " in first
        assert first.endswith(": standing still on rank 1")
        assert errors.count("error: ") == 1
        assert "in stand_still" in errors


@pytest.mark.chaotic
def test_a_rank_alone_finds_its_own_standstill() -> None:
    ((code, _, errors),) = ends(start("stand", 300, world_size=1), 60)
    assert code == 1
    assert "no progress for 5 s (launch.hang_after): rank 0 (host " in errors
    assert "in stand_still" in errors


@pytest.mark.chaotic
def test_a_job_that_was_paused_goes_on() -> None:
    """As with Ctrl-Z and fg, or a laptop that sleeps; one rank wakes up before the other."""
    ranks = start("work", 3 * SILENCE)
    for rank in ranks:
        rank.send_signal(signal.SIGSTOP)
    time.sleep(2 * SILENCE)
    for rank in ranks:
        rank.send_signal(signal.SIGCONT)
        time.sleep(SILENCE / 4)
    for code, _, errors in ends(ranks, 60):
        assert (code, errors) == (0, "")


@pytest.mark.chaotic
def test_a_rank_that_has_finished_is_not_missed() -> None:
    for code, _, errors in ends(start("leave", 2 * SILENCE), 60):
        assert (code, errors) == (0, "")


def test_a_request_to_stop_ends_a_rank_that_waits_for_a_frozen_one_and_the_frozen_one() -> None:
    ranks = start("work", 300)
    ranks[1].send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    ranks[0].send_signal(signal.SIGTERM)
    (code, _, errors), (frozen, _, _) = ends(ranks, 20)
    assert code == 75
    assert "stopped where it was: the request was not noticed within 3 s" in errors
    assert frozen == -signal.SIGKILL


def test_only_the_process_that_gave_the_sign_is_killed() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        born = _born(process.pid)
        for host, since in (("here", "1"), ("elsewhere", born)):
            _kill(Sign(1, host, process.pid, since), "here")
            time.sleep(0.1)
            assert process.poll() is None
        _kill(Sign(1, "here", process.pid, born), "here")
        assert process.wait(5) == -signal.SIGKILL


def test_few_ranks_all_watch_each_other_and_many_their_nearest() -> None:
    assert _neighbours(1, 4) == [0, 2, 3]
    assert len(_neighbours(5, 65)) == 64
    for rank in (0, 500, 999):
        watched = _neighbours(rank, 1000)
        assert len(watched) == 64
        assert rank not in watched
        assert all(rank in _neighbours(other, 1000) for other in watched)


def timeouts_after_a_step(folder: Path) -> list[float]:
    """Return the timeouts of all groups, in seconds, once an engine has trained and saved."""
    c = config(stage=2, accumulate=2, world=2)
    engine = engines.build_engine(GPT(c.model, c.attention), c, plan_batch(c.training, 16, 2))
    distributed.set_timeout(timedelta(seconds=77))
    steps(engine, c, 0, 1)
    engines.engine_state(engine, folder / "engine")
    backends = [group._get_backend(torch.device("cpu")) for group in distributed.groups()]
    return [backend.options._timeout.total_seconds() for backend in backends]


def test_every_group_gives_up_after_the_same_time(tmp_path: Path) -> None:
    for timeouts in on_ranks(2, timeouts_after_a_step, tmp_path, tmp_path):
        assert len(timeouts) > 2  # DeepSpeed's own beside ours
        assert set(timeouts) == {77.0}


def wait_alone() -> list[Any]:
    """Return what the first rank gets, and when, that waits for another one in a new group."""
    group = dist.new_group(backend="gloo")
    distributed.set_timeout(timedelta(seconds=2))
    began = time.monotonic()
    error = ""
    seconds = 0.0
    if distributed.is_main():
        try:
            dist.all_reduce(torch.ones(1), group=group)
        except RuntimeError as raised:
            error = str(raised)
            seconds = time.monotonic() - began
    distributed.set_timeout(timedelta(seconds=60))
    return [error, seconds]


def test_a_collective_operation_that_a_rank_never_joins_raises_an_error(tmp_path: Path) -> None:
    (error, seconds), _ = on_ranks(2, wait_alone, tmp_path)
    assert "imed out" in error
    assert 2 <= seconds < 4
