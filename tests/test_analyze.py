"""`analyze` as a user calls it: its files, what it keeps, and what it refuses."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from momentum_gpt import analyze
from momentum_gpt.analysis.tables import Row
from momentum_gpt.analysis.units import Measured
from momentum_gpt.core import distributed
from momentum_gpt.core.files import read_json_lines
from momentum_gpt.evaluation.finding import Finding
from momentum_gpt.models import save_model
from tests.analysis.cases import small_model
from tests.comparison.report.synthetic import write_run
from tests.conftest import SMOKE, Result, command, fill, make_read_only
from tests.evaluation.few_shot.cases import write_colours, write_task
from tests.tracking.support import read_copy

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def models(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for attention in ("vanilla", "momentum"):
        model = small_model(attention)
        folder = tmp_path_factory.mktemp("models") / attention
        tokenizer = data_folder / "tokenizer.model"
        save_model(folder, model, dict(model.named_parameters()), tokenizer)
        folders[attention] = folder
    return folders


@pytest.fixture
def task(tmp_path: Path) -> str:
    return write_colours(tmp_path, [" e", " y"], n_test=8)


def test_two_models_are_analysed_and_what_was_measured_is_kept(
    models: dict[str, Path], task: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    options = [
        f"runs=[{models['vanilla']},{models['momentum']}]",
        f"tasks=[{task}]",
        "k=3",
        "draws=2",
        "lr=0.01",
        "orders=2",
        f"output={output}",
    ]
    done = command("momentum_gpt.analyze", *options)
    assert done.code == 0, done.err
    with (output / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["variant"] for row in rows} == {"vanilla", "momentum"}
    found = {(row["measure"], row["variant"]) for row in rows}
    assert ("SimAOU", "vanilla") in found
    assert ("SimAOU, momentum part", "momentum") in found
    assert ("SimAOU, momentum part", "vanilla") not in found
    assert ("order sensitivity, ICL", "momentum") in found
    nulls = {row["null"] for row in rows if row["measure"] == "SimAOU"}
    assert {"mismatched queries", "shuffled labels", "wrong labels", "untrained model"} <= nulls
    examples = [row for row in rows_in(output / "examples.csv") if row["variant"] == "momentum"]
    assert sorted({int(row["query"]) for row in examples}) == list(range(8))
    right = [int(row["right_icl"]) for row in examples]
    of_icl = ("accuracy, ICL", "momentum")
    (accuracy,) = [row for row in rows if (row["measure"], row["variant"]) == of_icl]
    assert 100 * sum(right) / len(right) == pytest.approx(float(accuracy["value"]))
    assert r"\toprule" in (output / "results.tex").read_text()
    assert "SimAOU" in (output / "layers-1.html").read_text()
    assert not (models["vanilla"] / "evaluations").exists()  # it is no run

    pieces = {path: path.stat().st_mtime_ns for path in (output / "units").iterdir()}
    assert len(pieces) == 4
    results = (output / "results.csv").read_bytes()
    again = command("momentum_gpt.analyze", *options)
    assert again.out == done.out
    assert (output / "results.csv").read_bytes() == results
    assert {path: path.stat().st_mtime_ns for path in pieces} == pieces

    rows_of_task = tmp_path / "test.jsonl"
    rows_of_task.write_text(rows_of_task.read_text().replace("of some kind", "of another kind"))
    other = Path(task).rename(tmp_path / "other.yaml")
    other.with_stem("task").write_text(other.read_text().replace("Colour:", "Its colour:"))
    command("momentum_gpt.analyze", *options, f"tasks=[{task},{other}]")
    assert len(list((output / "units").iterdir())) == 12  # other queries are other pieces
    values: dict[str, list[float]] = {}
    for row in rows_in(output / "results.csv"):
        if (row["measure"], row["variant"], row["null"]) == (
            "SimAOU",
            "momentum",
            "Gaussian noise",
        ):
            values.setdefault(row["task"], []).append(float(row["value"]))
    (first,), (second,), (mean,) = (values[name] for name in ("task", "other", "all tasks"))
    assert first != second
    assert mean == pytest.approx((first + second) / 2)


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_ways_of_finetuning_stand_side_by_side(
    models: dict[str, Path], task: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    options = [f"runs=[{models['vanilla']},{models['momentum']}]", f"tasks=[{task}]", "k=3"]
    options += ["draws=2", "lr=0.01", "orders=0", f"output={output}"]
    alone = command("momentum_gpt.analyze", *options)
    assert alone.code == 0, alone.err
    assert {row["finetuning"] for row in rows_in(output / "results.csv")} == {"", "backprop"}
    assert not (output / "ways.csv").exists()

    pieces = {path: path.stat().st_mtime_ns for path in (output / "units").iterdir()}
    done = command("momentum_gpt.analyze", *options, "finetuning=[backprop,momentum]")
    assert done.code == 0, done.err
    assert {path: path.stat().st_mtime_ns for path in pieces} == pieces  # kept of the first time
    assert len(list((output / "units").iterdir())) == 2 * len(pieces) == 8

    values = {}
    for row in rows_in(output / "results.csv"):
        key = row["measure"], row["variant"], row["finetuning"], row["null"]
        assert key not in values
        values[key] = row["value"]
    for variant in models:
        assert ("accuracy, ICL", variant, "", "zero-shot") in values
        assert ("accuracy, ICL", variant, "momentum", "zero-shot") not in values

    ways = rows_in(output / "ways.csv")
    gains = {}
    for row in ways:
        key = row["measure"], row["variant"]
        if not row["first_variant"] and row["measure"].startswith("SimAOU"):
            to_ways = [
                float(values[*key, way, "mismatched queries"]) for way in ("backprop", "momentum")
            ]
            gains[key] = to_ways[1] - to_ways[0]
            assert float(row["difference"]) == pytest.approx(gains[key], abs=1e-6)
    assert ("SimAOU, momentum part", "momentum") in gains
    assert ("SimAOU, centred", "vanilla") in gains
    told = {row["measure"]: row for row in ways if row["first_variant"] == "vanilla"}
    difference = gains["SimAOU", "momentum"] - gains["SimAOU", "vanilla"]
    assert float(told["SimAOU"]["difference"]) == pytest.approx(difference, abs=1e-6)
    assert "SimAOU, momentum part" not in told
    assert "KL divergence" in told

    assert "Which way of finetuning ICL is more like:" in done.out
    assert "Whether the models differ in that:" in done.out
    assert "vanilla, task, momentum: 3 demonstrations, learning rate(s) 0.01\n" in done.out
    assert "with momentum, steps grow to 2 times that" in done.out
    page = (output / "layers-0.html").read_text()
    assert "SimAOU, task, backprop" in page
    assert "SimAOU, task, momentum" in page


def take_one_of_two_gpus(started: Any, dealt: Any) -> None:
    """Start as a process of the pool does, on a machine with two GPUs."""
    torch.cuda.device_count = lambda: 2
    torch.cuda.is_available = lambda: True
    torch.cuda.set_device = lambda device: dealt.put(device.index)
    analyze.start_measuring(started)


def test_processes_are_dealt_out_to_the_gpus() -> None:
    context = get_context("spawn")
    dealt = context.SimpleQueue()
    with context.Pool(3, take_one_of_two_gpus, (context.Value("i", 0), dealt)):
        assert sorted(dealt.get() for _ in range(3)) == [0, 0, 1]


def test_the_first_rank_takes_the_pieces_of_others_from_their_end() -> None:
    pieces: Any = list("abcdefg")
    assert analyze.dealt(pieces, 0, 1) == pieces
    assert analyze.dealt(pieces, 1, 3) == ["b", "e"]
    assert analyze.dealt(pieces, 0, 3) == ["a", "d", "g", "f", "e", "c", "b"]


def test_ranks_of_a_host_take_different_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks 0 and 1 with three processes each: the second one's begin with the fourth GPU."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert analyze.processes_before(3) == 3
    monkeypatch.delenv("LOCAL_RANK")
    assert analyze.processes_before(3) == 0


def test_without_gpus_nothing_is_dealt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    distributed.use_gpu(1)
    assert "LOCAL_RANK" not in os.environ


def test_what_is_found_of_a_run_is_in_the_run_and_on_wandb(
    data_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (tmp_path / "data").mkdir()
    task = write_colours(tmp_path / "data", [" e", " y"], n_test=8)
    small = ["model.seq_len=256", "training.max_steps=2", "training.save_every=1"]
    options = [f"runs={tmp_path}", *SMOKE, *small, "tracking.wandb=offline"]
    done = command("momentum_gpt.train", "name=run", f"data={data_folder}", *options)
    assert done.code == 0, done.err

    output = tmp_path / "out"
    options = [f"runs=[{run}]", "checkpoints=all", f"tasks=[{task}]", f"output={output}"]
    done = command("momentum_gpt.analyze", *options, "k=3", "draws=1", "lr=0.01", "orders=0")
    assert done.code == 0, done.err
    rows = rows_in(output / "results.csv")
    lines = read_json_lines(run / "evaluations" / "analysis.jsonl")
    assert [as_in_csv(line, rows[0]) for line in lines] == rows
    assert {line["checkpoint"] for line in lines} == {"step_00000001", "step_00000002"}

    # Of the last checkpoint, beside a null that it is not above, or else the highest one.
    last = [row for row in rows if (row["measure"], row["tokens"]) == ("SimAOU", "1024")]
    hard = [row for row in last if row["verdict"] != "above its null"] or last
    copy = read_copy(run)
    assert copy.summary["analysis/task/SimAOU"] == float(last[0]["value"])
    assert copy.summary["analysis/task/SimAOU_null"] == max(
        float(row["null_value"]) for row in hard
    )
    assert [row["step"] for row in copy.history if "analysis/task/SimAOU" in row] == [1, 2]
    assert len(copy.table("tables/analysis")) == 1 + len(lines)

    ways = ["finetuning=[backprop,momentum]", f"runs=[{run}]", f"tasks=[{task}]"]
    options = [*ways, f"output={output}", "k=3", "draws=1", "lr=0.01", "orders=0"]
    done = command("momentum_gpt.analyze", *options)
    assert done.code == 0, done.err
    gain = next(row for row in rows_in(output / "ways.csv") if row["measure"] == "SimAOU")
    copy = read_copy(run)
    key = "analysis/task/momentum/SimAOU_gain_over_backprop"
    assert copy.summary[key] == float(gain["difference"])
    assert copy.summary[f"{key}_null"] == 0


def test_a_run_that_cannot_be_written_is_named(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(small_disk, "run", {"name": "vanilla"})
    make_read_only(small_disk)
    model = run / "checkpoints" / "step_00000400" / "model"
    subject = analyze.Subject("vanilla", 400 * 4096, model)
    methods = analyze.methods_of(analyze.AnalyzeConfig(runs=["run"]))
    units = analyze.units_of(subject, "sst2", methods)
    found = {(subject, "sst2"): {"backprop": [Measured({}, {"k": 4})]}}
    finding = Finding(0.5, (0.4, 0.6), 0.1, (0.3, 0.5), 0.01, 5, 9)
    rows = [Row("SimAOU", "sst2", "noise", finding, "vanilla", 400 * 4096)]
    analyze.keep_in_runs({(subject, "sst2"): units}, found, rows)
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith(f"{run}: its results are not kept there (")


def as_in_csv(line: dict[str, Any], columns: Iterable[str]) -> dict[str, str]:
    """Return the columns of a line, as results.csv has them."""
    return {name: "" if line[name] is None else str(line[name]) for name in columns}


@pytest.mark.slow
def test_processes_share_the_pieces(models: dict[str, Path], task: str, tmp_path: Path) -> None:
    options = [f"runs=[{models['vanilla']}]", f"tasks=[{task}]", "k=3", "draws=2", "lr=0.01"]
    tables = []
    for jobs in (1, 2):
        output = tmp_path / f"jobs{jobs}"
        done = command("momentum_gpt.analyze", *options, f"jobs={jobs}", f"output={output}")
        assert done.code == 0, done.err
        tables.append((output / "results.csv").read_text())
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_ranks_share_the_pieces(
    models: dict[str, Path], task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each does its share; the first one waits for nobody, and writes the results."""
    options = [f"runs=[{models['vanilla']}]", f"tasks=[{task}]", "k=3", "draws=5", "lr=0.01"]
    options.append("orders=0")
    alone = command("momentum_gpt.analyze", *options, f"output={tmp_path / 'alone'}")
    assert alone.code == 0, alone.err
    expected = (tmp_path / "alone" / "results.csv").read_text()

    launcher = ["--standalone", "--nproc-per-node=2", "-m", "momentum_gpt.analyze"]
    together = command("torch.distributed.run", *launcher, *options, f"output={tmp_path / 'two'}")
    assert together.code == 0, together.err
    assert "rank 1 has measured its share" in together.out
    assert (tmp_path / "two" / "results.csv").read_text() == expected

    output = tmp_path / "apart"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert command("momentum_gpt.analyze", *options, f"output={output}").code == 0
    assert [path.name for path in output.iterdir()] == ["units"]
    names = sorted(path.name.split("-")[:2] for path in output.glob("units/*"))
    assert names == [["task", "1"], ["task", "3"]]
    monkeypatch.setenv("RANK", "0")
    assert command("momentum_gpt.analyze", *options, f"output={output}").code == 0
    assert (output / "results.csv").read_text() == expected


