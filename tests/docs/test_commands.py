"""Every command and every piece of Python that the documentation shows works, run small.

The commands run in one folder, in the order of the pages, each in a child of one server process:
the heavy imports happen once there, and nothing that a command changes outlives it. The children
are not forks of this process, where other tests have left threads and locks behind.
"""

from __future__ import annotations

import importlib
import io
import itertools
import json
import multiprocessing
import os
import re
import shutil
import sys
import tomllib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, blocks, commands, text_of

pytestmark = pytest.mark.slow

TRAIN_SMALL = [
    "model.n_layers=2",
    "model.n_heads=2",
    "model.d_model=32",
    "training.max_steps=4",
    "training.tokens_per_step=512",
    "training.max_tokens_per_forward=512",
    "training.log_every=2",
    "optim.warmup_steps=2",
    "evaluation.tokens=512",
    "evaluation.induction_sequences=1",
]

WITH_DASHBOARD = "name=b"
"""The run that keeps its offline W&B run; the others have none, which saves a second each."""

SMALL = {
    "train": TRAIN_SMALL,
    "prepare": ["tokenizer.vocab_size=400", "executor.workers=1", "validation_fraction=0.25"],
    "evaluate": [
        "evaluation.tokens=512",
        "evaluation.induction_sequences=1",
        "evaluation.icl.k=[0,1]",
        "evaluation.icl.seeds=1",
    ],
    "generate": ["max_new_tokens=5"],
    "check-attention": ["compiler=aot_eager", "repeats=0"],
    "recall": [
        "attentions=[vanilla]",
        "positions=[rotary]",
        "seeds=1",
        "overrides=['training.max_steps=2','training.eval_every=0','evaluation.tokens=64']",
    ],
    "compare": [],
    "doctor": [],
    "plan": [],
    "power": ["differences=[0.01]"],
    "sweep": [
        "rates=[]",
        "decays=[0.5]",
        "overrides=[" + ",".join(f"'{option}'" for option in TRAIN_SMALL) + "]",
    ],
    "export": [],
    "verify": [],
    "--version": [],
}
"""What is added to a command that runs, by its verb: later options replace earlier ones."""

COMPOSED_ONLY = (
    r"experiment=dai2023_350m",  # needs GPUs
    r"/models/",  # a model that is not here
    r"corpus=(fineweb_edu|hub)",  # needs a network
    r"executor=(slurm|ray)",  # needs a cluster
    r"curate\.filters=",  # needs the extra `curation`
    r"Salesforce/wikitext",  # needs a network
    r"(momentum_gpt\.bench\.|bench_tokenize)",  # takes minutes
    r"(momentum-gpt |momentum_gpt\.)(analyze|intervene)",  # runs of tests of their own
    r"runs/(paper|icl_control)_",  # runs that were only composed
    r"name=icl_",  # takes an hour
    r"control/train\.jsonl",  # takes minutes
)
"""Commands whose options are composed and checked, and that do not run."""

ELSEWHERE = (
    r"source \.venv/bin/activate$",
    r"pip list$",
    r"wandb (login|sync (--include-online )?[\w/.-]+)$",
    r"lm_eval --model hf ",
    r"(sbatch|srun|launch/hosts\.sh) ",
    r"momentum-gpt lm-eval --model momentum_gpt ",
    r"\.venv/bin/python -m pytest tests/ops$",
    r"python docs/((dual_form|intervention|icl)_)?figures\.py$",
    r"python docs/icl_control\.py control$",
    r"python -c import torch; ",
)
"""Commands of other programs, and of ours that other tests run."""

REPLACED = {
    "corpus=stdlib": "corpus=text corpus.paths=[novels]",  # 12 MB would take ten seconds
    "kind: stdlib": "kind: text, paths: notes/",
    "step_00000320": "step_00000004",
    "average=3": "average=1",  # four steps have one evaluation
    "launch.nproc_per_node=8": "launch.nproc_per_node=1",  # two sequences for two hosts
}
"""What the small runs have in the place of what a page shows."""


IMPORTED_ONCE = (
    "data_prep.prepare",
    "deepspeed",
    "momentum_gpt.worker",
    "torch._inductor.compile_fx",  # DeepSpeed's optimizers import it: over a second
)
"""Modules that the parent of all children imports before it forks, so that no child has to."""

SECONDS = 60
"""A command that runs longer than this hangs."""

CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload([*IMPORTED_ONCE, __name__])


@dataclass(frozen=True)
class Result:
    code: int
    output: str


