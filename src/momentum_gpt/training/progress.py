"""What a person sees of a running job, and the signals that end it cleanly."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

from momentum_gpt.core import distributed
from momentum_gpt.core.terminal import StepBar


class Progress:
    """Loss, tokens per second and time left, on the main rank: a bar in a terminal, else lines."""

    def __init__(self, start_step: int, max_steps: int) -> None:
        self.first = start_step
        self.max_steps = max_steps
        self.began = time.monotonic()
        self.is_shown = distributed.is_main()
        self.bar = StepBar("training", start_step, max_steps, is_shown=self.is_shown)

    def step(self) -> None:
        """Advance by one step."""
        self.bar.advance()

    def show(self, step: int, loss: float, tokens_per_s: float) -> None:
        """Show the newest metrics."""
        text = f"loss {loss:.4f}  {tokens_per_s:,.0f} tokens/s"
        if self.bar.is_drawn:
            self.bar.describe(text)
        elif self.is_shown:
            line = f"step {step:,}/{self.max_steps:,}  {text}  {self._time_left(step)} left"
            print(line, flush=True)

    def say(self, text: str) -> None:
        """Print a line that stays, above the bar if there is one."""
        if self.is_shown:
            self.bar.print(text)

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()

    def _time_left(self, step: int) -> str:
        per_step = (time.monotonic() - self.began) / max(1, step - self.first)
        left = per_step * (self.max_steps - step)
        return f"{left // 3600:.0f}:{left % 3600 // 60:02.0f}:{left % 60:02.0f}"


class Interruption:
    """Turn Ctrl-C and SIGTERM into a request to stop after the present step.

    A second Ctrl-C stops at once. Under torchrun one Ctrl-C arrives twice, from the terminal and
    from torchrun: only a later one is a second.
    """

    SAME_KEYSTROKE = 2.0
    """Seconds within which a second SIGINT is the same Ctrl-C."""

    def __init__(self) -> None:
        self.requested = False
        self.requested_at = 0.0

    def __enter__(self) -> Interruption:
        self.handlers_before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            self.handlers_before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.handlers_before.items():
            signal.signal(number, handler)

    def _request(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self.requested:
            if now - self.requested_at > self.SAME_KEYSTROKE:
                raise KeyboardInterrupt
            return
        if not self.requested:
            self.requested = True
            self.requested_at = now
