"""Imports go down only, and each framework has one home."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "momentum_gpt"

FLOORS = [
    {"errors", "config", "distributed", "ops"},
    {"models", "data"},
    {"tracking", "training", "evaluation", "comparison"},
    {"entry", "launcher", "source", "worker", "train", "evaluate", "generate", "compare", "recall", "__main__"}
    | {"check_attention", "bench_attention", "bench_icl", "harness", "export"},
]
WITHIN_A_FLOOR = {
    ("config", "errors"),
    ("training", "tracking"),
    ("comparison", "tracking"),
    ("comparison", "evaluation"),
}
"""Pairs (importer, imported) that may be on one floor; the doors may import one another."""

HOMES = {
    "deepspeed": {"src/momentum_gpt/training/engine.py"},
    "wandb": {"src/momentum_gpt/tracking.py"},
    "hydra": {"src/momentum_gpt/entry.py"},
    "plotly": {"src/momentum_gpt/comparison/report.py", "src/momentum_gpt/comparison/recall.py"},
    "datasets": {"data_prep/corpora.py", "data_prep/bench_tokenize.py"}
    | {f"src/momentum_gpt/{name}.py" for name in ("data/texts", "evaluation/tasks")},
    "datatrove": {f"data_prep/{name}.py" for name in ("executors", "steps", "prepare", "decontaminate", "bench_tokenize")},
    "transformers": {f"src/momentum_gpt/models/hf/{name}.py" for name in ("modeling_momentum_gpt", "answers")},
}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def rooms_imported(path: Path) -> set[str]:
    parts = [name.split(".") for name in imports(path) if name.startswith("momentum_gpt.")]
    return {part[1] for part in parts} & set.union(*FLOORS)


def test_imports_go_down_only() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for other in rooms_imported(path) - {room}:
            below = floor_of(other) < floor_of(room) or floor_of(room) == len(FLOORS) - 1
            if not below and (room, other) not in WITHIN_A_FLOOR:
                wrong.append(f"{path.relative_to(ROOT)} imports {other}")
    assert not wrong


def test_the_package_never_imports_the_data_preparation() -> None:
    assert not [path for path in PACKAGE.rglob("*.py") if any(name.startswith("data_prep") for name in imports(path))]


def test_each_framework_has_one_home() -> None:
    for framework, homes in HOMES.items():
        found = {
            str(path.relative_to(ROOT))
            for folder in (PACKAGE, ROOT / "data_prep")
            for path in folder.rglob("*.py")
            if any(name.split(".")[0] == framework for name in imports(path))
        }
        assert found == homes, framework


def test_a_worker_never_imports_hydra() -> None:
    """Ranks that composed their own config could disagree on it."""
    seen: set[str] = set()
    waiting = {"worker"}
    while waiting:
        room = waiting.pop()
        seen.add(room)
        for path in [PACKAGE / f"{room}.py", *(PACKAGE / room).glob("*.py")]:
            if path.is_file():
                waiting |= rooms_imported(path) - seen
    assert "entry" not in seen
