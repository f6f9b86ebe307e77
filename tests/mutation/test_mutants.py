"""Which mistakes are drawn, and what becomes of them in a small project."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("mutmut", reason="mutmut is not installed: make mutation")

from tests.mutation.mutants import Mutant, draw, mutant_at, sites_of
from tests.mutation.trials import KILLED, SURVIVED, TIMEOUT, Copy, suite_of

CODE = '''"""A module."""

from __future__ import annotations

from collections.abc import Sequence

NAMES: dict[str, int | None] = {"one": 1}


@property
def half(values: Sequence[int], names: Sequence[str]) -> int | None:
    """Return 1 + 1."""
    assert len(values) > 2
    for value, name in zip(values, names, strict=True):
        if value < 3:
            raise ValueError(f"{value + 1} is too small", "a text for people")
        open(name, encoding="utf-8", device=value)
    return values[0]
'''


def changes(code: str) -> dict[str, set[str]]:
    """Return what each line of the code can become."""
    found: dict[str, set[str]] = {}
    for site in sites_of("module.py", code):
        for seed in range(20):
            mutant = mutant_at(site, seed)
            assert len(mutant.removed) == len(mutant.added) == 1
            found.setdefault(mutant.removed[0], set()).add(mutant.added[0])
    return found


def test_only_mistakes_that_tests_could_find_are_drawn() -> None:
    """No annotation, text, docstring, assertion or check changes."""
    names = "NAMES: dict[str, int | None] = "
    loop = "for value, name in zip({}, strict=True):"
    opened = 'open({}encoding="utf-8", device=value)'
    assert changes(CODE) == {
        names + '{"one": 1}': {
            names + '{"XXoneXX": 1}',
            names + '{"ONE": 1}',
            names + '{"one": 2}',
        },
        loop.format("values, names"): {
            loop.format(arguments)
            for arguments in ("None, names", "values, None", "names", "values")
        },
        "if value < 3:": {"if value <= 3:", "if value < 4:"},
        opened.format("name, "): {opened.format("None, "), opened.format("")},
        "return values[0]": {"return values[1]"},
    }


def test_the_sample_stays_when_it_grows_and_when_other_lines_change() -> None:
    sites = sites_of("module.py", CODE)
    sample = draw(sites, 6, seed=0)
    assert draw(sites, 3, seed=0) == sample[:3]
    assert draw(sites, 6, seed=1) != sample

    changed = CODE.replace("return values[0]", "    first = 1\n    return values[first]")
    after = draw(sites_of("module.py", changed), 100, seed=0)
    content = [(mutant.removed, mutant.added) for mutant in after]
    for mutant in sample:
        assert "return" in mutant.removed[0] or (mutant.removed, mutant.added) in content


TESTS = """
from hypothesis import given, strategies as st
from momentum_gpt.data.count import count

@given(st.integers(0, 5))
def test_count(n):
    assert count(n) == n
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout with one function and one test of it."""
    root = tmp_path / "project"
    for package in ("src/momentum_gpt", "src/momentum_gpt/data", "tests/data"):
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").touch()
    (root / "src/momentum_gpt/data/count.py").write_text(counting("1", "n"))
    (root / "tests/data/test_count.py").write_text(TESTS)
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    return root


def counting(step: str, end: str) -> str:
    return f"def count(n):\n    i = 0\n    while i < {end}:\n        i += {step}\n    return i\n"


@pytest.mark.parametrize(
    ("step", "end", "outcome"),
    [("2", "n", KILLED), ("1", "n + 0", SURVIVED), ("0", "n", TIMEOUT)],
)
def test_a_mutant_is_tried_in_a_copy(project: Path, step: str, end: str, outcome: str) -> None:
    """Even an endless loop that hypothesis would try again."""
    file = "src/momentum_gpt/data/count.py"
    copy = Copy(project, project.with_name("copy"))
    mutant = Mutant(file, 1, counting(step, end), (), ())
    assert copy.try_mutant(mutant, ["tests/data"], 5) == outcome
    for root in (project, copy.folder):
        assert (root / file).read_text() == counting("1", "n")
        assert not list(root.rglob("*.original"))


def test_nothing_is_left_of_a_mutant_that_starts_processes(project: Path, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    endless = f"echo $$ > {pid}; while true; do sleep 1; done"
    code = f"import subprocess\n\ndef count(n):\n    subprocess.run([{endless!r}], shell=True)\n"
    copy = Copy(project, project.with_name("copy"))
    mutant = Mutant("src/momentum_gpt/data/count.py", 1, code, (), ())
    assert copy.try_mutant(mutant, ["tests/data"], 5) == TIMEOUT
    end = time.monotonic() + 10
    while not is_dead(int(pid.read_text())):
        assert time.monotonic() < end
        time.sleep(0.1)


def is_dead(pid: int) -> bool:
    """Whether there is no such process, or it only waits for its parent to notice its end."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_test_that_fails_without_a_mutant_ends_the_run(project: Path) -> None:
    copy = Copy(project, project.with_name("copy"))
    assert 0 < copy.slowest_test(["tests/data"], 1) < 60
    (copy.folder / "src/momentum_gpt/data/count.py").write_text(counting("2", "n"))
    with pytest.raises(SystemExit, match="fail without a mutant"):
        copy.slowest_test(["tests/data"], 1)


def test_the_tests_of_a_file_begin_with_those_that_mirror_it() -> None:
    root = Path(__file__).resolve().parents[2]
    mirrored = "tests/evaluation/few_shot/test_tasks.py"
    file = "src/momentum_gpt/evaluation/few_shot/tasks.py"
    tests = suite_of(root, file, quick=False)
    assert tests[:2] == [mirrored, "tests/evaluation"]
    assert suite_of(root, file, quick=True) == [mirrored]
    for test in tests:
        assert (root / test).exists()

    file = "src/momentum_gpt/data/no_file_mirrors_it.py"
    assert suite_of(root, file, quick=True) == ["tests/data"]
