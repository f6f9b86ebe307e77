"""Runs of two ranks to which everything happens that happens on a cluster."""
