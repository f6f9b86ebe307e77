"""Draws mutants: copies of a file with one small mistake, made by mutmut's operators.

mutmut itself does not work on these tests. It runs them in a child that it forks, and there every
test that starts worker processes fails ("No child processes"), so that each mutant seems killed.
"""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
from libcst import matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_assignment

OPERATORS = [pair for pair in mutation_operators if pair[1] is not operator_assignment]
"""All but `x = None`: what uses x fails at once, which says nothing of the tests."""

UNSEEN = (cst.Annotation, cst.Decorator, cst.Import, cst.ImportFrom, cst.Assert)
"""Nodes that say something to readers and checkers, or that are tests themselves."""

TRIVIAL_CALLS = m.Call(func=m.Name("isinstance") | m.Name("len") | m.Name("cast"))
"""Without their argument they fail at once."""

CHECKS = m.Arg(keyword=m.Name("strict") | m.Name("encoding") | m.Name("device"))
"""Arguments that change no result: they check something, or the tests have but one device."""

TEXTS = m.FormattedString() | m.ConcatenatedString() | m.SimpleString()


@dataclass(frozen=True)
class Site:
    """A place in a file that operators can change."""

    file: str
    """Relative to the root of the checkout."""
    line: int
    key: str
    """Names the place by its content, so that it keeps its rank when other lines change."""
    node: cst.CSTNode
    choices: tuple[cst.CSTNode, ...]
    """What the operators put in its place."""
    module: cst.Module

    def rank(self, seed: int) -> int:
        """Return a number that is uniformly distributed over sites."""
        digest = hashlib.sha256(f"{seed} {self.file} {self.key}".encode()).digest()
        return int.from_bytes(digest[:8], "little")


@dataclass(frozen=True)
class Mutant:
    """A file with one mistake."""

    file: str
    line: int
    code: str
    """The whole file."""
    removed: tuple[str, ...]
    added: tuple[str, ...]
    """The lines that differ, without their indentation."""

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    def diff(self) -> str:
        lines = [self.place]
        lines += [f"- {line}" for line in self.removed]
        lines += [f"+ {line}" for line in self.added]
        return "\n".join(lines)


def find_sites(root: Path, files: Iterable[str]) -> list[Site]:
    """Return every place of files, relative to the root, that an operator can change."""
    sites: list[Site] = []
    for file in files:
        sites += sites_of(file, (root / file).read_text("utf-8"))
    return sites


def draw(sites: Iterable[Site], number: int, seed: int) -> list[Mutant]:
    """Return mutants at so many places drawn from all, one at each.

    Those of a smaller number are the first of a larger one, and an edit of the code keeps the
    others: so the part that a run had time for is a fair sample, too.
    """
    ranked = sorted(sites, key=lambda site: site.rank(seed))
    return [mutant_at(site, seed) for site in ranked[:number]]


def mutant_at(site: Site, seed: int) -> Mutant:
    choice = site.choices[site.rank(seed) % len(site.choices)]
    changed = site.module.deep_replace(site.node, choice)
    assert isinstance(changed, cst.Module)

    lines = difflib.ndiff(site.module.code.splitlines(), changed.code.splitlines())
    marks = [(line[:2], line[2:].strip()) for line in lines]
    removed = tuple(text for mark, text in marks if mark == "- ")
    added = tuple(text for mark, text in marks if mark == "+ ")
    return Mutant(site.file, site.line, changed.code, removed, added)


def sites_of(file: str, code: str) -> list[Site]:
    wrapper = MetadataWrapper(cst.parse_module(code))
    finder = _Finder(file, wrapper.module)
    wrapper.visit(finder)
    return finder.sites


class _Finder(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, file: str, module: cst.Module) -> None:
        super().__init__()
        self.file = file
        self.module = module
        self.lines = module.code.splitlines()
        self.sites: list[Site] = []
        self.seen: Counter[str] = Counter()

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, UNSEEN) or is_text(node) or m.matches(node, TRIVIAL_CALLS | CHECKS):
            return False

        choices = tuple(self._choices(node))
        if choices:
            line = self.get_metadata(PositionProvider, node).start.line
            key = f"{self.lines[line - 1].strip()} {self.module.code_for_node(node)}"
            self.seen[key] += 1
            key = f"{key} {self.seen[key]}"
            self.sites.append(Site(self.file, line, key, node, choices, self.module))
        return True

    def _choices(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        operators = [operator for kind, operator in OPERATORS if isinstance(node, kind)]
        changes = [changed for operator in operators for changed in operator(node)]
        if changes:
            spared = self._spared(node)
            yield from (changed for changed in changes if self._spared(changed) == spared)

    def _spared(self, node: cst.CSTNode) -> list[str]:
        """Return the code of what no mutant changes: texts for people, and CHECKS."""
        found = [part for part in m.findall(node, TEXTS) if is_text(part)]
        found += m.findall(node, CHECKS)
        return sorted(self.module.code_for_node(part) for part in found)


def is_text(node: cst.CSTNode) -> bool:
    """Return whether it is a text for people, or a docstring: not a key, a name or a path."""
    if isinstance(node, cst.FormattedString | cst.ConcatenatedString):
        return True
    return isinstance(node, cst.SimpleString) and (" " in node.value or '"""' in node.value)
