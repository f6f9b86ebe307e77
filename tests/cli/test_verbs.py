"""`momentum-gpt VERB` reaches every command, from any folder."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import yaml

import momentum_gpt
from momentum_gpt.__main__ import all_verbs
from tests.conftest import command

ROOT = Path(__file__).resolve().parents[2]


def test_every_command_of_the_package_has_a_verb() -> None:
    package = ROOT / "src" / "momentum_gpt"
    files = [*package.glob("*.py"), *(package / "bench").glob("*.py")]
    files += (ROOT / "data_prep").glob("*.py")
    with_main = [path for path in files if re.search(r"^main = Command", path.read_text(), re.M)]
    modules = {module.rpartition(".")[2] for module, _ in all_verbs().values()}
    assert {path.stem for path in with_main} == modules - {"harness"}


def test_every_verb_has_a_module() -> None:
    for module, _ in all_verbs().values():
        assert importlib.util.find_spec(module), module


def test_the_list_of_verbs_is_printed_without_arguments(tmp_path: Path) -> None:
    done = command("momentum_gpt", cwd=tmp_path)
    assert done.code == 0
    for verb in all_verbs():
        assert f"  {verb} " in done.out


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    done = command("momentum_gpt", "--version", cwd=tmp_path)
    assert done.out == f"momentum-gpt {momentum_gpt.__version__}\n"


def test_a_verb_of_two_words_is_found(tmp_path: Path) -> None:
    done = command("momentum_gpt", "bench", "attention", "--help", cwd=tmp_path)
    assert done.code == 0
    assert "attention.ema_decay=" in done.out


def test_help_can_be_the_first_word(tmp_path: Path) -> None:
    asked = command("momentum_gpt", "help", "bench", "evaluation", cwd=tmp_path)
    expected = command("momentum_gpt", "bench", "evaluation", "--help", cwd=tmp_path)
    assert asked == expected
    assert "batch_size=" in asked.out


def test_a_folder_of_verbs_lists_its_verbs(tmp_path: Path) -> None:
    done = command("momentum_gpt", "bench", "--help", cwd=tmp_path)
    assert done.code == 0
    assert "bench attention" in done.out
    assert "evaluate" not in done.out


def test_listing_the_verbs_loads_no_command(tmp_path: Path) -> None:
    program = "import sys, momentum_gpt.__main__ as m; m.usage(m.VERBS); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded = {name for name in done.stdout.split() if name.startswith("momentum_gpt")}
    assert loaded == {"momentum_gpt", "momentum_gpt.__main__"}
    assert not {"hydra", "omegaconf", "torch"} & set(done.stdout.split())


def test_the_citation_names_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == momentum_gpt.__version__
    assert citation["license"] == "Apache-2.0"


def test_a_wrong_verb_is_one_line_with_the_nearest(tmp_path: Path) -> None:
    done = command("momentum_gpt", "trian", cwd=tmp_path)
    assert (done.code, done.err) == (2, "error: there is no verb 'trian': did you mean 'train'?\n")
    bench = command("momentum_gpt", "bench", cwd=tmp_path)
    expected = "error: bench needs one of training, growth, attention, evaluation, tokenize\n"
    assert (bench.code, bench.err) == (2, expected)
