"""Compare in-context learning with finetuning, with controls.

    momentum-gpt analyze 'runs=[runs/vanilla,runs/momentum]' data=DIR
    momentum-gpt analyze 'runs=[runs/a]' data=DIR checkpoints=all 'tasks=[sst2]'
    momentum-gpt analyze 'runs=[/models/gpt2]' data=DIR protocol=dai2022
    momentum-gpt analyze 'runs=[runs/a]' 'finetuning=[backprop,momentum]'

Each task is answered without demonstrations, with them in the context (ICL),
and after finetuning keys and values on them, as in Dai et al. (arXiv
2212.10559). How alike the last two are is measured in accuracy, attention
outputs and attention maps. Each number is compared with its nulls: mismatched
queries, noise, shuffled and wrong labels, and a model that was never trained.

With several ways of finetuning, a second table tells which of them ICL is more
like, and a third one whether the models differ in that.

The first table shows the hardest null of each number. Every result is kept in
the output folder: the same command resumes where it was stopped, and the ranks
of torchrun or srun share the work. There are also results.csv and results.tex,
with every null, examples.csv, query by query, ways.csv with the other tables, a
page with figures by layer for each model, and with checkpoints=all one over
training. What is found of a run also goes into its folder `evaluations/`, for
`compare`, and into its W&B run, under `analysis/`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import active_children, get_context
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from momentum_gpt.cli import Command
from momentum_gpt.core import scheduler
from momentum_gpt.core.config import read_config, require
from momentum_gpt.core.errors import MachineError, UserError

if TYPE_CHECKING:
    from momentum_gpt.analysis.protocols import Measures
    from momentum_gpt.analysis.tables import Row
    from momentum_gpt.analysis.units import Measured, Method, Unit

    ByWay = dict[str, list[Measured]]
    """Way of finetuning -> what was measured, draw by draw."""

TASKS = ["sst2", "sst5", "mr", "subj", "agnews", "cb"]
"""The six tasks of the paper."""

WAYS = ("backprop", "layer_causal", "label", "momentum")
"""Ways of finetuning."""


@dataclass
class AnalyzeConfig:
    runs: list[str] = field(default_factory=list)
    """Folders of runs; or of models: ours, an export, a GPT-2 or XGLM of `transformers`."""
    checkpoints: str = "latest"
    """Checkpoints of the runs: latest | all (those that are still on disk)."""
    tasks: list[str] = field(default_factory=lambda: list(TASKS))
    """Names of tasks in conf/icl/, or paths of .yaml files."""
    data: str | None = None
    """Folder that holds TASK/SPLIT.jsonl. null: the Hugging Face hub."""
    k: int = 32
    """Demonstrations; as many as fit the context are used."""
    draws: int = 5
    """How many times the demonstrations are drawn. Fewer than 5 give wide intervals."""
    queries: int = 200
    """Queries of each task, at most; the same ones for every model. The paper has up to 2,000."""
    protocol: str = "default"
    """default | dai2022 (as in the paper, with the learning rate chosen on the queries)."""
    variant: str = "code"
    """code | paper: what to follow in dai2022 where they differ."""
    finetuning: list[str] = field(default_factory=lambda: ["backprop"])
    """One or more ways, compared with the first: backprop (as in the paper) | layer_causal |
    label (the loss of the answers alone) | momentum (SGD with momentum 0.5)."""
    lr: float | None = None
    """Learning rate of the finetuning. null: of 8 (in dai2022: 36) the one with the best accuracy,
    on other examples (in dai2022: on the queries), for each way by itself."""
    orders: int = 4
    """Other orders of the demonstrations, for the sensitivity to order. 0: none."""
    output: str = "analysis"
    """Folder of the results."""
    jobs: int = 1
    """Processes that measure at the same time, dealt out to the GPUs if there are any."""

    def __post_init__(self) -> None:
        require(bool(self.runs), "runs", self.runs, "at least one run")
        require(bool(self.tasks), "tasks", self.tasks, "at least one task")
        for name, choices in (
            ("checkpoints", ("latest", "all")),
            ("protocol", ("default", "dai2022")),
            ("variant", ("code", "paper")),
        ):
            value = getattr(self, name)
            require(value in choices, name, value, f"one of {', '.join(choices)}")
        are_ways = bool(self.finetuning) and set(self.finetuning) <= set(WAYS)
        rule = f"a list of {', '.join(WAYS)}, at least one and each once"
        is_once = len(set(self.finetuning)) == len(self.finetuning)
        require(are_ways and is_once, "finetuning", self.finetuning, rule)
        names = [Path(task).stem for task in self.tasks]
        require(len(set(names)) == len(names), "tasks", self.tasks, "tasks with different names")
        for name in ("k", "draws", "jobs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.queries >= 2, "queries", self.queries, "at least 2")
        require(self.orders >= 0, "orders", self.orders, "at least 0")


KILLED = (
    "a process that measured was killed, most likely as the memory was full: use fewer jobs or "
    "queries; the same command goes on where this one ended"
)


class Subject(NamedTuple):
    """A model that is analysed."""

    name: str
    """The run's attention variant, or the folder's name."""
    tokens: int | None
    """What the checkpoint was trained on; None for a model of no run."""
    folder: Path


def analyze(config: AnalyzeConfig) -> None:
    """Measure all pieces, print the tables, and write the files."""
    subjects = subjects_of(config)
    methods = methods_of(config)
    folder = Path(config.output)
    rows: list[Row] = []
    units = {
        (subject, task): units_of(subject, task, methods)
        for subject in subjects
        for task in config.tasks
    }
    rank, n_ranks = scheduler.ranks()
    pieces = [unit for of_key in units.values() for unit in of_key]
    answers = measure_all(dealt(pieces, rank, n_ranks), folder, config.jobs)
    if rank > 0:
        print(f"rank {rank} has measured its share of the pieces; rank 0 writes the results")
        return
    found = by_task(units, answers)
    for (subject, task), by_way in found.items():
        rows += rows_of_task(subject, task, by_way)
    if not rows:
        raise UserError("none of the tasks can be analysed with these models: see the lines above")
    write_results(config, rows + over_tasks(found), found, folder)
    if len(methods) > 1:
        rows += write_ways(config, found, folder)
    keep_in_runs(units, found, rows)


def subjects_of(config: AnalyzeConfig) -> list[Subject]:
    """Return the models, in the order of the runs and of their checkpoints."""
    from momentum_gpt.core.manifest import read_checkpoint_manifest
    from momentum_gpt.evaluation.checkpoints import model_folders

    found = []
    for run in map(Path, config.runs):
        if not (run / "config.yaml").is_file():
            found.append(Subject(run.name, None, model_folders(run, "latest")[0]))
            continue
        name = read_config(run / "config.yaml").variant
        for model in model_folders(run, config.checkpoints):
            found.append(Subject(name, read_checkpoint_manifest(model.parent).tokens, model))
    names = [(subject.name, subject.tokens) for subject in found]
    if len(set(names)) < len(names):
        raise UserError(
            "runs: two of them have the same variant and the same tokens, and a table could not "
            "tell them apart: analyse one seed of each variant, or each by itself"
        )
    return found


def methods_of(config: AnalyzeConfig) -> list[Method]:
    """Return how pieces are measured, with each way of finetuning."""
    from momentum_gpt.analysis.units import Method

    return [
        Method(
            data=config.data,
            k=config.k,
            draws=config.draws,
            queries=config.queries,
            protocol=config.protocol,
            variant=config.variant,
            way=way,
            lr=config.lr,
            orders=config.orders,
        )
        for way in config.finetuning
    ]


def units_of(subject: Subject, task: str, methods: list[Method]) -> list[Unit]:
    """Return the pieces of one model and task: one for each way and draw of the demonstrations."""
    from momentum_gpt.analysis.units import Unit

    found = []
    for method in methods:
        found += [Unit(subject.folder, task, draw, method) for draw in range(method.draws)]
    return found


def dealt(pieces: list[Unit], rank: int, n_ranks: int) -> list[Unit]:
    """Return the pieces that a rank measures, in order.

    The first rank goes on with those of the others, and finds most of them measured. It takes them
    from the end, as the others begin at the start.
    """
    own = pieces[rank::n_ranks]
    if rank > 0:
        return own
    return own + [piece for number, piece in enumerate(pieces) if number % n_ranks][::-1]


def measure_all(pieces: list[Unit], folder: Path, jobs: int) -> dict[Unit, Path | str]:
    """Measure pieces, and return for each the file with its results, or why there is none.

    Args:
        pieces: what to measure, in order.
        folder: where results are kept.
        jobs: processes.

    Raises:
        MachineError: a process was killed, or the results cannot be written.
    """
    from momentum_gpt.core.terminal import progress_bar

    found: dict[Unit, Path | str] = {}
    try:
        with processes(jobs) as pool, progress_bar("pieces", len(pieces)) as advance:
            # Not by `map`: after Ctrl-C it cancels what waits, which the pool cannot then end.
            answers = {piece: pool.submit(measured_or_why_not, piece, folder) for piece in pieces}
            for piece, answer in answers.items():
                found[piece] = answer.result()
                advance(1)
    except BrokenProcessPool:
        raise MachineError(KILLED) from None
    return found


@contextmanager
def processes(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Yield processes that measure. After an error or Ctrl-C they end at once."""
    # Fresh ones: a fork of a process that has used torch's threads can hang.
    context = get_context("spawn")
    started = context.Value("i", processes_before(jobs))
    pool = ProcessPoolExecutor(jobs, context, start_measuring, (started,))
    try:
        yield pool
    except BaseException:
        for process in active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown()


