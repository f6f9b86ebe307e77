"""What the README tells a newcomer to type is right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from momentum_gpt.models import ATTENTIONS, attention
from momentum_gpt.models.conformance import Check

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return found


def test_the_variant_of_the_tutorial_passes_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    options = yaml.safe_load(block("yaml"))
    namespace: dict[str, Any] = dict(vars(attention))
    exec(block("python"), namespace)
    assert len(block("python").splitlines()) <= 30
    monkeypatch.setitem(ATTENTIONS, options["name"], namespace["TwoSpeedAttention"])
    assert [
        finding for finding in Check(options, backend="aot_eager").all() if not finding.holds
    ] == []


def test_every_command_of_the_readme_exists() -> None:
    root = Path(__file__).resolve().parents[1]
    for module in set(re.findall(r"python -m ([\w.]+)", README)):
        assert (root / "src" / f"{module.replace('.', '/')}.py").is_file() or (
            root / f"{module.replace('.', '/')}.py"
        ).is_file()
    makefile = (root / "Makefile").read_text()
    for target in set(re.findall(r"(?:^    |`)make ([a-z-]+)", README, re.MULTILINE)):
        assert f"\n{target}:" in makefile, target
