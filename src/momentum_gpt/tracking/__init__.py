"""Metrics: `metrics.jsonl` always, and dashboards beside it as views of the file.

The training loop only puts records into queues. Threads write the file and the other dashboards,
and the W&B client runs in a process of its own, `python -m momentum_gpt.tracking`. Whatever happens
to a disk, a server or the client, it cannot delay or end the training, and it ends soon after it.

The only folder that imports wandb.
"""

from momentum_gpt.tracking.comparison import log_comparison
from momentum_gpt.tracking.run_view import show_again, show_evaluated
from momentum_gpt.tracking.tracker import Tracker

__all__ = ["Tracker", "log_comparison", "show_again", "show_evaluated"]
