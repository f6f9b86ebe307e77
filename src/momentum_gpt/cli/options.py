"""What a command can be told: groups and options, read from the dataclasses and YAML files.

The text under a dataclass field, its type and its default are the documentation of an option. The
comments of a YAML file document the options of a group that has no dataclass, such as `attention`.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf

from momentum_gpt.core.files import conf_folder

REQUIRED = "required"

KINDS = {int: "integer", float: "number", str: "text", bool: "true or false"}
"""Python types, in words."""

YAML_LINE = re.compile(
    r"^(?P<indent> *)(?P<key>\w+):(?: +(?P<value>[^#\s][^#\n]*?))? *(?:# (?P<comment>.*))?$",
    re.MULTILINE,
)
"""A line `key: value  # comment` of a YAML file."""


@dataclass(frozen=True)
class Option:
    """One option of a command."""

    name: str
    """As it is written on the command line, such as "model.n_layers"."""
    kind: str
    """Its type, in words."""
    default: str
    """Its value if it is not given; "required" if there is none."""
    text: str
    """What it means: the documentation of its field."""


@dataclass(frozen=True)
class Section:
    """The options of one dataclass."""

    name: str
    """As in the option's name, such as "model"; "" for the command's own options."""
    text: str
    """The first paragraph of the class's docstring."""
    options: list[Option]


@dataclass(frozen=True)
class Group:
    """A folder of YAML files, of which one is chosen with GROUP=CHOICE."""

    name: str
    choices: list[str]
    chosen: str | None
    """The choice if none is given."""


def groups_of(command: str) -> list[Group]:
    """Return the groups that `conf/COMMAND.yaml` chooses from."""
    groups = []
    content = OmegaConf.to_container(OmegaConf.load(conf_folder() / f"{command}.yaml"))
    assert isinstance(content, dict)
    for entry in content.get("defaults", []):
        if isinstance(entry, str):
            continue
        for name, chosen in entry.items():
            groups.append(Group(str(name), choices_of(str(name)), chosen))
    return groups


def choices_of(group: str) -> list[str]:
    """Return the names of a group's YAML files."""
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


def sections_of(command: str, schema: type) -> list[Section]:
    """Return the options of a command, section by section, with the defaults of its YAML files."""
    defaults = yaml_defaults(command)
    sections = [Section("", "", [])]
    _collect(schema, "", defaults, sections)
    return [section for section in sections if section.options or section.name]


def _collect(schema: type, prefix: str, defaults: dict[str, Any], sections: list[Section]) -> None:
    """Append the options of a dataclass, and those of the dataclasses inside it, to `sections`."""
    texts = field_texts(schema)
    hints = get_type_hints(schema)
    own = sections[-1]

    for entry in fields(schema):
        name = prefix + entry.name
        kind = hints[entry.name]
        if is_dataclass(kind):
            assert isinstance(kind, type)
            sections.append(Section(name, class_text(kind) or texts[entry.name], []))
            _collect(kind, f"{name}.", defaults, sections)
        elif get_origin(kind) is dict:
            # The options depend on the choice, so the YAML files of the group list them.
            sections.append(Section(name, texts[entry.name], yaml_options(name, defaults)))
        else:
            default = _default_text(defaults.get(name, _field_default(entry)))
            own.options.append(Option(name, kind_text(kind), default, texts[entry.name]))


def option_names(schema: type, prefix: str = "") -> Iterator[str]:
    """Yield every option of a dataclass and of those inside it, as on the command line."""
    for name, kind in get_type_hints(schema).items():
        yield prefix + name
        if isinstance(kind, type) and is_dataclass(kind):
            yield from option_names(kind, f"{prefix}{name}.")


@cache
def field_texts(schema: type) -> dict[str, str]:
    """Return the text under each field of a dataclass, by the field's name."""
    texts: dict[str, str] = {}
    for base in schema.__bases__:
        if is_dataclass(base):
            texts |= field_texts(base)
    source = textwrap.dedent(inspect.getsource(schema))
    definition = ast.parse(source).body[0]
    assert isinstance(definition, ast.ClassDef)

    # Python keeps no text under a field, so it is found in the source: the next statement.
    followers = [*definition.body[1:], None]
    for statement, following in zip(definition.body, followers, strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        texts[statement.target.id] = _literal_text(following)
    return texts


def _literal_text(statement: ast.stmt | None) -> str:
    """Return the text of a statement that is only a string, else ""."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return inspect.cleandoc(str(statement.value.value))
    return ""


def class_text(schema: type) -> str:
    """Return the first paragraph of a class's docstring, on one line; "" if it has none."""
    written = schema.__doc__ or ""
    if written.startswith(f"{schema.__name__}("):  # a dataclass without one gets its signature
        return ""
    paragraph = inspect.cleandoc(written).split("\n\n")[0]
    return " ".join(paragraph.split())


def kind_text(kind: Any) -> str:
    """Return a type in words."""
    if kind in KINDS:
        return KINDS[kind]
    arguments = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        names = [kind_text(argument) for argument in arguments if argument is not NoneType]
        return " or ".join([*names, "null"] if NoneType in arguments else names)
    if get_origin(kind) is list:
        return f"list of {kind_text(arguments[0])}"
    return "value"


def _field_default(entry: Field[Any]) -> Any:
    if entry.default is not MISSING:
        return entry.default
    if entry.default_factory is not MISSING:
        return entry.default_factory()
    return "???"


def _default_text(value: Any) -> str:
    """Return a default as it would be written on the command line."""
    if isinstance(value, str):
        if value == "???":
            return REQUIRED
        # Quotes make an empty text, or blanks at an end, visible.
        return repr(value) if value.strip() != value or not value else value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_default_text, value))}]"
    return str(value)


