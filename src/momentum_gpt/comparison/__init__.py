"""Runs side by side: what they reached, whether they may be compared, and a report to look at."""
