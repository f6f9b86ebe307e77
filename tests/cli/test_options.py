"""Help is complete, short and quick: every option is explained, and no heavy library is loaded."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest

from momentum_gpt.__main__ import all_verbs
from momentum_gpt.cli.compose import Command, declared
from momentum_gpt.cli.help import help_text
from momentum_gpt.cli.options import (
    REQUIRED,
    choices_of,
    class_text,
    field_texts,
    groups_of,
    kind_text,
    sections_of,
    takers_of,
)
from momentum_gpt.cli.reference import reference

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "deepspeed", "transformers", "datasets", "datatrove", "scipy", "aiohttp", "wandb"}
MODULES = [module for module, _ in all_verbs().values() if module != "momentum_gpt.harness"]


@dataclass
class Inner:
    """Options inside.

    More of them.
    """

    size: int = 3
    """Size, in tokens."""


@dataclass
class Outer:
    """Options outside."""

    name: str
    """Name of
    the thing."""
    inner: Inner
    rates: list[float] | None = None
    """Rates."""
    on: bool = False
    """Whether it is on."""
    undocumented: list[int] = field(default_factory=list)


def command_of(module: str) -> Command:
    command = declared(importlib.import_module(module))
    assert command is not None
    return command


def test_the_text_under_a_field_is_found() -> None:
    assert field_texts(Outer) == {
        "name": "Name of\nthe thing.",
        "inner": "",
        "rates": "Rates.",
        "on": "Whether it is on.",
        "undocumented": "",
    }


def test_types_are_named_in_words() -> None:
    assert kind_text(list[float] | None) == "list of number or null"
    assert kind_text(bool) == "true or false"


@pytest.mark.parametrize("module", MODULES)
def test_every_option_of_every_command_is_explained(module: str) -> None:
    command = command_of(module)
    for section in sections_of(command.name, command.schema):
        assert section.text or not section.name, section.name
        for option in section.options:
            assert option.text.endswith((".", ")")), f"{option.name}: {option.text!r}"
            assert option.text[0].isupper() or "|" in option.text, option.name


def test_sections_have_the_defaults_of_the_yaml_files() -> None:
    command = command_of("momentum_gpt.train")
    options = {}
    for section in sections_of(command.name, command.schema):
        options |= {option.name: option for option in section.options}
    assert options["name"].default == REQUIRED
    assert options["model.n_layers"].default == "4"
    assert options["optim.schedule"].default == "cosine"
    assert options["evaluation.icl.k"].default == "[0,1,4,8,16,32]"
    assert options["evaluation.icl.separator"].default == r"'\n'"
    assert options["data.document_mask"].default == "false"
    assert "attention=momentum" in takers_of("attention.ema_decay")


def test_options_of_a_group_without_a_dataclass_come_from_its_yaml_files() -> None:
    command = command_of("data_prep.prepare")
    options = {}
    for section in sections_of(command.name, command.schema):
        options |= {option.name: option for option in section.options}
    assert options["corpus.paths"].default == REQUIRED
    assert options["corpus.paths"].text.endswith("Only with corpus=text.")
    # c4 builds on hub: it has hub's options, and its own values are not the defaults.
    assert options["corpus.streaming"].default == "false"
    assert "corpus=c4, fineweb_edu, hub," in options["corpus.streaming"].text

    train = command_of("momentum_gpt.train")
    sections = {section.name: section for section in sections_of(train.name, train.schema)}
    stage = sections["deepspeed"].options[0]
    assert (stage.name, stage.default) == ("deepspeed.zero_optimization.stage", "1")
    assert "Only with" not in stage.text


def test_a_dataclass_has_the_options_of_the_one_that_it_builds_on() -> None:
    train = command_of("momentum_gpt.train")
    plan = command_of("momentum_gpt.plan")
    names = {}
    for command in (train, plan):
        sections = sections_of(command.name, command.schema)
        names[command.name] = {option.name for section in sections for option in section.options}
    more = names["plan"] - names["train"]
    assert names["train"] <= names["plan"]
    assert "cluster.memory_gb" in more
    assert {name.partition(".")[0] for name in more} == {"cluster", "trainings"}


def test_a_dataclass_without_a_docstring_is_explained_by_its_field() -> None:
    @dataclass
    class Bare:
        size: int = 3
        """Size."""

    assert class_text(Bare) == ""
    assert class_text(Inner) == "Options inside."


def test_groups_are_the_folders_of_yaml_files() -> None:
    groups = {group.name: group for group in groups_of("train")}
    folders = ["model", "attention", "optim", "training", "deepspeed", "launch", "experiment"]
    assert list(groups) == folders
    assert groups["attention"].chosen == "vanilla"
    assert groups["experiment"].chosen is None
    assert groups["deepspeed"].choices == choices_of("deepspeed")


@pytest.mark.parametrize("module", MODULES)
def test_help_fits_a_terminal_of_80_columns(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    command = command_of(module)
    manual = importlib.import_module(module).__doc__ or ""
    text = help_text(command.name, command.schema, manual)
    too_long = [line for line in text.splitlines() if len(line) > 80]
    assert not too_long
    assert "Config search path" not in text


@pytest.mark.parametrize("module", MODULES)
def test_brackets_in_the_examples_are_quoted_for_zsh(module: str) -> None:
    manual = importlib.import_module(module).__doc__ or ""
    examples = [line for line in manual.splitlines() if line.startswith("    ")]
    unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "", "\n".join(examples))
    assert "[" not in unquoted


@pytest.mark.parametrize("module", MODULES)
def test_help_loads_no_heavy_library(module: str) -> None:
    """Loading torch alone takes longer than a person waits for help."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", module, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in lines}
    assert not loaded & HEAVY


def test_only_that_commands_options_are_listed() -> None:
    command = command_of("momentum_gpt.compare")
    text = help_text(command.name, command.schema, "The manual.")
    assert "  runs  (list of text, required)\n" in text
    assert "  output=null  (text or null)\n" in text
    shown = [line for line in text.splitlines() if re.match(r"  \w", line)]
    assert len(shown) == len(fields(command.schema))
    assert "model." not in text
    assert "Groups" not in text


def test_the_option_reference_of_the_documentation_is_current() -> None:
    page = ROOT / "docs" / "reference" / "options.md"
    assert page.read_text(encoding="utf-8") == reference(), "run: make reference"
