"""Texts with places for the fields of a row.

    {question}            a field
    {answers.text.0}      an entry of a field that has entries, by name or by number
    {premise:strip}       a field, changed by filters of `FILTERS`, separated by commas

Nothing of a template is run: a field is looked up, and a filter is one of those here.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from typing import Any

BRACKETS = re.compile(r"\[.*?\]")

GAP = "_"
"""What a text has where a candidate goes."""


def wikihow(text: str) -> str:
    """Return a text of HellaSwag without the marks of WikiHow's pages, as in lm-eval."""
    text = text.strip().replace(" [title]", ". ")
    return BRACKETS.sub("", text).replace("  ", " ")


def before_gap(text: str) -> str:
    """Return what stands before the gap."""
    return text[: text.index(GAP)]


def after_gap(text: str) -> str:
    """Return what stands after the gap, without the space around it."""
    return text[text.index(GAP) + 1 :].strip()


FILTERS: dict[str, Callable[[str], str]] = {
    "strip": str.strip,
    "capitalize": str.capitalize,
    "lower_first": lambda text: text[:1].lower() + text[1:],
    "without_last": lambda text: text[:-1],
    "spaced": lambda text: text.replace("_", " "),
    "wikihow": wikihow,
    "before_gap": before_gap,
    "after_gap": after_gap,
    "before_last_word": lambda text: text.rpartition(" ")[0],
    "last_word": lambda text: text.rpartition(" ")[2],
}
"""What may change a field: `without_last` drops the last character, `spaced` reads _ as a space."""


def render(template: str, find: Callable[[str], str]) -> str:
    """Return the text of a template.

    Args:
        template: the text with its places.
        find: name of a field -> its text; the name of {} is empty.
    """
    parts = []
    for text, name, filters, _ in string.Formatter().parse(template):
        parts.append(text)
        if name is not None:
            parts.append(filtered(find(name), filters or ""))
    return "".join(parts)


def filled(template: str, text: str) -> str:
    """Return a template with the same text in all of its places."""

    def find(name: str) -> str:
        return text

    return render(template, find)


def filtered(text: str, filters: str) -> str:
    """Return the text after the named filters, one after another."""
    for name in filter(None, filters.split(",")):
        text = FILTERS[name](text)
    return text


def names_in(template: str) -> list[str]:
    """Return the names of the fields that a template uses, each once, in their order."""
    names = [name for _, name, _, _ in string.Formatter().parse(template) if name]
    return list(dict.fromkeys(names))


def check_template(template: str) -> None:
    """Raise a ValueError unless all is understood: braces are paired, and filters are known."""
    for _, _, filters, conversion in string.Formatter().parse(template):
        names = list(filter(None, (filters or "").split(",")))
        if conversion is not None:
            names.append(f"!{conversion}")
        for name in names:
            if name not in FILTERS:
                raise ValueError(f"{name!r} in {template!r} is none of {', '.join(FILTERS)}")


def value_of(row: dict[str, Any], name: str) -> Any:
    """Return the value of a field, or of an entry of it.

    Raises:
        ValueError: there is none, or it is null.
    """
    value: Any = row
    for key in name.split("."):
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, TypeError, ValueError):
            raise ValueError(f"it has no field {name!r}") from None
        if value is None:
            raise ValueError(f"its field {name!r} is null")
    return value


def text_of(row: dict[str, Any], name: str) -> str:
    """Return a field as text.

    Raises:
        ValueError: there is none, it is null, or it has several entries.
    """
    value = value_of(row, name)
    if isinstance(value, list | dict):
        raise ValueError(f"its field {name!r} has several entries: name one, such as {name}.0")
    return str(value)


def texts_of(row: dict[str, Any], name: str) -> list[str]:
    """Return the texts of a field that is a list, or the only one of another.

    Raises:
        ValueError: there is none, or one is null.
    """
    value = value_of(row, name)
    if not isinstance(value, list):
        return [text_of(row, name)]
    return [text_of(row, f"{name}.{place}") for place in range(len(value))]
