"""The pages of a comparison: HTML files that hold their figures and open without a network.

`page.py` fills the templates beside it, `figures.py` draws.
"""

from momentum_gpt.comparison.report.page import render, report

__all__ = ["render", "report"]
