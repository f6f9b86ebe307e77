"""Reading files from untrusted sources: YAML as plain values, names that stay in a folder.

A tag can name code to run, a few lines of aliases can fill the memory, an interpolation can read
the environment, and a path can lead out of its folder. None of them is needed in our files.
"""

from __future__ import annotations

import io
import reprlib
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from momentum_gpt.core.errors import UserError

MOST_BYTES = 1 << 18
"""Size of the largest YAML file that is read: a hundred times a run's config."""

LONGEST_NAME = 255
"""Characters of a file's name, at most, as on Linux."""

DEEPEST = 20
"""Levels of nested lists and mappings in a YAML file, at most."""


def read_plain_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file that has a mapping at its top.

    Raises:
        UserError: the file cannot be read, or holds anything but plain values.
    """
    try:
        text = _text(path)
        _check_structure(text)
        content = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False)
        if not text.strip() or not isinstance(content, dict):
            raise ValueError("it has no options")
        _check_values(content, "")
    except (OSError, ValueError, TypeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} cannot be read: {_reason(error)}") from None
    return content  # type: ignore[return-value]


def plain_name(name: Any) -> str:
    """Return `name` if it is the name of a file or folder, and not a path to another place.

    Raises:
        ValueError: it is anything else.
    """
    is_name = isinstance(name, str) and Path(name).name == name and name not in ("", "..")
    if not is_name or not name.isprintable() or len(name) > LONGEST_NAME:
        raise ValueError(f"{reprlib.repr(name)} is not the name of a file in the folder")
    return str(name)


def read_name(path: Path) -> str:
    """Return the name that a file such as `checkpoints/latest` holds.

    Raises:
        UserError: the file cannot be read, or holds anything but the name of a file or folder.
    """
    try:
        return plain_name(_text(path).strip())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {_reason(error)}") from None


def _text(path: Path) -> str:
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"it has {size:,} bytes, and at most {MOST_BYTES:,} are read")
    return path.read_text(encoding="utf-8")


def _check_structure(text: str) -> None:
    """Raise a ValueError if the text has aliases or tags, or is nested too deeply."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        assert event.start_mark is not None
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"line {line} has the alias *{event.anchor}: write the value out")
        if tag := getattr(event, "tag", None):
            raise ValueError(f"line {line} has the tag {tag}: only plain values are read")

        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"line {line} is nested more than {DEEPEST} levels deep")


def _check_values(value: Any, key: str) -> None:
    """Raise a ValueError that names the key if a text has an interpolation."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_values(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for inner in value:
            _check_values(inner, key)
    elif isinstance(value, str) and "${" in value:
        raise ValueError(f"{key} has the interpolation {value!r}: write the value out")


def _reason(error: Exception) -> str:
    """Return what is wrong, in one line."""
    if isinstance(error, OSError):
        return str(error.strerror or error)
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1} is not YAML ({error.problem})"
    return " ".join(str(error).split())
