"""What every command shares: composing the configuration with Hydra, checking it, and explaining it."""

from momentum_gpt.cli.compose import INTERRUPTED, is_sweep, run_command

__all__ = ["INTERRUPTED", "is_sweep", "run_command"]
