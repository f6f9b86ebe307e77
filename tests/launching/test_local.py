"""launch/local.sh works from any folder, and relative paths stay the caller's."""

from __future__ import annotations

import subprocess
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "launch" / "local.sh"


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def fake_python(folder: Path) -> Path:
    """Make an environment whose python prints the folder and the arguments it is given."""
    python = folder / "environment" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\npwd\necho "$@"\n')
    python.chmod(0o755)
    return python


def test_it_runs_in_the_callers_folder_with_the_active_environment(tmp_path: Path) -> None:
    python = fake_python(tmp_path)
    here = tmp_path / "elsewhere"
    here.mkdir()
    done = subprocess.run(
        ["bash", str(SCRIPT), "2", "name=x", "data=my data"],
        cwd=here,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": f"{python.parent}:/usr/bin:/bin", "VIRTUAL_ENV": str(tmp_path)},
    )
    folder, arguments = done.stdout.splitlines()
    assert folder == str(here)
    assert arguments == "-m momentum_gpt.train launch.nproc_per_node=2 name=x data=my data"


def test_the_number_of_ranks_is_needed(tmp_path: Path) -> None:
    for arguments in ([], ["name=x"], ["0"]):
        done = launch(tmp_path, *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("usage: launch/local.sh N")