def by_task(
    units: dict[tuple[Subject, str], list[Unit]], answers: dict[Unit, Path | str]
) -> dict[tuple[Subject, str], ByWay]:
    """Return what all pieces give; a task that cannot be analysed is left out, and named.

    Args:
        units: the pieces of each model and task.
        answers: of `measure_all`.
    """
    from momentum_gpt.analysis.units import read

    found: dict[tuple[Subject, str], ByWay] = {}
    for (subject, path), of_key in units.items():
        by_way: ByWay = {}
        problems: list[str] = []
        for unit in of_key:
            answer = answers[unit]
            if isinstance(answer, str):
                problems.append(answer)
            else:
                by_way.setdefault(unit.method.way, []).append(read(answer))
        if problems:
            print(f"left out: {subject.name}: {problems[0]}", flush=True)
        else:
            found[subject, Path(path).stem] = by_way
    return found


def measured_or_why_not(piece: Unit, folder: Path) -> Path | str:
    """Return the file with what a piece gives, or why it cannot be measured.

    The tensors themselves would each keep a file open in the process that receives them.
    """
    from momentum_gpt.analysis.units import measured

    try:
        return measured(piece, folder)
    except UserError as error:
        return str(error)


def processes_before(jobs: int) -> int:
    """Return how many processes the ranks before this one start on this host, `jobs` each."""
    return int(os.environ.get("LOCAL_RANK", 0)) * jobs


