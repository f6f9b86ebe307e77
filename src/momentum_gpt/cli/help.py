"""The text of `--help`: the command's manual, then its groups, then its options."""

from __future__ import annotations

import inspect
import shutil
import textwrap

from momentum_gpt.cli.options import REQUIRED, Group, Option, groups_of, sections_of

HYDRA = """\
Hydra's own flags: --cfg job prints the composed options and stops; --multirun (-m) runs every
combination of options that are given as lists a,b,c."""


def help_text(command: str, schema: type, manual: str) -> str:
    """Return everything a person needs to use a command, as wide as the terminal, at most 100.

    Args:
        command: the name of its file in conf/, without .yaml.
        schema: its dataclass.
        manual: the docstring of its module.
    """
    # Longer lines are hard to read, however wide the terminal is.
    width = min(100, shutil.get_terminal_size().columns)
    parts = [inspect.cleandoc(manual)]

    groups = groups_of(command)
    if groups:
        lines = [group_text(group, width) for group in groups]
        parts.append("\n".join(["Groups, chosen with GROUP=CHOICE:", "", *lines]))

    parts.append("Options, set with OPTION=VALUE:")
    for section in sections_of(command, schema):
        lines = [option_text(option, width) for option in section.options]
        if section.name:
            title = f"{section.name}: {section.text}"
            heading = textwrap.fill(" ".join(title.split()), width)
            # The blank line is for the eye that looks for the next section.
            lines = [heading, "", *lines] if lines else [heading]
        parts.append("\n".join(lines))

    parts.append(textwrap.fill(" ".join(HYDRA.split()), width))
    return "\n\n".join(parts)


def group_text(group: Group, width: int) -> str:
    """Return a group's name and choices, the default first."""
    others = [choice for choice in group.choices if choice != group.chosen]
    chosen = f"{group.chosen} (default)" if group.chosen else "none (default)"
    return textwrap.fill(
        ", ".join([chosen, *others]),
        width,
        initial_indent=f"  {group.name:<13}",
        subsequent_indent=" " * 15,
        break_on_hyphens=False,  # names stay in one piece
    )


def option_text(option: Option, width: int) -> str:
    """Return an option's name, default and type on one line, and its meaning below."""
    is_required = option.default == REQUIRED
    head = option.name if is_required else f"{option.name}={option.default}"
    notes = [] if option.kind == "value" else [option.kind]
    notes += [REQUIRED] if is_required else []

    lines = [f"  {head}  ({', '.join(notes)})" if notes else f"  {head}"]
    if option.text:
        lines += [_indented(paragraph, width) for paragraph in option.text.split("\n\n")]
    return "\n".join(lines)


def _indented(paragraph: str, width: int) -> str:
    """Return a paragraph below an option's name."""
    indent = " " * 6
    joined = " ".join(paragraph.split())
    return textwrap.fill(joined, width, initial_indent=indent, subsequent_indent=indent)