def yaml_defaults(command: str) -> dict[str, Any]:
    """Return the values of `conf/COMMAND.yaml` and of its groups' choices, by dotted name."""
    values: dict[str, Any] = {}
    for group in groups_of(command):
        if group.chosen is not None:
            content = OmegaConf.load(conf_folder() / group.name / f"{group.chosen}.yaml")
            _flatten(OmegaConf.to_container(content), f"{group.name}.", values)

    # The command's own file comes last, as in the composed options.
    own = OmegaConf.to_container(OmegaConf.load(conf_folder() / f"{command}.yaml"))
    assert isinstance(own, dict)
    own.pop("defaults", None)
    _flatten(own, "", values)
    return values


def _flatten(nested: Any, prefix: str, values: dict[str, Any]) -> None:
    for key, value in nested.items():
        if isinstance(value, dict):
            _flatten(value, f"{prefix}{key}.", values)
        else:
            values[f"{prefix}{key}"] = value


def yaml_options(group: str, defaults: dict[str, Any]) -> list[Option]:
    """Return the options of a group without a dataclass, from the lines of its YAML files.

    Args:
        group: the folder's name.
        defaults: values that options have if nothing is chosen, by dotted name.
    """
    written: dict[str, tuple[str, str]] = {}
    for choice in choices_of(group):
        # A choice that builds on another one has its options, with other values.
        if base_of(group, choice):
            continue
        for name, value, comment in _yaml_lines(group, choice):
            # The first comment that explains the option counts for all files that have it.
            if name not in written or not written[name][1]:
                written[name] = (value, comment)

    options = []
    for name, (value, comment) in written.items():
        default = _default_text(defaults[name]) if name in defaults else value
        text = f"{comment} {_only_with(name)}".strip()
        options.append(Option(name, "value", REQUIRED if default == "???" else default, text))
    return options


def _only_with(option: str) -> str:
    """Return the sentence that says which choices have an option, if not all of them do."""
    group = option.partition(".")[0]
    takers = [taker.partition("=")[2] for taker in takers_of(option, with_derived=True)]
    if takers == choices_of(group):
        return ""
    *first, last = takers
    names = f"{', '.join(first)} or {last}" if first else last
    return f"Only with {group}={names}."


def yaml_names(group: str) -> list[str]:
    """Return the dotted names of all options in a group's YAML files."""
    names = []
    for choice in choices_of(group):
        names += [name for name, _, _ in _yaml_lines(group, choice)]
    return sorted(set(names))


def takers_of(option: str, with_derived: bool = False) -> list[str]:
    """Return the choices, such as "attention=momentum", whose YAML file has the option.

    Args:
        option: a dotted name, such as "attention.ema_decay".
        with_derived: whether to list those that have it from the choice that they build on, too.
    """
    group = option.partition(".")[0]
    takers = []
    for choice in choices_of(group):
        base = base_of(group, choice)
        if base and not with_derived:
            continue
        if option in [name for name, _, _ in _yaml_lines(group, base or choice)]:
            takers.append(f"{group}={choice}")
    return takers


def base_of(group: str, choice: str) -> str | None:
    """Return the choice of the same group that a YAML file builds on, if it does."""
    content = OmegaConf.to_container(OmegaConf.load(conf_folder() / group / f"{choice}.yaml"))
    assert isinstance(content, dict)
    bases = [entry for entry in content.get("defaults", []) if entry in choices_of(group)]
    return bases[0] if bases else None


@cache
def _yaml_lines(group: str, choice: str) -> list[tuple[str, str, str]]:
    """Return dotted name, value and comment of each option in a YAML file of a group."""
    path = conf_folder() / group / f"{choice}.yaml"
    found = []
    parents: list[tuple[int, str]] = []  # indentation and key of the mappings around the line
    for match in YAML_LINE.finditer(path.read_text(encoding="utf-8")):
        indent = len(match["indent"])
        parents = [parent for parent in parents if parent[0] < indent]
        if not match["value"]:
            parents.append((indent, match["key"]))
            continue
        if match["key"] in ("name", "kind") and not parents:  # the choice itself
            continue

        keys = [key for _, key in parents]
        name = ".".join([group, *keys, match["key"]])
        found.append((name, match["value"], _sentence(match["comment"] or "")))
    return found


def _sentence(comment: str) -> str:
    """Return a comment as a sentence, with a capital letter and a full stop."""
    if not comment:
        return ""
    is_value = comment.startswith(("null:", "{", "["))
    first = comment[0] if is_value else comment[0].upper()
    return first + comment[1:].rstrip(".") + "."
