"""Tables line up, and bars are shown only where a person watches."""

from __future__ import annotations

import pytest

from momentum_gpt.core.terminal import progress_bar, table_text


def test_numbers_line_up_at_the_right() -> None:
    text = table_text("Losses", ["run", "loss"], [["a", "4.2889"], ["bb", "10.1"]], ["", "nats"])
    title, names, units, rule, first, second = text.splitlines()

    assert title == "Losses"
    assert (names.split(), units.split()) == (["run", "loss"], ["nats"])
    assert set(rule.strip()) == {"─"}
    assert first.endswith("4.2889")
    assert second.endswith("  10.1")
    assert len(first) == len(second)


def test_a_wide_table_keeps_every_digit() -> None:
    cells = [f"{number:.12f}" for number in range(40)]
    text = table_text("", [f"c{number}" for number in range(40)], [cells])
    assert all(cell in text for cell in cells)


def test_brackets_in_a_cell_are_text() -> None:
    """A run folder may have any name."""
    assert "a [/red] :smile:" in table_text("", ["run"], [["a [/red] :smile:"]])


def test_outside_a_terminal_there_is_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar("work", total=3) as advance:
        advance(1)
        advance(2)
    assert capfd.readouterr() == ("", "")