@pytest.mark.slow
def test_more_ranks_than_pieces(
    models: dict[str, Path], task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [f"runs=[{models['vanilla']}]", f"tasks=[{task}]", "k=3", "draws=1", "lr=0.01"]
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "2")
    done = command("momentum_gpt.analyze", *options, f"output={tmp_path / 'out'}")
    assert done.code == 0, done.err
    assert not list(tmp_path.glob("out/units/*"))


@pytest.mark.slow
def test_no_file_stays_open_for_what_was_measured(
    models: dict[str, Path], task: str, tmp_path: Path
) -> None:
    """Four pieces have 300 tensors, and the analysis may have 100 files open."""
    options = [f"runs=[{models['momentum']}]", f"tasks=[{task}]", "k=3", "draws=4", "lr=0.01"]
    command_line = [sys.executable, "-m", "momentum_gpt.analyze", *options, "orders=0"]
    limited = ["bash", "-c", 'ulimit -n 100 && exec "$@"', "-", *command_line]
    done = subprocess.run(
        [*limited, f"output={tmp_path}"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_a_task_that_does_not_fit_is_left_out_by_name(
    models: dict[str, Path], task: str, tmp_path: Path
) -> None:
    long = tmp_path / "long"
    long.mkdir()
    write_colours(long, [" e", " y"], n_test=4)
    written = Path(write_task(long, "word " * 50 + "{text} Colour:", [" e", " y"]))
    name = str(written.rename(long / "long.yaml"))
    options = [f"runs=[{models['vanilla']}]", "k=3", "draws=1", "lr=0.01", "orders=0"]
    output = f"output={tmp_path / 'out'}"
    done = command("momentum_gpt.analyze", *options, f"tasks=[{name},{task}]", output)
    assert done.code == 0, done.err
    assert "left out: vanilla: task long: no demonstration fits" in done.out
    alone = command("momentum_gpt.analyze", *options, f"tasks=[{name}]", output)
    assert alone.code == 2
    assert "none of the tasks can be analysed" in alone.err


def running_in_group(group: int) -> list[psutil.Process]:
    """Return the processes of a group that have not ended."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_means_are_over_the_tasks_that_all_models_have() -> None:
    """One of three tasks does not fit the second model."""
    models = [analyze.Subject(name, None, Path(name)) for name in ("vanilla", "short")]
    found = {}
    for number, task in enumerate(("sst2", "mr", "subj")):
        values = torch.full((4, 1), float(number))
        draws = [Measured({"SimAOU": values + noise}, {"k": 3}) for noise in (-0.1, 0.1)]
        for model in models:
            found[model, task] = {"backprop": draws}
    del found[models[1], "subj"]
    rows = analyze.over_tasks(found)
    assert {row.variant: row.finding.value for row in rows} == pytest.approx(
        {"vanilla": 0.5, "short": 0.5}
    )
    del found[models[1], "mr"]
    assert analyze.over_tasks(found) == []


@pytest.mark.slow
def test_a_killed_process_ends_the_analysis(
    models: dict[str, Path], task: str, tmp_path: Path
) -> None:
    """As by the kernel, when the memory is full."""
    options = [f"runs=[{models['vanilla']}]", f"tasks=[{task}]", "draws=50", "orders=20", "jobs=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "momentum_gpt.analyze", *options, f"output={tmp_path / 'out'}"],
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.glob("out/units/*.safetensors")):
        assert process.poll() is None
        time.sleep(0.2)
    workers = [
        child
        for child in psutil.Process(process.pid).children()
        if "spawn_main" in " ".join(child.cmdline())
    ]
    workers[0].kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "a process that measured was killed" in said
    assert "Traceback" not in said
    assert not any(worker.is_running() for worker in workers)


@pytest.mark.slow
def test_results_that_cannot_be_written_are_one_line(
    models: dict[str, Path], task: str, small_disk: Path
) -> None:
    fill(small_disk)
    options = [f"runs=[{models['vanilla']}]", f"tasks=[{task}]", "k=3", "draws=1", "lr=0.01"]
    done = command("momentum_gpt.analyze", *options, f"output={small_disk / 'out'}")
    assert done.code == 1
    assert "cannot be written (no space left on device)" in done.err
    assert "Traceback" not in done.err


def test_it_can_be_interrupted(models: dict[str, Path], task: str, tmp_path: Path) -> None:
    options = [f"runs=[{models['vanilla']}]", f"tasks=[{task}]", "draws=400", "orders=20", "jobs=2"]
    output = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "momentum_gpt.analyze", *options, f"output={output}"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test in the background of a script inherits that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(output.glob("units/*.safetensors")):
        assert process.poll() is None
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    deadline = time.monotonic() + 20
    while running_in_group(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("runs=[]", "runs must be at least one run"),
        ("protocol=dai", "protocol must be one of default, dai2022, got 'dai'"),
        ("finetuning=[all]", "finetuning must be a list of backprop, layer_causal, label"),
        ("finetuning=[label,label]", "each once, got ['label', 'label']"),
        ("finetuning=[]", "at least one and each once, got []"),
        ("tasks=[sst2,a/sst2.yaml]", "tasks must be tasks with different names"),
        ("draws=0", "draws must be at least 1, got 0"),
        ("queries=1", "queries must be at least 2"),
    ],
)
def test_a_mistake_is_one_line(invoke: Invoke, option: str, said: str) -> None:
    done = invoke(analyze.main, "runs=[a]", option)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_two_seeds_of_a_variant_cannot_share_a_table(
    models: dict[str, Path], invoke: Invoke
) -> None:
    done = invoke(analyze.main, f"runs=[{models['vanilla']},{models['vanilla']}]")
    assert done.code == 2
    assert "same variant and the same tokens" in done.err
