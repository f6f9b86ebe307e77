"""The pages of the documentation, and what stands in them: blocks, commands, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PAGES = [
    "README.md",
    "docs/index.md",
    "docs/momentum-attention.md",
    "docs/dual-form.md",
    "docs/data.md",
    "docs/training.md",
    "docs/cluster.md",
    "docs/scale.md",
    "docs/choosing-a-decay.md",
    "docs/evaluation.md",
    "docs/few-shot-tasks.md",
    "docs/comparing.md",
    "docs/analysis.md",
    "docs/icl-results.md",
    "docs/exporting.md",
    "docs/benchmarks.md",
    "docs/reproducing-the-paper.md",
    "docs/troubleshooting.md",
    "docs/reference/metrics.md",
    "docs/reference/files.md",
    "CONTRIBUTING.md",
]
"""In the order in which their commands run: a later page uses the runs of an earlier one."""

ELSEWHERE = ["docs/writing-a-variant.md", "docs/reference/options.md"]
"""Pages whose content other tests check."""

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: `bash` and `python` are run, `yaml` is a file, `text` and `math` are not."""

    page: str
    language: str
    content: str


def text_of(page: str) -> str:
    """Return the Markdown of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks() -> Iterator[Block]:
    """Yield every fenced block, page by page."""
    for page in PAGES:
        for language, content in BLOCK.findall(text_of(page)):
            yield Block(page, language, content)


def commands(block: Block) -> list[list[str]]:
    """Return the commands of a `bash` block, each as the words that a shell makes of it."""
    for line in block.content.split("\\\n")[:-1]:
        # Between quotes a shell keeps the backslash.
        assert line.count("'") % 2 == 0, f"{block.page}: a line is continued between quotes"

    joined = block.content.replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    return [shlex.split(line) for line in lines]


def prose_of(page: str) -> str:
    """Return the Markdown of a page without its fenced blocks."""
    return BLOCK.sub("", text_of(page))


def links(page: str) -> list[str]:
    """Return the targets of links and images that do not lead to other sites."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose_of(page))
    return [target for target in found if not target.startswith(("http://", "https://"))]


def anchors(page: str) -> set[str]:
    """Return the anchors that a host such as GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    lowered = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in lowered}
