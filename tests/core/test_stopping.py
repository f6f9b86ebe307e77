"""Signals that ask a process to stop, in real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

LISTEN = """
import sys, time
from momentum_gpt.core import stopping
stopping.listen()
print("ready", flush=True)
"""

WAITS = (
    LISTEN
    + """
until = time.monotonic() + 60
while not stopping.requested() and time.monotonic() < until:
    time.sleep(0.01)
stopping.obey()
print("asked", flush=True)
time.sleep(float(sys.argv[1]))
stopping.ignore()
sys.exit(stopping.requested())
"""
)

NEVER_LOOKS = (
    LISTEN.replace("stopping.listen()", "stopping.GRACE = 1.0; stopping.listen()")
    + """
import ctypes
stopping.when_overdue(lambda: print("overdue", flush=True))
for _ in range(3):  # the signal itself may end the first one
    ctypes.CDLL(None).sleep(60)  # in C, where no handler of Python runs
"""
)

LATE = (
    LISTEN
    + """
import ctypes
try:
    ctypes.CDLL(None).usleep(3_500_000)
    time.sleep(1)
except KeyboardInterrupt:
    sys.exit(9)
sys.exit(stopping.requested())
"""
)


HANDS_BACK = """
import signal, time
signal.signal(signal.SIGUSR2, lambda number, _: print("earlier", flush=True))
from momentum_gpt.core import stopping
earlier = signal.getsignal(signal.SIGUSR2)
stopping.pass_on()  # nobody has asked yet
signal.signal(signal.SIGUSR2, lambda number, _: stopping.note(number))
print("ready", flush=True)
while not stopping.requested():
    time.sleep(0.01)
signal.signal(signal.SIGUSR2, earlier)
stopping.pass_on()
"""

NO_MORE = LISTEN.replace("print(", "stopping.listen_no_more(); print(") + "time.sleep(60)"


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 75),
        (signal.SIGHUP, 75),
        (signal.SIGUSR1, 75),
        (signal.SIGUSR2, 75),
        (signal.SIGINT, 130),
    ],
)
def test_a_request_is_noted_with_its_exit_code(number: signal.Signals, code: int) -> None:
    process = start(WAITS, "0")
    process.send_signal(number)
    assert process.wait(30) == code


def test_the_first_request_counts_and_others_change_nothing() -> None:
    process = start(WAITS, "1")
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "asked\n"
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
        process.send_signal(number)
    assert process.wait(30) == 75


def test_a_second_ctrl_c_interrupts_but_not_the_same_one_twice() -> None:
    process = start(WAITS, "60")
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)  # as torchrun passes it on
    time.sleep(2.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == -signal.SIGINT  # KeyboardInterrupt, which Python ends with


def test_a_process_that_never_looks_ends_by_itself() -> None:
    process = start(NEVER_LOOKS)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert process.wait(30) == 75
    assert 0.5 < time.monotonic() - began < 20
    assert process.stdout is not None
    assert process.stdout.read() == "overdue\n"


def test_a_handler_that_runs_late_takes_no_first_ctrl_c_for_a_second() -> None:
    process = start(LATE)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130


def test_a_request_is_passed_on_to_whoever_listened_before() -> None:
    process = start(HANDS_BACK)
    process.send_signal(signal.SIGUSR2)
    assert process.communicate(timeout=30)[0] == "earlier\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_listens_no_more_is_ended(number: signal.Signals) -> None:
    process = start(NO_MORE)
    process.send_signal(number)
    assert process.wait(10) == -number
