"""Speed, with clocks that the tests set: tokens per second, the phases' shares, and MFU."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from momentum_gpt.training import throughput
from momentum_gpt.training.throughput import PHASES, Phases, Throughput


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def pass_by(self, seconds: float) -> None:
        self.now += seconds

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


def test_tokens_per_second_are_those_since_the_last_reading(clock: Clock) -> None:
    measured = Throughput(tokens_per_step=512, flops_per_token=0.0)
    for seconds in (3.0, 5.0):
        measured.step()
        clock.pass_by(seconds)
    assert measured.read()["train/tokens_per_s"] == 2 * 512 / 8

    measured.step()
    clock.pass_by(4)
    assert measured.read()["train/tokens_per_s"] == 512 / 4


def test_a_restart_forgets_what_was_counted(clock: Clock) -> None:
    measured = Throughput(tokens_per_step=512, flops_per_token=0.0)
    measured.step()
    clock.pass_by(100)
    measured.restart()

    measured.step()
    clock.pass_by(2)
    assert measured.read()["train/tokens_per_s"] == 256


def test_each_phase_has_its_share_of_all_time(clock: Clock) -> None:
    measured = Throughput(tokens_per_step=512, flops_per_token=0.0)
    log = measured.phases("logging")(lambda: clock.pass_by(0.5))
    for _ in range(2):
        with measured.phases("passes"):
            clock.pass_by(3)
        clock.pass_by(1)  # in no phase
        with measured.phases("update"):
            clock.pass_by(0.25)
        measured.step()
    log()
    with measured.phases("saving"):
        clock.pass_by(7)
    measured.restart()  # what was in a phase stays counted

    clock.pass_by(4)
    measured.step()
    assert shares(measured) == {
        "train/data_wait": 0,
        "train/passes_share": 6 / 20,
        "train/update_share": 0.5 / 20,
        "train/logging_share": 0.5 / 20,
        "train/evaluation_share": 0,
        "train/saving_share": 7 / 20,
    }


def test_a_reading_leaves_no_time_for_the_next(clock: Clock) -> None:
    measured = Throughput(tokens_per_step=512, flops_per_token=0.0)
    with measured.phases("update"):
        clock.pass_by(5)
    assert shares(measured)["train/update_share"] == 1

    with measured.phases("update"):
        clock.pass_by(1)
    clock.pass_by(3)
    assert shares(measured)["train/update_share"] == 1 / 4


def test_on_a_gpu_a_phase_lasts_as_long_as_its_work(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host gives the GPU 8 s of work in 1 s, and then itself takes 3 s after the GPU."""
    free_at = 0.0

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = max(free_at, clock.now)

        def synchronize(self) -> None:
            clock.now = max(clock.now, self.at)

        def elapsed_time(self, later: Event) -> float:
            assert later.at <= clock.now, "torch raises an error: the GPU has not got there"
            return 1000 * (later.at - self.at)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    began = throughput.mark()
    phases = Phases()
    for phase, work in (("passes", 6), ("update", 2)):
        with phases(phase):
            free_at = max(free_at, clock.now) + work
            clock.pass_by(0.5)
    with phases("data"):
        clock.pass_by(10)  # for 7 of which the GPU is still at work
    with phases("logging"):
        clock.pass_by(1)
    free_at = clock.now + 4  # in no phase

    assert throughput.seconds_between(began, throughput.mark()) == 16
    found = phases.read()
    assert found["train/passes_share"] == 6 / 16
    assert found["train/update_share"] == 2 / 16
    assert found["train/data_wait"] == 3 / 16
    assert found["train/logging_share"] == 1 / 16


def shares(measured: Throughput) -> dict[str, float]:
    return {key: value for key, value in measured.read().items() if key in PHASES.values()}


def test_the_memory_is_at_most_that_of_the_machine_and_at_least_that_of_torch() -> None:
    held = np.ones(30_000_000)  # 240 MB
    found = Throughput(512, 0.0).read()["train/memory_gb"]
    assert held.nbytes / 1e9 < found < psutil.virtual_memory().total / 1e9


def test_waiting_is_the_share_of_the_time_that_the_data_took(clock: Clock) -> None:
    def slow_data() -> Iterator[int]:
        for number in range(3):
            clock.pass_by(1)
            yield number

    measured = Throughput(tokens_per_step=512, flops_per_token=0.0)
    seen = []
    for number in measured.phases.waiting(slow_data()):
        seen.append(number)
        clock.pass_by(3)
    assert seen == [0, 1, 2]
    assert measured.read()["train/data_wait"] == 3 / 12


def test_mfu_is_the_share_of_the_peak(clock: Clock) -> None:
    measured = Throughput(tokens_per_step=512, flops_per_token=1000.0)
    measured.peak = 1e6  # as if this were a GPU that is known
    measured.step()
    clock.pass_by(2)
    assert measured.read()["train/mfu"] == pytest.approx(256 * 1000 / 1e6)
