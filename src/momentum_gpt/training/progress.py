"""What a person sees of a running job."""

from __future__ import annotations

import time

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
