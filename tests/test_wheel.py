"""The wheel, in a fresh environment and another folder: every command works.

`make test-wheel` runs it; WHEEL_PYTHON names the Python of the environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from momentum_gpt.__main__ import all_verbs

ROOT = Path(__file__).resolve().parents[1]
PYTHON = os.environ.get("WHEEL_PYTHON", sys.executable)

pytestmark = pytest.mark.wheel

TEXT = "def double(x):\n    return 2 * x\n\n\n"
SMALL = ["experiment=smoke", "data=shards", "tracking.wandb=disabled"]


def run(*arguments: str | Path, cwd: Path) -> str:
    """Run a command and return what it printed; fail with its output if it fails."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and install it, with its dependencies, in a new environment."""
    if shutil.which(PYTHON) is None:
        pytest.skip(f"there is no {PYTHON} on this machine")
    folder = tmp_path_factory.mktemp("wheel")

    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT]
    run(*build, cwd=folder)
    (wheel,) = folder.glob("momentum_gpt-*.whl")

    run(PYTHON, "-m", "venv", folder / "venv", cwd=folder)
    install = [folder / "venv" / "bin" / "python", *pip[1:], "install"]
    constraints = ["-c", ROOT / "constraints.txt"]
    # torch comes first and alone, so that nothing else asks for another build of it.
    run(*install, *constraints, "torch", cwd=folder)
    run(*install, *constraints, wheel, cwd=folder)
    return folder / "venv" / "bin"


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder that has nothing but a little text."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "notes").mkdir()
    for number in range(400):
        text = f"# note {number}\n\n{TEXT}" * 3
        (folder / "notes" / f"{number}.md").write_text(text)
    return folder


def test_the_package_is_the_installed_one(environment: Path, elsewhere: Path) -> None:
    code = "import momentum_gpt; print(momentum_gpt.__file__)"
    where = run(environment / "python", "-c", code, cwd=elsewhere)
    assert str(environment.parent) in where


@pytest.mark.parametrize("verb", [verb for verb in all_verbs() if verb != "lm-eval"])
def test_every_command_explains_itself(environment: Path, elsewhere: Path, verb: str) -> None:
    text = run(environment / "momentum-gpt", *verb.split(), "--help", cwd=elsewhere)
    assert "Options, set with OPTION=VALUE:" in text


def test_from_text_to_a_comparison(environment: Path, elsewhere: Path) -> None:
    command = environment / "momentum-gpt"

    def momentum_gpt(*arguments: str) -> str:
        return run(command, *arguments, cwd=elsewhere)

    assert momentum_gpt("--version").startswith("momentum-gpt ")
    corpus = ["corpus=text", "corpus.paths=[notes]", "validation_fraction=0.25"]
    momentum_gpt(
        "prepare", *corpus, "output=shards", "tokenizer.vocab_size=300", "deduplicate=false"
    )
    assert "every byte" in momentum_gpt("verify", "data=shards")

    momentum_gpt("train", "name=a", "attention=vanilla", *SMALL)
    momentum_gpt("train", "name=b", "attention=momentum", *SMALL)
    assert "is complete" in momentum_gpt("train", "name=b", "attention=momentum", *SMALL)

    assert "val/loss" in momentum_gpt("evaluate", "run=runs/b", "evaluation.tokens=1024")
    assert "momentum" in momentum_gpt("compare", "runs=[runs/a,runs/b]")
    assert (elsewhere / "runs" / "report.html").is_file()
    generated = momentum_gpt("generate", "run=runs/b", "prompt=def double(", "max_new_tokens=5")
    assert generated.startswith("def double(")
