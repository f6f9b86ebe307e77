"""datatrove's filters of documents, by the names that the option `curate.filters` gives them."""

from __future__ import annotations

import inspect
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
)
from datatrove.pipeline.filters.base_filter import get_filter_result
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.formatters.base import BaseFormatter
from datatrove.utils.lid import FastTextLID
from datatrove.utils.word_tokenizers import load_word_tokenizer

from data_prep.settings import FILTERS, CurateConfig
from momentum_gpt.core.errors import UserError

CLASSES: dict[str, Any] = {
    "language": LanguageFilter,
    "gopher_repetition": GopherRepetitionFilter,
    "gopher_quality": GopherQualityFilter,
    "c4_quality": C4QualityFilter,
    "fineweb_quality": FineWebQualityFilter,
    "pii": PIIFormatter,
}

ONE_REPLACEMENT = {"email_replacement": "email@example.com", "ip_replacement": "22.214.171.124"}
"""By default datatrove takes turns between several.

What a document becomes would depend on the documents before it, and equal documents would differ.
"""


class LocalModel(FastTextLID):
    """A fastText model of a local file; datatrove's own classes download theirs."""

    def __init__(self, path: str, languages: list[str]) -> None:
        super().__init__(languages)
        self.path = path
        self._model: Any = None

    @property
    def model(self) -> Any:
        """The model, read when it is first used: a task may run on another machine."""
        if self._model is None:
            from fasttext.FastText import _FastText

            self._model = _FastText(self.path)
        return self._model


def build_steps(config: CurateConfig) -> dict[str, Any]:
    """Return datatrove's filters and formatters by name, in the order in which they are applied.

    Raises:
        UserError: an argument or the language is unknown, or a package is missing.
    """
    for name in config.arguments or {}:
        if name not in config.filters:
            raise UserError(
                f"curate.arguments are given for {name!r}, which is not among "
                f"curate.filters={config.filters}: add it there, or leave its arguments out"
            )
    try:
        return {name: _build(name, config) for name in FILTERS if name in config.filters}
    except ImportError as error:
        raise _missing_package(error) from None


def check_language(language: str) -> None:
    """Check that datatrove can cut words of this language.

    Raises:
        UserError: it does not know the language, or lacks the package for it.
    """
    try:
        load_word_tokenizer(language)
    except ValueError:
        raise UserError(
            f"curate.language={language!r} is not a language that datatrove knows: give its code "
            "in ISO 639-3, such as eng"
        ) from None
    except ImportError as error:
        raise _missing_package(error) from None


def _missing_package(error: ImportError) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(f"{reason} For English: pip install 'momentum-gpt[curation]'")


def _build(name: str, config: CurateConfig) -> Any:
    kind = CLASSES[name]
    given = (config.arguments or {}).get(name, {})
    arguments = {**_usual_arguments(name, config), **_tuples(given)}
    known = set(inspect.signature(kind.__init__).parameters) - {"self", "exclusion_writer"}
    for argument in arguments:
        if argument not in known:
            raise UserError(
                f"curate.arguments.{name} has no {argument!r}: datatrove's {kind.__name__} takes "
                f"{', '.join(sorted(known))}"
            )

    step = kind(**arguments)
    if name == "language":
        step.model = LocalModel(str(config.language_model), config.languages)
    elif name != "pii":
        check_language(arguments["language"])
    return step


def _usual_arguments(name: str, config: CurateConfig) -> dict[str, Any]:
    if name == "pii":
        return ONE_REPLACEMENT
    if name == "language":
        return {"languages": config.languages}
    return {"language": config.language}


def _tuples(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with tuples for lists, as datatrove has them."""
    converted = {}
    for name, value in arguments.items():
        converted[name] = tuple(value) if isinstance(value, list) else value
    return converted


def apply(step: Any, document: Document) -> str | None:
    """Apply a filter or a formatter, which may change the document's text.

    Returns:
        Why the document is left out; None if it stays.
    """
    if isinstance(step, BaseFormatter):
        document.text = step.format(document.text)
        return None
    stays, reason = get_filter_result(step.filter(document))
    if stays and not document.text.strip():
        return "no text left"
    return None if stays else reason or "left out"
