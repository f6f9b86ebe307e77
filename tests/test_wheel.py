"""The wheel is complete: installed in a fresh environment, every command works in any folder.

Two environments are tried. The first borrows the libraries of the environment that runs the tests,
which takes seconds (`make test-slow`). The second installs everything that the wheel requires, as
a user does, with the Python that WHEEL_PYTHON names (`make test-wheel PYTHON=python3.13`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import momentum_gpt
from momentum_gpt.__main__ import all_verbs
from tests.conftest import SMOKE

ROOT = Path(__file__).resolve().parents[1]
VERBS = [verb for verb in all_verbs() if verb != "lm-eval"]  # lm-eval is an extra
ENVIRONMENTS = [
    pytest.param("borrowed", marks=pytest.mark.slow),
    pytest.param("fresh", marks=pytest.mark.wheel),
]


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel in it."""

    folder: Path

    def python(self, *arguments: str, cwd: Path) -> str:
        """Run the environment's Python; return what it prints."""
        return run(str(self.folder / "bin" / "python"), *arguments, cwd=cwd)

    def command(self, verb: str, *arguments: str, cwd: Path) -> str:
        """Run `momentum-gpt VERB ...`; return what it prints."""
        script = self.folder / "bin" / "momentum-gpt"
        return run(str(script), *verb.split(), *arguments, cwd=cwd)


def run(*command: str, cwd: Path) -> str:
    """Run a process that cannot see the clone; return its stdout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with the installed hatchling, without a network."""
    folder = tmp_path_factory.mktemp("dist")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    run(sys.executable, "-m", "pip", "wheel", *options, str(ROOT), cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def installed(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    """Install the wheel in a new environment."""
    folder = tmp_path_factory.mktemp(request.param) / "environment"
    if request.param == "borrowed":
        make_environment(folder, sys.executable)
        lend_libraries(folder)
        pip_install(folder, "--no-deps", str(wheel))
    else:
        make_environment(folder, interpreter())
        constraints = ["-c", str(ROOT / "constraints.txt")]
        pip_install(folder, *constraints, "torch")
        pip_install(folder, *constraints, str(wheel))
    return Installed(folder)


def interpreter() -> str:
    """Return the Python that WHEEL_PYTHON names, by default the one that runs the tests."""
    name = os.environ.get("WHEEL_PYTHON") or sys.executable
    found = shutil.which(name)
    # A version manager's stand-in exists and fails where the version itself is missing.
    works = found and subprocess.run([found, "--version"], capture_output=True).returncode == 0
    if not works:
        pytest.skip(f"WHEEL_PYTHON={name} is not installed")
    return str(found)


def make_environment(folder: Path, python: str) -> None:
    run(python, "-m", "venv", str(folder), cwd=folder.parent)


def lend_libraries(folder: Path) -> None:
    """Let an environment import the libraries of the one that runs the tests.

    Python does not read the .pth files of a folder that is itself named by a .pth file, so the
    editable install of the clone stays invisible.
    """
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")


def pip_install(folder: Path, *arguments: str) -> None:
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    run(*pip, "--disable-pip-version-check", *arguments, cwd=folder)


@pytest.mark.slow
def test_the_wheel_holds_everything_that_the_package_reads(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"momentum_gpt/conf/{path.relative_to(ROOT / 'conf')}" in packed
    for path in (ROOT / "src").rglob("*"):
        if path.suffix in (".py", ".jinja"):
            assert str(path.relative_to(ROOT / "src")) in packed

    metadata = f"momentum_gpt-{momentum_gpt.__version__}.dist-info"
    assert f"{metadata}/licenses/LICENSE" in packed
    assert not [name for name in packed if name.startswith(("tests/", "docs/"))]


@pytest.mark.slow
def test_an_editable_install_reads_the_clone_alone(tmp_path: Path) -> None:
    """A copy of conf/ beside it would be out of date after the first edit."""
    program = f"from hatchling.build import build_editable; build_editable({str(tmp_path)!r})"
    run(sys.executable, "-c", program, cwd=ROOT)
    (built,) = tmp_path.glob("*.whl")
    archive = zipfile.ZipFile(built)
    (pth,) = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert set(archive.read(pth).decode().split()) == {str(ROOT), str(ROOT / "src")}


def test_the_installed_package_is_used_and_not_the_clone(
    installed: Installed, tmp_path: Path
) -> None:
    program = "import momentum_gpt, data_prep; print(momentum_gpt.__file__, data_prep.__file__)"
    for file in installed.python("-c", program, cwd=tmp_path).split():
        assert Path(file).is_relative_to(installed.folder)
    said = installed.command("--version", cwd=tmp_path)
    assert said == f"momentum-gpt {momentum_gpt.__version__}\n"


def test_every_verb_has_help(installed: Installed, tmp_path: Path) -> None:
    for verb in VERBS:
        assert "Options, set with OPTION=VALUE:" in installed.command(verb, "--help", cwd=tmp_path)


def test_a_comparison_from_text_to_report(
    installed: Installed, text_folder: Path, tmp_path: Path
) -> None:
    def do(verb: str, *arguments: str) -> str:
        return installed.command(verb, *arguments, cwd=tmp_path)

    corpus = ["corpus=text", f"corpus.paths=[{text_folder}]", "validation_fraction=0.25"]
    do("prepare", *corpus, "output=shards", "tokenizer.vocab_size=512")
    do("verify", "data=shards")

    for name in ("vanilla", "momentum"):
        do("train", f"name={name}", "data=shards", f"attention={name}", *SMOKE)
        do("evaluate", f"run=runs/{name}", "evaluation.tokens=1024")
    assert "momentum" in do("compare", "runs=[runs/vanilla,runs/momentum]")
    assert "<html" in (tmp_path / "runs" / "report.html").read_text(encoding="utf-8")

    written = do("generate", "run=runs/momentum", "prompt=def main(", "max_new_tokens=5")
    assert written.startswith("def main(")
    # An environment with only the required libraries has no transformers.
    program = "from importlib.util import find_spec; print(bool(find_spec('transformers')))"
    if installed.python("-c", program, cwd=tmp_path) == "True\n":
        do("export", "run=runs/momentum", "output=exported")
        assert (tmp_path / "exported" / "config.json").is_file()
