"""What a command says when its options cannot be composed: one line with value, rule and remedy.

Hydra and OmegaConf explain themselves to the authors of a program, in several lines. Here their
errors are put into words for the person who typed the command.
"""

from __future__ import annotations

import difflib
import re
import shlex
from dataclasses import dataclass

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from momentum_gpt.cli.options import choices_of, groups_of, option_names, takers_of, yaml_names
from momentum_gpt.core.errors import MachineError, UserError

FLAGS = {
    *("--cfg", "-c", "--resolve", "--package", "-p"),
    *("--run", "-r", "--multirun", "-m", "--info", "-i", "--hydra-help", "--version"),
    *("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
    *("--shell-completion", "-sc", "--experimental-rerun"),
}
"""Hydra's own flags."""


@dataclass(frozen=True)
class CommandLine:
    """What was typed, and what may be typed."""

    command: str
    """Name of the command's file in conf/, without .yaml."""
    schema: type
    """Dataclass of the command's options."""
    arguments: tuple[str, ...]
    """As they were typed."""

    def chosen(self, group: str) -> str:
        """Return the choice of a group in words, such as "attention=vanilla"."""
        if self._arguments_of(group):
            return self.last(group)
        # An experiment may choose, too, and is not read here.
        if self._arguments_of("experiment"):
            return f"the chosen {group}"
        defaults = {entry.name: entry.chosen for entry in groups_of(self.command)}
        return f"{group}={defaults.get(group)}"

    def last(self, name: str) -> str:
        """Return the argument that sets an option, the last one; or its name, if none does."""
        return [name, *self._arguments_of(name)][-1]

    def _arguments_of(self, name: str) -> list[str]:
        return [argument for argument in self.arguments if argument.startswith(f"{name}=")]


def check_flags(typed_in: CommandLine) -> None:
    """Raise a UserError if a flag is not one of Hydra's, as in `--training.seed=1`."""
    for argument in typed_in.arguments:
        name, equals, _ = argument.partition("=")
        if not name.startswith("-") or name in FLAGS:
            continue
        if equals:
            remedy = f"options are written without dashes: {argument.lstrip('-')}"
        else:
            remedy = "options are written OPTION=VALUE, and --help lists them all"
        raise UserError(f"there is no flag {name!r}: {remedy}")


def check_choices(typed_in: CommandLine) -> None:
    """Raise a UserError if a group is given something that is not one of its choices."""
    groups = {group.name: group.choices for group in groups_of(typed_in.command)}
    for argument in typed_in.arguments:
        name, _, value = argument.partition("=")
        # Functions such as choice(a,b) are for Hydra's sweeps.
        if name not in groups or "(" in value:
            continue
        for choice in value.split(","):
            if choice.strip() not in [*groups[name], "null"]:
                raise UserError(no_such_choice(f"{name}/{choice.strip()}"))


def check_missing(raw: DictConfig) -> None:
    """Raise a UserError that names every option that has to be given and is not."""
    missing = sorted(OmegaConf.missing_keys(raw))
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        remedy = " ".join(f"{name}=..." for name in missing)
        raise UserError(f"{' and '.join(missing)} {verb} not set: add {remedy} to the command")


def one_line(error: Exception, typed_in: CommandLine) -> str:
    """Return the error in one line, with value, rule and remedy, and without Hydra's own hints."""
    if isinstance(error, (UserError, MachineError)):
        return str(error)
    if isinstance(error, OverrideParseException):
        return not_parsed(error.override)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return no_such_choice(error.missing_cfg_file)

    unknown = re.search(r"Could not override '([^']*)'", str(error))
    if unknown:
        return no_such_option(unknown[1], typed_in)

    # Hydra wraps the error that says which value is wrong.
    cause = error.__cause__
    text = str(cause if isinstance(cause, OmegaConfBaseException) else error)
    key = re.search(r"full_key: (\S+)", text)
    if key and re.search(r"Key '[^']*' (is not in struct|not in '\w+')", text):
        return no_such_option(key[1], typed_in)
    if key and "is not a ListConfig" in text:
        return no_list(typed_in.last(key[1]))
    if key:
        return f"{key[1]}: {text.splitlines()[0]}"

    lines = [line.strip() for line in text.splitlines()]
    return " ".join(line for line in lines if line and "HYDRA_FULL_ERROR" not in line)


def not_parsed(argument: str) -> str:
    """Return what to say of an argument that is not in Hydra's grammar, such as "name=a(b"."""
    name, equals, value = argument.partition("=")
    if not equals:
        return f"{argument!r} is not an option: write OPTION=VALUE"
    # In Hydra's quotes a backslash means itself, except in front of a quote.
    escaped = re.sub(r'(\\*)("|$)', _escape_quote, value)
    remedy = shlex.quote(f'{name}="{escaped}"')
    return f"{argument!r} has brackets or quotes without their partner: for a text, write {remedy}"


def _escape_quote(match: re.Match[str]) -> str:
    """Double the backslashes in front of a quote or of the end, and escape the quote."""
    quote = '\\"' if match[2] else ""
    return 2 * match[1] + quote


def no_list(argument: str) -> str:
    """Return what to say of an option that takes a list and got a single value."""
    name, equals, value = argument.partition("=")
    remedy = shlex.quote(f"{name}=[{value if equals else '...'}]")
    return f"{argument} is no list: write {remedy}"


def no_such_choice(path: str) -> str:
    """Return what to say of a group's file that does not exist, such as "model/gpt_huge"."""
    group, _, choice = path.rpartition("/")
    choices = choices_of(group)
    close = difflib.get_close_matches(choice, choices, n=1)
    hint = f"did you mean {group}={close[0]}? " if close else ""
    return f"there is no {group}={choice}: {hint}choose one of {', '.join(choices)}"


def no_such_option(option: str, typed_in: CommandLine) -> str:
    """Return what to say of an option that does not exist: who has it, or what comes close."""
    # Some choice of its group has it, but not the one that is chosen.
    takers = takers_of(option)
    if takers:
        group = option.partition(".")[0]
        # The shortest name first: momentum before linear_momentum.
        remedy = " or ".join(sorted(takers, key=len))
        return f"{typed_in.chosen(group)} has no option {option!r}: add {remedy} to the command"

    known = list(option_names(typed_in.schema))
    for entry in groups_of(typed_in.command):
        known += yaml_names(entry.name)
    close = closest(option, known)
    hint = f"did you mean {close!r}?" if close else "--help lists them all"
    return f"there is no option {option!r}: {hint}"


def closest(option: str, known: list[str]) -> str | None:
    """Return the option that was probably meant, if one of them is close.

    A slip of the finger in the same section is likelier than another section, and another section
    is likelier than another name.
    """
    section, _, last = option.rpartition(".")
    siblings = [name for name in known if section and name.rpartition(".")[0] == section]
    # High enough that training.lr does not become some other short name in `training`.
    slips = difflib.get_close_matches(option, siblings, n=1, cutoff=0.8)
    if slips:
        return slips[0]

    same_ending = [name for name in known if name.rpartition(".")[2] == last]
    if same_ending:
        return same_ending[0]

    # A section alone, such as "training", cannot be set.
    sections = {name.rpartition(".")[0] for name in known}
    settable = [name for name in known if name not in sections]
    close = difflib.get_close_matches(option, settable, n=1, cutoff=0.6)
    return close[0] if close else None