@dataclass(frozen=True)
class Program:
    """What a child process runs: a module's `main`, or a piece of Python."""

    words: list[str]
    code: str = ""
    standard_input: str = ""

    def run(self) -> None:
        if self.code:
            exec(compile(self.code, self.words[0], "exec"), {})
            return
        if self.words[0] == "momentum-gpt":
            module, arguments = "momentum_gpt.__main__", self.words[1:]
        else:
            assert self.words[:2] == ["python", "-m"]
            module, arguments = self.words[2], self.words[3:]
        sys.argv = [self.words[0], *arguments]
        importlib.import_module(module).main()


def child(program: Program, output: Path) -> None:
    """Run the program in this process, with everything that it prints in the file `output`."""
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w")
    sys.stdin = io.TextIOWrapper(io.BytesIO(program.standard_input.encode()))
    try:
        program.run()
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        raise SystemExit(1) from None
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def call(program: Program) -> Result:
    """Run the program in a child of its own; return its exit code and what it printed."""
    output = Path("output.log").resolve()
    process = CHILDREN.Process(target=child, args=(program, output))
    process.start()
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        return Result(-1, f"{output.read_text(errors='replace')}\nstill running after {SECONDS} s")
    return Result(process.exitcode, output.read_text(errors="replace"))


class Checker:
    """Checks one command after another; what is wrong is added to `problems`."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.command = ""

    def check(self, page: str, words: list[str]) -> None:
        """Check a command by the first rule that fits."""
        self.command = f"{page}: {' '.join(words)}"
        shown = " ".join(words)
        if words[0] == "make":
            self.make(words[1])
        elif words[:2] == ["pip", "install"]:
            self.pip(words[2])
        elif any(re.match(pattern, shown) for pattern in ELSEWHERE):
            pass
        elif words[0] == "launch/local.sh":
            self.launch(words)
        elif any(re.search(pattern, shown) for pattern in COMPOSED_ONLY):
            self.compose(words)
        elif words[0] == "echo" and words[2] == "|":
            self.run(words[3:], standard_input=words[1])
        elif words[0] == "momentum-gpt" and words[1] in SMALL:
            self.run(words)
        else:
            self.unknown()

    def python(self, page: str, program: str) -> None:
        """Run a block of Python."""
        self.command = f"{page}: {program.splitlines()[0]} ..."
        self.succeeds(call(Program([page], code=program)))

    def unknown(self) -> None:
        self.problems.append(f"{self.command}: no rule covers this command")

    def expect(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(f"{self.command}: {problem}")

    def succeeds(self, result: Result) -> None:
        last = "\n".join(result.output.splitlines()[-15:])
        self.expect(result.code == 0, f"exit code {result.code}\n{last}")

    def make(self, target: str) -> None:
        makefile = (ROOT / "Makefile").read_text()
        self.expect(f"\n{target}:" in makefile, "there is no such target")

    def pip(self, requirement: str) -> None:
        """Check that an extra exists; nothing is installed."""
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for extra in re.findall(r"\[(\w+)\]", requirement):
            self.expect(extra in extras["optional-dependencies"], "there is no such extra")

    def launch(self, words: list[str]) -> None:
        """Check that the script can be run, and that its options are those of `train`."""
        script = ROOT / words[0]
        self.expect(os.access(script, os.X_OK), "the script cannot be run")
        ranks = f"launch.nproc_per_node={int(words[1])}"
        self.compose(["momentum-gpt", "train", ranks, *words[2:]])

    def compose(self, words: list[str]) -> None:
        self.succeeds(call(Program([*words, "--cfg", "job"])))

    def run(self, words: list[str], standard_input: str = "") -> None:
        is_planned = any(word.startswith("plan=") for word in words)  # nothing is trained
        small = [] if is_planned else list(SMALL[words[1]])
        if words[1] == "train" and WITH_DASHBOARD not in words:
            small.append("tracking.wandb=disabled")
        for job in sweep(replaced(words)):
            self.succeeds(call(Program([*job, *small], standard_input=standard_input)))


def replaced(words: list[str]) -> list[str]:
    """Return the words with the replacements for a small run."""
    found = []
    for word in words:
        if word in REPLACED:
            found += REPLACED[word].split(" ")
            continue
        for shown, small in REPLACED.items():
            word = word.replace(shown, small)
        found.append(word)
    return found


def sweep(words: list[str]) -> Iterator[list[str]]:
    """Yield the jobs of a `-m` command, one for each combination of values; else the command."""
    if "-m" not in words[:3]:
        yield words
        return
    choices = []
    for word in words:
        if word == "-m":
            continue
        key, equals, values = word.partition("=")
        choices.append([key + equals + value for value in values.split(",")])
    for job in itertools.product(*choices):
        yield list(job)


def write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_inputs(folder: Path, texts: Path) -> None:
    """Write what a user would have: text, few-shot data, and the YAML files that the pages show."""
    shutil.copytree(texts, folder / "novels")
    (folder / "notes").mkdir()
    for page in PAGES:
        (folder / "notes" / Path(page).name).write_text(text_of(page))
    (folder / "novel.txt").write_text("Once upon a time there was a model. " * 40)
    (folder / "opening.txt").write_text("Once upon a time\n")
    write_lines(folder / "more.jsonl", [{"text": f"Number {n} of the texts."} for n in range(9)])

    rows = [{"text": f"Text {n}", "sentence": f"Text {n}", "label": n % 2} for n in range(16)]
    for name, split in (("icl/sst2", "validation"), ("icl/agnews", "test"), ("my_folder", "test")):
        write_lines(folder / name / "train.jsonl", rows[:8])
        write_lines(folder / name / f"{split}.jsonl", rows[8:])

    for block in blocks():
        if block.language == "yaml":
            name, _, content = block.content.partition("\n")
            (folder / name.removeprefix("# ")).write_text(content)


@pytest.fixture(scope="module")
def folder(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder in which all commands have run, and what was wrong with them."""
    path = tmp_path_factory.mktemp("docs")
    write_inputs(path, text_folder)
    checker = Checker()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for block in blocks():
            if block.language == "bash":
                for words in commands(block):
                    checker.check(block.page, words)
            if block.language == "python":
                checker.python(block.page, block.content)
    return path, checker.problems


