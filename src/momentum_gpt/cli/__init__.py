"""What every command shares: composing its options with Hydra, checking them, explaining them."""

from momentum_gpt.cli.compose import INTERRUPTED, Command, is_sweep, typed_options

__all__ = ["INTERRUPTED", "Command", "is_sweep", "typed_options"]
