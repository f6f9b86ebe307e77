"""The pages of a comparison: HTML files that hold their figures and open without a network.

`drawn.py` says what is drawn, `page.py` fills the templates, and the scripts draw: `page.js` runs
the page and its switches, `figures.js` makes a figure of the data, `chart.js` makes SVG of it, and
`statistics.js` has the numbers behind it.
"""

from momentum_gpt.comparison.report.page import render, report

__all__ = ["render", "report"]
