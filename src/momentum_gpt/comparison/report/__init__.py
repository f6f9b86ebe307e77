"""The HTML report of a comparison."""

from momentum_gpt.comparison.report.page import report

__all__ = ["report"]
