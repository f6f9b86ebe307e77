"""Splitting documents, and reporting what is wrong with the input."""

from __future__ import annotations

import pytest

from data_prep.sources import Faults, split_of
from momentum_gpt.core.errors import UserError


def test_the_split_is_a_function_of_the_text() -> None:
    splits = [split_of(f"document {number}", 0.1) for number in range(5000)]
    again = [split_of(f"document {number}", 0.1) for number in range(5000)]
    assert splits == again
    assert splits.count("validation") == pytest.approx(500, abs=100)


def test_a_fault_is_an_error_or_it_is_counted() -> None:
    with pytest.raises(UserError, match="a line is bad; or set on_error=skip to leave out"):
        Faults().met("not JSON", "a line is bad")
    faults = Faults(skip=True)
    faults.met("not JSON", "a line is bad")
    faults.met("not JSON", "another line is bad")
    assert faults.counts == {"not JSON": 2}
    assert faults.first == {"not JSON": "a line is bad"}
