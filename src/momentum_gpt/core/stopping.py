"""Signals that ask a run to stop: noticed at once, obeyed between two forward passes.

`listen` is called before the heavy imports. From then on `requested` says whether somebody asked;
the loop and the evaluations look at it. A rank that does not get to look, because it compiles or
waits for a rank that is frozen, ends by itself after a while: its last checkpoint is on disk.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

REQUEUE = 75
"""Exit code after a request to stop: start me again, and I go on."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells use it."""

STOPPED = (REQUEUE, INTERRUPTED)
"""Exit codes of a run that was stopped; a sweep ends with it, and the same command goes on."""

GRACE = 25.0
"""Seconds that a rank has to notice a request; after that it ends where it is."""

SAME_KEYSTROKE = 2.0
"""Seconds within which a second SIGINT is the same Ctrl-C: torchrun passes it on, too."""


class StoppedError(Exception):
    """Work was stopped on request, and the same command goes on with it.

    Args:
        exit_code: of the command that was to do the work.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


_asked: int | None = None
_asked_at = 0.0
_insists = False
"""Whether Ctrl-C was pressed a second time."""
_obeyed = threading.Event()
_overdue: Callable[[], None] | None = None
_listening = False


def listen() -> None:
    """Take note of every signal that asks to stop, from now on."""
    global _listening
    if _listening:
        return
    _listening = True
    # Python calls its handlers only between two lines of Python, which a rank that waits in a
    # collective operation never reaches. What is written to this socket is read in any case.
    heard, written = socket.socketpair()
    written.setblocking(False)
    signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_hear, args=(heard, written), daemon=True, name="signals").start()
    for number in heeded():
        signal.signal(number, _handle)


def listen_no_more() -> None:
    """Let signals end this process again, if they have not so far."""
    global _listening
    if not _listening:
        return
    _listening = False
    signal.set_wakeup_fd(-1)
    for number in heeded():
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def heeded() -> list[signal.Signals]:
    """Return the signals that are heeded: all but SIGHUP under nohup, which ignores it."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in SIGNALS if not (ignored and number == signal.SIGHUP)]


def requested() -> int:
    """Return the exit code that was asked for, or 0."""
    if _asked is None:
        return 0
    return INTERRUPTED if _asked == signal.SIGINT else REQUEUE


def obey() -> None:
    """Say that the request was noticed: the rank now takes the time that saving takes."""
    _obeyed.set()


def when_overdue(act: Callable[[], None]) -> None:
    """Call `act` before this process ends because it did not notice a request in time."""
    global _overdue
    _overdue = act


def ignore() -> None:
    """Ignore requests from now on: the process is about to end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def pass_on() -> None:
    """Pass the request on to whoever listened before, who may start this process's work again.

    Raises:
        Exception: what is raised there.
    """
    if _asked is None:
        return
    handler = signal.getsignal(_asked)
    if callable(handler):
        handler(_asked, None)


def _hear(heard: socket.socket, written: socket.socket) -> None:
    """Read the numbers of signals; begin to count the seconds at the first."""
    global _insists
    counting = False
    while True:
        for number in heard.recv(16):
            if number not in SIGNALS:
                continue
            note(number)
            if not counting:
                threading.Thread(target=_end_when_overdue, daemon=True).start()
                counting = True
            # The main thread may run its handler late: only here is known when the signal came.
            later = time.monotonic() - _asked_at > SAME_KEYSTROKE
            if number == signal.SIGINT and later and not _insists:
                _insists = True
                # Its handler may have run by now.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def _handle(number: int, _: FrameType | None) -> None:
    """Interrupt the main thread at a second Ctrl-C."""
    note(number)
    if _insists:
        raise KeyboardInterrupt


def note(number: int) -> None:
    """Take note of a signal, if it is the first."""
    global _asked, _asked_at
    if _asked is None:
        _asked_at = time.monotonic()
        _asked = number


def _end_when_overdue() -> None:
    if _obeyed.wait(GRACE):
        return
    print(
        f"stopped where it was: the request was not noticed within {GRACE:.0f} s; "
        "the same command resumes the run from its last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    if _overdue:
        _overdue()
    os._exit(requested())
