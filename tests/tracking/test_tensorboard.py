"""TensorBoard gets the same records at the same steps, read back by TensorBoard's own reader."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from momentum_gpt.core.errors import UserError
from momentum_gpt.tracking import Tracker, tensorboard
from tests.tracking.support import config, log_steps, metrics

accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def scalars(folder: Path, key: str) -> list[tuple[int, float]]:
    reader = accumulators.EventAccumulator(str(folder / "run" / "tensorboard"))
    reader.Reload()
    return [(event.step, event.value) for event in reader.Scalars(key)]


def test_every_record_is_there_with_its_step_also_after_a_rewind(tmp_path: Path) -> None:
    c = config(tmp_path, "disabled", also=["tensorboard"])
    first = Tracker(c, 0)
    log_steps(first, range(1, 6))
    first.log(5, 40, {"event": "a spike", "train/skipped": 1})
    first.close()
    time.sleep(1.1)  # the files are read in the order of the seconds in their names
    again = Tracker(c, 3)
    log_steps(again, range(4, 7), loss=2.0)
    assert again.close() is None

    written = [(r["step"], r["train/loss"]) for r in metrics(tmp_path)]
    found = scalars(tmp_path, "train/loss")
    assert [step for step, _ in found] == [step for step, _ in written] == [1, 2, 3, 4, 5, 6]
    assert all(
        math.isclose(a, b, rel_tol=1e-6) for (_, a), (_, b) in zip(found, written, strict=True)
    )
    assert scalars(tmp_path, "tokens")[-1] == (6, 48)


def test_a_folder_that_cannot_be_written_is_said_once_and_nothing_else_is_lost(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    c = config(tmp_path, "disabled", also=["tensorboard"])
    (c.run_dir / "tensorboard").write_text("in the way")
    tracker = Tracker(c, 0)
    log_steps(tracker, range(1, 101))
    tracker.close()
    assert len(metrics(tmp_path)) == 100
    (warning,) = capfd.readouterr().err.splitlines()
    assert warning.startswith("warning: TensorBoard stopped (")


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tensorboard.require_installed(["tensorboard"])
    monkeypatch.setattr(tensorboard, "find_spec", lambda _: None)
    tensorboard.require_installed([])
    with pytest.raises(UserError, match=r"pip install 'momentum-gpt\[tensorboard\]'"):
        tensorboard.require_installed(["tensorboard"])


def test_an_unknown_dashboard_is_refused() -> None:
    with pytest.raises(UserError, match=r"tracking\.also.*tensorboard"):
        config(Path("unused"), "disabled", also=["trackio"])