def test_every_command_works(folder: tuple[Path, list[str]]) -> None:
    _, problems = folder
    assert not problems, "\n\n".join(problems)


def documented(page: str) -> list[str]:
    """Return the names in the first column of the tables of a reference page."""
    names = []
    for line in text_of(page).splitlines():
        if line.startswith("| `"):
            names += re.findall(r"`([^`]+)`", line.split(" | ")[0])
    return names


def pattern_of(name: str, placeholders: dict[str, str]) -> re.Pattern[str]:
    """Return the regular expression of a name with placeholders in capitals.

    A name that ends with a slash is a folder and means everything in it.
    """
    parts = re.split(r"([A-Z]+)", name + ("*" if name.endswith("/") else ""))
    expressions = [placeholders.get(part, re.escape(part)) for part in parts]
    return re.compile("".join(expressions).replace(r"\*", ".+"))


NUMBERS = {"L": r"\d+", "N": r"\d+", "P": r"\d+", "K": r"\d+", "TASK": r"\w+"}
NAMES = {"STEP": r"\d{8}", "R": r"\d+", "N": r"\d{5}", "ID": r"[\w-]+"}


def test_every_metric_of_a_run_is_documented(folder: tuple[Path, list[str]]) -> None:
    path, _ = folder
    known = [pattern_of(name, NUMBERS) for name in documented("docs/reference/metrics.md")]
    files = [*path.glob("runs/*/metrics.jsonl"), *path.glob("runs/*/evaluations/*.jsonl")]
    assert {file.name for file in files} == {
        "metrics.jsonl",
        "icl.jsonl",
        "other.jsonl",
        "perplexity.jsonl",
        "samples.jsonl",
        "validation.jsonl",
    }

    unknown = set()
    for file in files:
        for line in file.read_text().splitlines():
            for key in json.loads(line):
                if not any(pattern.fullmatch(key) for pattern in known):
                    unknown.add(f"{file.name}: {key}")
    assert not unknown


STUDIES = ("recall", "sweep")
"""Folders of several runs."""


@pytest.mark.parametrize("kind", ["runs/*", "data/*", "exported/*"])
def test_every_file_that_is_left_is_documented(folder: tuple[Path, list[str]], kind: str) -> None:
    path, _ = folder
    known = [pattern_of(name, NAMES) for name in documented("docs/reference/files.md")]
    folders = [found for found in path.glob(kind) if found.is_dir() and found.name not in STUDIES]
    assert folders

    unknown = set()
    for found in folders:
        for file in found.rglob("*"):
            name = str(file.relative_to(found))
            if file.is_file() and not any(pattern.fullmatch(name) for pattern in known):
                unknown.add(name)
    assert not unknown
