"""What a person sees of a running job: a bar in a terminal, plain lines elsewhere. And the signal that ends it cleanly."""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType
from typing import Any

from tqdm import tqdm

from momentum_gpt.core import distributed


class Progress:
    """Loss, tokens/s and time left, on the main rank; silent on the others."""

    def __init__(self, start_step: int, max_steps: int) -> None:
        self.max_steps, self.first, self.began = max_steps, start_step, time.monotonic()
        self.shown = distributed.is_main()
        self.terminal = self.shown and sys.stderr.isatty()
        self.bar = tqdm(
            initial=start_step,
            total=max_steps,
            unit="step",
            disable=not self.terminal,
            dynamic_ncols=True,
        )

    def step(self) -> None:
        self.bar.update()

    def metrics(self, step: int, loss: float, tokens_per_s: float) -> None:
        if self.terminal:
            self.bar.set_postfix_str(f"loss {loss:.4f}, {tokens_per_s:,.0f} tokens/s")
        elif self.shown:
            left = (
                (time.monotonic() - self.began)
                / max(1, step - self.first)
                * (self.max_steps - step)
            )
            clock = f"{left // 3600:.0f}:{left % 3600 // 60:02.0f}:{left % 60:02.0f}"
            print(
                f"step {step:,}/{self.max_steps:,}  loss {loss:.4f}  {tokens_per_s:,.0f} tokens/s  {clock} left",
                flush=True,
            )

    def say(self, text: str) -> None:
        if self.shown:
            tqdm.write(text, file=sys.stderr if self.terminal else sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        self.bar.close()


class Interruption:
    """Turns Ctrl-C and SIGTERM into a request to stop after the present step; a second Ctrl-C stops at once.

    Under torchrun one Ctrl-C arrives twice, from the terminal and from torchrun: only a later one is a second.
    """

    SAME_KEYSTROKE = 2.0
    """Seconds."""

    def __init__(self) -> None:
        self.requested = False
        self.first_time = 0.0

    def __enter__(self) -> Interruption:
        self.before = {
            number: signal.signal(number, self._request)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _request(self, number: int, _: FrameType | None) -> None:
        if (
            number == signal.SIGINT
            and self.requested
            and time.monotonic() - self.first_time > self.SAME_KEYSTROKE
        ):
            raise KeyboardInterrupt
        if not self.requested:
            self.requested, self.first_time = True, time.monotonic()
