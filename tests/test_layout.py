"""Imports go down only, and each framework has one home."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "momentum_gpt"

LEVELS = [
    {"core", "ops"},
    {"models", "data"},
    {"tracking", "training", "evaluation", "comparison", "launching", "analysis"},
]
"""Folders and files of the package, from the bottom up; everything else is a command."""

WITHIN_A_LEVEL = {
    ("training", "tracking"),
    ("training", "evaluation"),
    ("comparison", "evaluation"),
    ("analysis", "evaluation"),
    ("analysis", "comparison"),
}
"""Pairs (importer, imported) on one level; commands may import one another."""

HOMES = {
    "deepspeed": {"src/momentum_gpt/training/engine.py"},
    "wandb": {"src/momentum_gpt/tracking/"},
    "wandb_workspaces": {"src/momentum_gpt/tracking/workspace.py"},
    "hydra": {"src/momentum_gpt/cli/"},
    "submitit": {"src/momentum_gpt/cli/launchers.py"},
    "aiohttp": {"src/momentum_gpt/comparison/report/server.py"},
    "rich": {"src/momentum_gpt/core/terminal.py"},
    "lm_eval": {
        "src/momentum_gpt/evaluation/few_shot/lm_eval_model.py",
        "src/momentum_gpt/bench/evaluation.py",
        "src/momentum_gpt/harness.py",
    },
    "datasets": {
        "data_prep/",
        "src/momentum_gpt/data/texts.py",
        "src/momentum_gpt/evaluation/few_shot/tasks.py",
    },
    "datatrove": {"data_prep/"},
    "transformers": {
        "src/momentum_gpt/models/hf/",
        "src/momentum_gpt/bench/hf_trainer.py",
    },
}
"""Framework -> the files, or folders, that may import it."""


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def level_of(part: str) -> int:
    found = [number for number, parts in enumerate(LEVELS) if part in parts]
    return found[0] if found else len(LEVELS)


def part_of(path: Path) -> str:
    """Return the folder of the package that a file is in, or its own name if it is at the root."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


PARTS = {part_of(path) for path in PACKAGE.rglob("*.py")}


def parts_imported(path: Path) -> set[str]:
    names = [name.split(".") for name in imports(path) if name.startswith("momentum_gpt.")]
    return {name[1] for name in names} & PARTS


def test_imports_go_down_only() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        part = part_of(path)
        for other in parts_imported(path) - {part}:
            below = level_of(other) < level_of(part) or level_of(part) == len(LEVELS)
            if not below and (part, other) not in WITHIN_A_LEVEL:
                wrong.append(f"{path.relative_to(ROOT)} imports {other}")
    assert not wrong


def test_the_package_never_imports_the_data_preparation() -> None:
    importing = [path for path in PACKAGE.rglob("*.py") if any_of("data_prep", imports(path))]
    assert not importing


def any_of(framework: str, names: set[str]) -> bool:
    return any(name.split(".")[0] == framework for name in names)


def test_each_framework_has_one_home() -> None:
    for folder in (PACKAGE, ROOT / "data_prep"):
        for path in folder.rglob("*.py"):
            name = str(path.relative_to(ROOT))
            for framework, homes in HOMES.items():
                at_home = any(name.startswith(home) for home in homes)
                away = any_of(framework, imports(path)) and not at_home
                assert not away, f"{name} imports {framework}"


def test_a_worker_never_imports_hydra() -> None:
    """Ranks that composed their own config could disagree on it."""
    seen: set[str] = set()
    waiting = {"worker"}
    while waiting:
        part = waiting.pop()
        seen.add(part)
        for path in [PACKAGE / f"{part}.py", *(PACKAGE / part).rglob("*.py")]:
            if path.is_file():
                waiting |= parts_imported(path) - seen
    assert "cli" not in seen


def test_runs_are_compared_without_torch() -> None:
    """Importing torch takes longer than comparing two runs."""
    code = "import sys, momentum_gpt.compare, momentum_gpt.comparison.compare; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "momentum_gpt.comparison.report" in modules
    assert not {"torch", "deepspeed", "wandb"} & set(modules)
