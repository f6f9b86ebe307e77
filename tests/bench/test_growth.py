"""`bench growth`: exponents, the FLOPs beside them, and a whole axis."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from momentum_gpt.bench.growth import AXES, BASE, Cost, flops_of_step, seconds_at, table
from momentum_gpt.core.files import read_json
from tests.conftest import command


def test_an_exponent_is_the_slope_between_two_sizes() -> None:
    small = Cost(1, seconds=1.0, flops=1e9, peak_bytes=10**8)
    large = Cost(2, seconds=9.0, flops=3e9, peak_bytes=10**8)
    assert large.exponent(small) == pytest.approx(2)
    assert small.exponent(large) == pytest.approx(2)
    rows = table("width", [small, large]).splitlines()[-2:]
    assert rows[0].split() == ["1", "1,000.0", "1.00", "1.00", "-", "100"]
    assert rows[1].split() == ["2", "9,000.0", "9.00", "3.00", "2.00", "100"]


def test_a_run_takes_the_sum_of_its_parts() -> None:
    """100 tokens at 100 tokens/s, and 100 at 50."""
    assert seconds_at([100.0, 50.0], 200) == pytest.approx(1 + 2)


def test_each_size_computes_more_than_the_one_before() -> None:
    for axis, shapes in AXES.items():
        flops = [flops_of_step(shape) for shape in shapes.values()]
        assert flops == sorted(set(flops)), axis


def test_the_flops_of_a_step_are_those_of_its_products() -> None:
    shape = replace(BASE, n_layers=1, d_model=32, seq_len=4, vocab_size=10, rows=3, passes=2)
    products = 12 * 32 * 32 + 10 * 32
    attention = 2 * 32 * (1 + 2 + 3 + 4) / 4  # q k and p v with the tokens up to its own
    assert flops_of_step(shape) == pytest.approx(24 * 3 * 2 * (products + attention))


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["passes", "ranks", "steps"])
def test_an_axis_is_measured(data_folder: Path, tmp_path: Path, axis: str) -> None:
    output = tmp_path / "growth.json"
    options = [f"data={data_folder}", f"axes=[{axis}]", "seconds=0.1", f"output={output}"]
    done = command("momentum_gpt.bench.growth", *options, timeout=600)
    assert done.code == 0, done.err
    costs = read_json(output)["axes"][axis]
    assert [one["size"] for one in costs] == list(AXES[axis])
    assert all(one["seconds"] > 0 for one in costs)
    assert axis in done.out
