"""What the tests share: a small real corpus as token shards, and ways to run commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("OMP_NUM_THREADS", "1")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
torch.set_num_threads(1)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CHROMIUM = next(
    (
        path
        for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
        if Path(path).exists()
    ),
    None,
)

SMOKE = ["experiment=smoke", "tracking.wandb=disabled"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("shared_data") and not SHARED_DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason="the real data sets are not at ../shared/data"))
        if item.get_closest_marker("browser") and CHROMIUM is None:
            item.add_marker(pytest.mark.skip(reason="Chromium is not installed"))


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def invoke(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Return a function that runs a command's `main` in this process.

    `invoke(train.main, "name=x", ...)` returns its exit code and what it printed.
    """
    from hydra.core.global_hydra import GlobalHydra

    def run(main: Callable[[], None], *arguments: str) -> Result:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Result(code, *capfd.readouterr())

    return run


def command(*arguments: str, cwd: Path | None = None, timeout: float = 200) -> Result:
    """Run `python -m ...` as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty modules of the standard library, as .txt files: real text that every machine has."""
    folder = tmp_path_factory.mktemp("text")
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    chosen = [path for path in modules if 2_000 < path.stat().st_size < 20_000][:40]
    for path in chosen:
        (folder / f"{path.stem}.txt").write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def data_folder(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token shards of `text_folder`: 512 pieces, several shards, about a quarter for validation."""
    from data_prep.prepare import PrepareConfig, prepare
    from data_prep.train_tokenizer import TokenizerConfig

    output = tmp_path_factory.mktemp("data") / "shards"
    corpus = {"kind": "text", "paths": [str(text_folder)]}
    prepare(
        PrepareConfig(
            str(output),
            corpus,
            TokenizerConfig(vocab_size=512),
            validation_fraction=0.25,
            shard_tokens=20_000,
        )
    )
    return output


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 4 MiB, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "momentum-gpt", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a file system cannot be mounted here: {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Fill the folder's disk but for so many bytes; return the file that does, to be deleted."""
    ballast = folder / "ballast"
    with ballast.open("ab") as file:
        file.write(bytes(shutil.disk_usage(folder).free - leave))
    return ballast


def make_read_only(folder: Path) -> None:
    """Let nothing be written any more on a `small_disk`."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
