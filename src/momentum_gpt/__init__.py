"""Pretraining of GPT-style language models with vanilla or momentum attention."""

__version__ = "0.1.0"
