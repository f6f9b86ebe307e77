"""What docs/writing-a-variant.md says, done literally to a copy of the repository, works."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from momentum_gpt.models import ATTENTIONS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "writing-a-variant.md").read_text(encoding="utf-8")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "two_speed" in ATTENTIONS, reason="this is the copy that the tutorial was applied to"
    ),
]


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language, in the order of the page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def documented_command(module: str) -> list[str]:
    """Return the arguments that the page gives to one of our commands."""
    for block in blocks("console"):
        for line in block.splitlines():
            words = shlex.split(line.removeprefix("$ "))
            if words[:3] == ["python", "-m", f"momentum_gpt.{module}"]:
                return words[3:]
    raise AssertionError(f"the page does not run {module}")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Path:
    """Return a copy of the repository in which a reader has done what the page says."""
    root = tmp_path_factory.mktemp("repository")
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("src", "conf", "tests", "data_prep", "docs"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", root)
    shutil.copytree(data_folder, root / "data" / "mine")

    the_class, the_entry = blocks("python")
    attention = root / "src" / "momentum_gpt" / "models" / "attention.py"
    before, dictionary, after = attention.read_text().partition("ATTENTIONS: dict")
    entries, end, rest = after.partition("}\n")
    attention.write_text(f"{before}{the_class}\n\n{dictionary}{entries}{the_entry}{end}{rest}")

    (the_yaml,) = blocks("yaml")
    (root / "conf" / "attention" / "two_speed.yaml").write_text(the_yaml)
    return root


def run_in(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m ...` in the copy, with the code of the copy."""
    path = os.pathsep.join([str(root / "src"), str(root)])
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=root,
        env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def trained(copy: Path) -> Path:
    """Return the copy, after the page's training command at a small size."""
    small = ["experiment=smoke", "tracking.wandb=disabled", "training.max_steps=6"]
    small += ["training.eval_every=0", "training.save_every=0"]
    done = run_in(copy, "momentum_gpt.train", *documented_command("train"), *small)
    assert done.returncode == 0, done.stderr
    assert "two_speed (fast 0.5, slow 0.99)" in done.stdout
    return copy


def test_the_code_is_formatted_as_the_project_is(copy: Path) -> None:
    file = copy / "src" / "momentum_gpt" / "models" / "attention.py"
    longest = max(map(len, file.read_text().splitlines()))
    assert longest <= 100
    for check in (["check"], ["format", "--check"]):
        done = run_in(copy, "ruff", *check, str(file))
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_variant_conforms(copy: Path) -> None:
    quick = ["compiler=aot_eager", "repeats=0"]
    command = documented_command("check_attention")
    done = run_in(copy, "momentum_gpt.check_attention", *command, *quick)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all checks hold" in done.stdout


def test_the_trained_variant_generates_and_its_export_is_refused_in_one_line(trained: Path) -> None:
    command = [*documented_command("generate"), "max_new_tokens=4"]
    generated = run_in(trained, "momentum_gpt.generate", *command)
    assert generated.returncode == 0, generated.stderr
    assert generated.stdout.startswith("def main(")

    exported = run_in(trained, "momentum_gpt.export", *documented_command("export"))
    assert (exported.returncode, exported.stderr.count("\n")) == (2, 1), exported.stderr
    assert "attention 'two_speed' cannot be exported: it has no Hugging Face" in exported.stderr
    assert not list((trained / "exports").iterdir())


def test_the_tests_of_variants_cover_it_and_stay_green(copy: Path) -> None:
    """Those that name the variant; the whole suite of the copy would test the rest again."""
    files = ["tests/models/test_attention.py", "tests/models/test_decoding.py"]
    files += ["tests/models/test_conformance.py", "tests/cli/test_conf.py", "tests/test_export.py"]
    options = ["-q", "-p", "no:cacheprovider", "-k", "two_speed or variants"]
    done = run_in(copy, "pytest", *options, *files)
    assert done.returncode == 0, done.stdout + done.stderr
    (n_passed,) = re.findall(r"^(\d+) passed", done.stdout, re.MULTILINE)
    assert int(n_passed) >= 10
