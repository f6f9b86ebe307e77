"""launch/local.sh works from any folder, and relative paths stay the caller's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "launch" / "local.sh"
SYSTEM = "/usr/bin:/bin"


def launch(
    folder: Path, *arguments: str, script: Path = SCRIPT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the script in a folder, with no other environment variables than these."""
    return subprocess.run(
        ["bash", str(script), *arguments],
        cwd=folder,
        env={"PATH": SYSTEM, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def fake_environment(folder: Path) -> Path:
    """Make an environment whose python prints its own path, the folder and its arguments."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$0"\npwd\necho "$@"\n')
    python.chmod(0o755)
    return python


def copy_of_the_script(clone: Path) -> Path:
    script = clone / "launch" / "local.sh"
    script.parent.mkdir(parents=True)
    shutil.copy(SCRIPT, script)
    return script


def test_it_runs_in_the_callers_folder_with_the_active_environment(tmp_path: Path) -> None:
    active = fake_environment(tmp_path / "active")
    clone = tmp_path / "clone"
    script = copy_of_the_script(clone)
    fake_environment(clone / ".venv")
    here = tmp_path / "else where"
    here.mkdir()

    path = f"{active.parent}:{SYSTEM}"
    options = ["2", "name=x", "data=my data"]
    done = launch(here, *options, script=script, PATH=path, VIRTUAL_ENV=str(tmp_path / "active"))
    python, folder, arguments = done.stdout.splitlines()
    assert python == str(active)
    assert folder == str(here)
    assert arguments == "-m momentum_gpt.train launch.nproc_per_node=2 name=x data=my data"


def test_without_an_active_environment_the_clones_own_is_used(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    script = copy_of_the_script(clone)
    own = fake_environment(clone / ".venv")
    link = tmp_path / "local"
    link.symlink_to(script)

    for called in (script, link):
        done = launch(tmp_path, "1", "name=x", script=called)
        python, folder, _ = done.stdout.splitlines()
        assert python == str(own)
        assert folder == str(tmp_path)


def test_no_python_at_all_is_said_in_one_line(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "readlink"):
        found = shutil.which(name, path=SYSTEM)
        assert found is not None
        (tools / name).symlink_to(found)

    script = copy_of_the_script(tmp_path / "clone")
    done = launch(tmp_path, "1", script=script, PATH=str(tools))
    assert done.returncode == 2
    assert done.stderr == f"error: there is no Python: run 'make setup' in {tmp_path / 'clone'}\n"


def test_the_number_of_ranks_is_needed(tmp_path: Path) -> None:
    for arguments in ([], ["name=x"], ["0"]):
        done = launch(tmp_path, *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("usage: launch/local.sh N")


def test_a_relative_path_is_one_from_the_callers_folder(tmp_path: Path) -> None:
    """The real command finds the folder, and then says what is wrong with it."""
    (tmp_path / "empty").mkdir()
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix}
    environment["PATH"] = f"{Path(sys.executable).parent}:{SYSTEM}"

    nowhere = launch(tmp_path, "1", "name=x", "data=nowhere", **environment)
    assert nowhere.returncode == 2
    assert "data folder 'nowhere' does not exist" in nowhere.stderr

    empty = launch(tmp_path, "1", "name=x", "data=empty", **environment)
    assert empty.returncode == 2
    assert "not a folder of token shards" in empty.stderr
