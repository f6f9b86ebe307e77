"""Speed, with a clock that the tests set: tokens per second, waiting, and MFU."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from momentum_gpt.training import throughput
from momentum_gpt.training.throughput import Throughput


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

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
        clock.now += seconds
    assert measured.read()["train/tokens_per_s"] == 2 * 512 / 8

    measured.step()
    clock.now += 4
    assert measured.read()["train/tokens_per_s"] == 512 / 4


def test_a_restart_forgets_what_was_counted(clock: Clock) -> None:
    measured = Throughput(tokens_per_step=512, flops_per_token=0.0)
    measured.step()
    clock.now += 100
    measured.restart()

    measured.step()
    clock.now += 2
    found = measured.read()
    assert (found["train/tokens_per_s"], found["train/data_wait"]) == (256, 0)
    assert found["train/update_share"] == 0


def test_the_time_of_an_update_is_a_share_of_all(clock: Clock) -> None:
    measured = Throughput(tokens_per_step=512, flops_per_token=0.0)
    for _ in range(2):
        with measured.updating():
            clock.now += 1
        clock.now += 4
        measured.step()
    assert measured.read()["train/update_share"] == 2 / 10


def test_the_memory_is_at_most_that_of_the_machine_and_at_least_that_of_torch() -> None:
    held = np.ones(30_000_000)  # 240 MB
    found = Throughput(512, 0.0).read()["train/memory_gb"]
    assert held.nbytes / 1e9 < found < psutil.virtual_memory().total / 1e9


def test_waiting_is_the_share_of_the_time_that_the_data_took(clock: Clock) -> None:
    def slow_data() -> Iterator[int]:
        for number in range(3):
            clock.now += 1
            yield number

    measured = Throughput(tokens_per_step=512, flops_per_token=0.0)
    seen = []
    for number in measured.waiting(slow_data()):
        seen.append(number)
        clock.now += 3
    assert seen == [0, 1, 2]
    assert measured.read()["train/data_wait"] == 3 / 12


def test_mfu_is_the_share_of_the_peak(clock: Clock) -> None:
    measured = Throughput(tokens_per_step=512, flops_per_token=1000.0)
    measured.peak = 1e6  # as if this were a GPU that is known
    measured.step()
    clock.now += 2
    assert measured.read()["train/mfu"] == pytest.approx(256 * 1000 / 1e6)
