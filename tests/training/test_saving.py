"""What is not a good checkpoint gets no name: numbers that are not finite, and a full disk."""

from __future__ import annotations

from pathlib import Path

import torch

from momentum_gpt.core.manifest import CheckpointManifest
from momentum_gpt.training.saving import NOT_FINITE, Saver
from tests.conftest import fill
from tests.training.ranks import on_ranks
from tests.training.test_engine import config, new_engine, steps

MANIFEST = CheckpointManifest(2, 0, "", 1.0, 1, "", "", "")


def save_each(folder: Path, disk: Path) -> list[tuple[str, str | None, list[str]]]:
    """Save a good engine, one with a NaN moment, one with an infinite weight, and to a full disk.

    Returns what is wrong and the names that are left, of each.
    """
    found = []
    for what in ("good", "moment", "weight", "full"):
        c = config(1)
        engine = new_engine(c)
        steps(engine, c, 0, 2)
        if what == "moment":
            next(iter(engine.optimizer.state.values()))["exp_avg"][0] = float("nan")
        if what == "weight":
            next(engine.module.parameters()).data[0] = float("inf")
        place = disk if what == "full" else folder / what
        saver = Saver(place, c.training, None)
        if what == "full":
            fill(disk)
        saver.begin(engine, MANIFEST)
        problem = saver.finish()
        saver.close()
        engine.destroy()
        names = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
        found.append((what, problem, names))
    return found


def test_only_a_finite_and_whole_checkpoint_gets_its_name(tmp_path: Path, small_disk: Path) -> None:
    torch.set_num_threads(1)
    good, moment, weight, full = on_ranks(1, save_each, tmp_path, tmp_path, small_disk)[0]
    assert good == ("good", None, ["latest", "step_00000002"])
    assert moment == ("moment", NOT_FINITE, [])
    assert weight == ("weight", NOT_FINITE, [])
    what, problem, names = full
    assert (what, [name for name in names if "step" in name or name == "latest"]) == ("full", [])
    assert "no space left on device" in problem
