"""Benchmarks: paired timings of two implementations in one process."""