def start_measuring(started: Synchronized[int]) -> None:
    """Prepare a process of the pool: leave Ctrl-C to the command, and take the next GPU.

    Args:
        started: counts the processes of this host that have started, rank after rank.
    """
    from momentum_gpt.core import distributed

    # A terminal sends Ctrl-C to every process: the command ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with started.get_lock():
        number = started.value
        started.value += 1
    distributed.use_gpu(number)


def rows_of_task(subject: Subject, task: str, by_way: ByWay) -> list[Row]:
    """Return the rows of one model and task."""
    from momentum_gpt.analysis.tables import order_rows, rows_of
    from momentum_gpt.analysis.ways import rows_side_by_side

    of_ways = {}
    for way, draws in by_way.items():
        rows = rows_of([one.measures for one in draws], task, subject.name, subject.tokens)
        facts = [one.facts for one in draws]
        of_ways[way] = rows + order_rows(facts, task, subject.name, subject.tokens)
    return rows_side_by_side(of_ways)


def over_tasks(found: dict[tuple[Subject, str], ByWay]) -> list[Row]:
    """Return the mean of each model over the tasks that all models have, if there are several."""
    from momentum_gpt.analysis.tables import rows_over_tasks
    from momentum_gpt.analysis.ways import rows_side_by_side

    by_subject: dict[Subject, dict[str, ByWay]] = {}
    for (subject, task), by_way in found.items():
        by_subject.setdefault(subject, {})[task] = by_way
    every_task = dict.fromkeys(task for _, task in found)  # each once, in order
    of_all = set.intersection(*map(set, by_subject.values()))
    shared = [task for task in every_task if task in of_all]
    if len(shared) < 2:
        return []
    if len(shared) < len(every_task):
        print(f"all tasks: means over those that every model has: {', '.join(shared)}", flush=True)

    rows = []
    for subject, by_task in by_subject.items():
        tasks = [by_task[task] for task in shared]
        of_ways = {}
        for way in tasks[0]:
            measures = [[one.measures for one in by_way[way]] for by_way in tasks]
            of_ways[way] = rows_over_tasks(measures, subject.name, subject.tokens)
        rows += rows_side_by_side(of_ways)
    return rows


