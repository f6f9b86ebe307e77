"""A short form of `make chaos`: a kill of a run of two ranks."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from tests.chaos.__main__ import throw


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_like_one_that_is_not(data_folder: Path) -> None:
    tally = throw(
        Namespace(kills=1, steps=12, minutes=3, seed=1, others=0.0, within=7), data_folder
    )
    assert tally.kills >= 1
    assert tally.equal >= 1
    assert tally.lost == []
    assert tally.orphans == 0
