"""Write the option reference of the documentation, by default docs/reference/options.md.

python -m momentum_gpt.cli.reference [FILE]
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import is_dataclass, replace
from pathlib import Path

from momentum_gpt.__main__ import all_verbs
from momentum_gpt.cli.compose import Command, declared
from momentum_gpt.cli.options import (
    REQUIRED,
    Group,
    Option,
    Section,
    groups_of,
    option_names,
    sections_of,
)
from momentum_gpt.core.files import CLONE, write_text

PAGE = CLONE / "docs" / "reference" / "options.md"

HEAD = """\
# Options

Every command's groups and options, generated from the code by
`python -m momentum_gpt.cli.reference`. `momentum-gpt VERB --help` shows the same in the terminal.
An option is set with `OPTION=VALUE`, a group is chosen with `GROUP=CHOICE`.
"""


def reference() -> str:
    """Return the page, in Markdown."""
    parts = [HEAD]
    for verb, (module, description) in all_verbs().items():
        command = declared(importlib.import_module(module))
        if command is not None:
            parts.append(command_text(verb, description, command))
    return "\n".join(parts)


def command_text(verb: str, description: str, command: Command) -> str:
    """Return the chapter of one command."""
    lines = [f"## {verb}", "", f"`momentum-gpt {verb}`: {description}.", ""]

    groups = groups_of(command.name)
    if groups:
        lines += ["| group | choices |", "| --- | --- |"]
        lines += [group_row(group) for group in groups]
        lines.append("")

    known: set[str] = set()
    for base in filter(is_dataclass, command.schema.__bases__):
        known |= set(option_names(base))
        verb = base.__name__.removesuffix("Config").lower()
        lines += [f"It has all options of `{verb}`, and those that follow.", ""]
    for section in sections_of(command.name, command.schema):
        options = [option for option in section.options if option.name not in known]
        if section.name not in known:
            lines += section_lines(replace(section, options=options))
    return "\n".join(lines)


def group_row(group: Group) -> str:
    """Return a group as a row of a table, its default in bold."""
    choices = [f"**{name}**" if name == group.chosen else name for name in group.choices]
    return f"| `{group.name}` | {', '.join(choices)} |"


def section_lines(section: Section) -> list[str]:
    """Return a section as a table of its options."""
    lines = []
    if section.name:
        lines += [f"**{section.name}**: {' '.join(section.text.split())}", ""]
    if not section.options:
        return lines
    lines += ["| option | default | type | meaning |", "| --- | --- | --- | --- |"]
    lines += [option_row(option) for option in section.options]
    return [*lines, ""]


def option_row(option: Option) -> str:
    """Return an option as a row of a table."""
    text = " ".join(option.text.split()).replace("|", "\\|")
    default = REQUIRED if option.default == REQUIRED else f"`{option.default}`"
    return f"| `{option.name}` | {default} | {option.kind} | {text} |"


if __name__ == "__main__":
    write_text(Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE, reference())
