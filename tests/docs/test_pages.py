"""The pages of the documentation fit together, and name things that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from data_prep.prepare import PrepareConfig
from momentum_gpt.core.config import TrainConfig
from momentum_gpt.core.files import conf_folder
from momentum_gpt.evaluate import EvaluateConfig
from momentum_gpt.generate import GenerateConfig
from tests.docs.pages import ELSEWHERE, PAGES, ROOT, anchors, links, text_of

COMMANDS = (TrainConfig, PrepareConfig, EvaluateConfig, GenerateConfig)
"""The configurations with options that contain a dot."""

OPTION = re.compile(r"(?<![\w./$-])([a-z]\w*(?:\.\w+)+)=")
"""An option with a dot and a value, as in `optim.lr=1e-3`."""

SCANNED = [*PAGES, *ELSEWHERE]


def option_names(schema: type, prefix: str = "") -> Iterator[str]:
    """Yield every option of a dataclass and of the dataclasses inside it."""
    for name, kind in get_type_hints(schema).items():
        yield prefix + name
        if isinstance(kind, type) and is_dataclass(kind):
            yield from option_names(kind, f"{prefix}{name}.")


def options_of_groups() -> Iterator[str]:
    """Yield the options that only the YAML files of `conf/` know, such as `attention.weight`."""
    for group in ("attention", "corpus"):
        for path in (conf_folder() / group).glob("*.yaml"):
            content: dict[str, Any] = yaml.safe_load(path.read_text())
            yield from (f"{group}.{key}" for key in content)


def relative(file: Path) -> str:
    return str(file.resolve().relative_to(ROOT))


def known_options() -> set[str]:
    found = set(options_of_groups())
    for schema in COMMANDS:
        assert fields(schema)
        found |= set(option_names(schema))
    return found


@pytest.mark.parametrize("page", SCANNED)
def test_every_link_leads_somewhere(page: str) -> None:
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (anchor and anchor not in anchors(relative(file))):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", SCANNED)
def test_every_option_that_is_named_exists(page: str) -> None:
    known = known_options()
    named = set(OPTION.findall(text_of(page)))
    assert not {name for name in named - known if not name.startswith("deepspeed.")}


def test_every_page_can_be_reached_from_the_index() -> None:
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    reached = {target.partition("#")[0] for target in links("docs/index.md")}
    assert pages - {"index.md"} <= reached


def test_every_page_is_checked() -> None:
    pages = {relative(path) for path in (ROOT / "docs").rglob("*.md")}
    assert pages <= set(SCANNED)


def test_the_figures_are_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import figures

    for path, content in figures.files():
        assert path.read_text(encoding="utf-8") == content, f"run python docs/figures.py: {path}"


def test_the_figures_are_used() -> None:
    used = set()
    for page in PAGES:
        used |= {Path(target).name for target in links(page)}
    figures = {path.name for path in (ROOT / "docs" / "figures").iterdir()}
    assert figures <= used


def test_the_figures_show_the_numbers_of_the_log() -> None:
    import figures

    log = text_of("LOG.md")
    for losses in figures.LOSS_DIFFERENCES.values():
        for difference in losses.values():
            assert f"({difference:+.4f})" in log
    for positions, accuracy in figures.RECALL.items():
        for decay, value in accuracy.items():
            row = rf"\| {positions} \| momentum {decay} \| [^|]* \| {value:.3f} "
            assert re.search(row, log), (positions, decay)
        row = rf"\| {positions} \| vanilla \| [^|]* \| {figures.RECALL_VANILLA[positions]:.3f} "
        assert re.search(row, log), positions
