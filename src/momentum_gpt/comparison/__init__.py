"""Runs side by side: what they reached, what they share, and how sure their differences are."""
