"""The same bytes come from a real SLURM and from a real Ray cluster.

Both are started here and stopped again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data_prep.samples import SMALL, contents
from tests.slurm import run, slurm

pytestmark = pytest.mark.cluster


def prepare(text: Path, output: Path, *more: str) -> None:
    arguments = ["corpus=text", f"corpus.paths={text}", f"output={output}", *SMALL, *more]
    run(sys.executable, "-m", "data_prep.prepare", *arguments)


def test_slurm_makes_the_same_bytes(text_folder: Path, tmp_path: Path) -> None:
    prepare(text_folder, tmp_path / "here")
    with slurm(tmp_path / "slurm"):
        prepare(
            text_folder,
            tmp_path / "there",
            "executor=slurm",
            "executor.partition=cpu",
            "executor.memory_gb=1",
        )
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    binary = str(Path(sys.executable).with_name("ray"))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    run(
        binary,
        "start",
        "--head",
        "--node-ip-address=127.0.0.1",
        "--include-dashboard=false",
        "--disable-usage-stats",
    )
    yield
    run(binary, "stop", "--force")


def test_ray_makes_the_same_bytes(ray: None, text_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    prepare(text_folder, tmp_path / "here")
    prepare(text_folder, tmp_path / "there", "executor=ray", "executor.memory_gb=1")
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