def write_results(
    config: AnalyzeConfig,
    rows: list[Row],
    found: dict[tuple[Subject, str], ByWay],
    folder: Path,
) -> None:
    """Print the table of all measures and write the files."""
    from momentum_gpt.analysis.page import layers_page, tokens_page
    from momentum_gpt.analysis.tables import (
        csv_text,
        hardest,
        notes_on,
        results_csv,
        results_latex,
        results_table,
        with_adjusted_verdicts,
    )
    from momentum_gpt.core.files import write_text

    ways = ", ".join(config.finetuning)
    title = f"ICL beside finetuning ({ways}), protocol {config.protocol}"
    rows = with_adjusted_verdicts(rows)
    table = results_table(hardest(rows), f"{title}, each with its hardest null")
    print(table.as_text(), *notes_on(rows), sep="\n")
    for subject, label, draws in by_label(found):
        chosen = sorted({one.facts["lr"] for one in draws})
        rates = ", ".join(f"{lr:g}" for lr in chosen)
        shown = draws[0].facts["k"]
        line = f"{subject.name}, {label}: {shown} demonstrations, learning rate(s) {rates}"
        if n_diverged := sum(one.facts["diverged"] for one in draws):
            line += f"; the finetuning diverged in {n_diverged} of {len(draws)} draws"
        print(line)

    files = {"results.csv": results_csv(rows), "results.tex": results_latex(rows, title)}
    files["examples.csv"] = csv_text(examples_of(found))
    by_subject: dict[Subject, dict[str, list[Measures]]] = {}
    for subject, label, draws in by_label(found):
        by_subject.setdefault(subject, {})[label] = [one.measures for one in draws]
    for number, (subject, measures) in enumerate(by_subject.items()):
        own = [row for row in rows if (row.variant, row.tokens) == subject[:2]]
        files[f"layers-{number}.html"] = layers_page(subject.name, own, measures, subject.name)
    if config.checkpoints == "all":
        files["training.html"] = tokens_page(title, rows)
    for name, content in files.items():
        write_text(folder / name, content)
        print(f"written: {folder / name}")


def examples_of(found: dict[tuple[Subject, str], ByWay]) -> list[dict[str, Any]]:
    """Return a record for each query of each draw, model, task and way of finetuning."""
    from momentum_gpt.analysis.by_example import records_of

    examples: list[dict[str, Any]] = []
    for (subject, task), by_way in found.items():
        for way, draws in by_way.items():
            examples += records_of(draws, task, way, subject.name, subject.tokens)
    return examples


def by_label(
    found: dict[tuple[Subject, str], ByWay],
) -> Iterator[tuple[Subject, str, list[Measured]]]:
    """Yield the draws of each model, task and way; the label tells the way if there are several."""
    for (subject, task), by_way in found.items():
        for way, draws in by_way.items():
            yield subject, f"{task}, {way}" if len(by_way) > 1 else task, draws


def write_ways(
    config: AnalyzeConfig, found: dict[tuple[Subject, str], ByWay], folder: Path
) -> list[Row]:
    """Print which way of finetuning ICL is more like, and write ways.csv.

    Returns:
        What each model gains, as rows of the analysis; p-values are not adjusted.
    """
    from momentum_gpt.analysis.ways import (
        ADJUSTED,
        between_variants,
        gains_csv,
        gains_of,
        gains_table,
        note_on_rates,
        row_of_gain,
        with_adjusted_gains,
    )
    from momentum_gpt.core.files import write_text

    gains = []
    for (subject, task), by_way in found.items():
        gains += gains_of(by_way, task, subject.name, subject.tokens)
    rows = [row_of_gain(gain) for gain in gains]
    of_variants = with_adjusted_gains(between_variants(gains))
    gains = with_adjusted_gains(gains)

    print("", gains_table(gains, "Which way of finetuning ICL is more like").as_text(), sep="\n")
    if of_variants:
        table = gains_table(of_variants, "Whether the models differ in that")
        print("", table.as_text(), sep="\n")
    print(ADJUSTED, note_on_rates(list(found.values()), config.lr), sep="\n")
    write_text(folder / "ways.csv", gains_csv(gains + of_variants))
    print(f"written: {folder / 'ways.csv'}")
    return rows


def keep_in_runs(
    units: dict[tuple[Subject, str], list[Unit]],
    found: dict[tuple[Subject, str], ByWay],
    rows: list[Row],
) -> None:
    """Leave the rows of each run in its folder, and show them in its W&B run.

    A run that cannot be written is named; the results are in the output folder all the same.
    """
    from momentum_gpt.analysis.kept import keep_lines, lines_of
    from momentum_gpt.evaluate import config_of
    from momentum_gpt.tracking import show_evaluated

    lines = lines_of(rows)
    problems: dict[Path, str] = {}
    for (subject, path), of_key in units.items():
        by_way = found.get((subject, Path(path).stem))
        if by_way is None or subject.tokens is None:
            continue
        key = (subject.name, subject.tokens, Path(path).stem)
        own = [one for one in lines if (one["variant"], one["tokens"], one["task"]) == key]
        checkpoint = subject.folder.parent
        run_dir = checkpoint.parents[1]
        try:
            for method in dict.fromkeys(unit.method for unit in of_key):
                keep_lines(checkpoint, path, method, by_way[method.way][0].facts["k"], own)
            problems.setdefault(run_dir, "")
        except MachineError as error:
            problems[run_dir] = f"its results are not kept there ({error})"

    for run_dir, problem in problems.items():
        message = problem or show_evaluated(config_of(run_dir), "the same command")
        if message:
            print(f"{run_dir}: {message}")


main = Command(analyze, AnalyzeConfig, "analyze")


if __name__ == "__main__":
    main()
