"""An array of runs on a real SLURM: requeued, signalled, and complete like runs that were not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from momentum_gpt.core import outcome
from momentum_gpt.core.files import read_json_lines, sha256_of_file
from momentum_gpt.models import save_model
from tests.analysis.cases import small_model
from tests.conftest import SMOKE, command
from tests.evaluation.few_shot.cases import write_colours
from tests.slurm import run, slurm

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

ROOT = Path(__file__).resolve().parents[2]
STEPS = 800
OPTIONS = [*SMOKE, f"training.max_steps={STEPS}", "training.save_every=50", "training.eval_every=0"]
NAMES = ["vanilla-0", "vanilla-1", "momentum-0", "momentum-1"]


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ["PYTHON"] = sys.executable
    with slurm(tmp_path_factory.mktemp("cluster") / "slurm"):
        yield
    del os.environ["PYTHON"]


def sbatch(*arguments: str) -> str:
    """Submit a job, and return its number."""
    return run("sbatch", "--parsable", *arguments).strip()


def state(job: str) -> str:
    return run("squeue", "--noheader", f"--jobs={job}", "--format=%T").strip()


def wait_for_an_empty_queue() -> None:
    wait_until(lambda: not run("squeue", "--noheader").strip(), 60, "the queue is empty")


def wait_until(
    holds: Callable[[], bool], seconds: float, what: str, log: Path | None = None
) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{what}\n{run('squeue')}\n{log and log.read_text()}"
        time.sleep(1)


def weights(runs: Path, name: str) -> str:
    folder = runs / name / "checkpoints" / f"step_{STEPS:08d}"
    return sha256_of_file(folder / "model" / "model.safetensors")


def test_an_array_is_complete_whatever_is_requeued_and_signalled(
    data_folder: Path, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    here = tmp_path / "here"
    (tmp_path / "cache").mkdir()
    os.environ["CACHE"] = str(tmp_path / "cache" / "data")
    job = sbatch(
        "--ntasks-per-node=2",
        "--gpus-per-node=0",
        "--cpus-per-task=1",
        f"--output={tmp_path}/%a.log",
        str(ROOT / "launch" / "slurm.sbatch"),
        "name=t",
        f"runs={there}",
        f"data={data_folder}",
        *OPTIONS,
    )
    del os.environ["CACHE"]

    def steps(name: str) -> int:
        records = read_json_lines(there / f"t-{name}" / "metrics.jsonl")
        return records[-1]["step"] if records else 0

    wait_until(lambda: steps("vanilla-0") > 60, 240, "the first job trains")
    run("scontrol", "requeue", f"{job}_0")
    wait_until(lambda: steps("momentum-0") > 60, 400, "the third job trains")
    run("scancel", "--signal=USR1", f"{job}_2")

    def is_complete(name: str) -> bool:
        ended = outcome.read(there / f"t-{name}")
        return ended is not None and ended.exit_code == 0

    for number, name in enumerate(NAMES):
        log = tmp_path / f"{number}.log"
        wait_until(lambda name=name: is_complete(name), 600, name, log)
        attention, _, seed = name.partition("-")
        more = [f"attention={attention}", f"training.seed={seed}", "launch.nproc_per_node=2"]
        options = [f"name={name}", f"runs={here}", f"data={data_folder}", *OPTIONS, *more]
        assert command("momentum_gpt.train", *options).code == 0
        assert weights(there, f"t-{name}") == weights(here, name)
    assert "stopped after step" in (tmp_path / "2.log").read_text()
    wait_until(lambda: not state(job), 60, "the queue is empty")


def test_two_tasks_of_srun_are_one_run(data_folder: Path, tmp_path: Path) -> None:
    """On two nodes, and with a mistake."""
    arguments = [sys.executable, "-m", "momentum_gpt.train", "name=x", f"data={data_folder}"]
    arguments += [*SMOKE, f"runs={tmp_path}", "training.max_steps=5"]
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1"}
    step = ["srun", "--nodes=2", "--ntasks-per-node=1", *arguments]
    done = subprocess.run(step, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 rank(s)" in done.stdout
    assert done.stdout.count("step 5/5") == 1

    wrong = [*step, "name=y", "model.vocab_size=3"]
    done = subprocess.run(wrong, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.count("error: model.vocab_size=3 is smaller than") == 1
    assert "Traceback" not in done.stderr


def test_two_tasks_of_srun_share_an_analysis(data_folder: Path, tmp_path: Path) -> None:
    model = small_model("momentum")
    tokenizer = data_folder / "tokenizer.model"
    save_model(tmp_path / "model", model, dict(model.named_parameters()), tokenizer)
    task = write_colours(tmp_path, [" e", " y"], n_test=8)
    arguments = [sys.executable, "-m", "momentum_gpt.analyze", f"runs=[{tmp_path / 'model'}]"]
    arguments += [f"tasks=[{task}]", "k=3", "draws=2", "lr=0.01", f"output={tmp_path / 'out'}"]
    step = ["srun", "--nodes=2", "--ntasks-per-node=1", *arguments]
    done = subprocess.run(step, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rank 1 has measured its share" in done.stdout
    assert done.stdout.count("written: ") == len(list((tmp_path / "out").glob("*.*")))


def test_a_rendered_job_is_submitted(data_folder: Path, tmp_path: Path) -> None:
    options = ["name=x", f"data={data_folder}", f"runs={tmp_path}", *SMOKE, "launch=slurm"]
    options += ["launch.nproc_per_node=2", "launch.slurm.gpus_per_node=0"]
    options += ["launch.slurm.cpus_per_task=1", "launch.slurm.partition=cpu"]
    done = command("momentum_gpt.train", *options)
    assert done.code == 0, done.err
    assert "#SBATCH --ntasks-per-node=2\n" in done.out
    run("sbatch", "--test-only", str(tmp_path / "x" / "launch.sbatch"))

    def ended() -> bool:
        found = outcome.read(tmp_path / "x")
        return found is not None and found.exit_code == 0

    wait_until(ended, 240, "the job ends")


def test_a_sweep_of_hydras_launcher_names_what_failed_and_goes_on_with_the_rest(
    data_folder: Path, tmp_path: Path
) -> None:
    """Two jobs have a mistake, one is signalled as before its time limit, one is cancelled."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    sweep = ["-m", "hydra/launcher=submitit_slurm", "name=h${model.n_heads}-s${training.seed}"]
    sweep += ["training.seed=0,1", "model.n_heads=2,3"]
    words = ["momentum_gpt.train", *sweep, f"data={data_folder}", *OPTIONS]
    with (tmp_path / "err").open("w") as file:
        driver = subprocess.Popen([sys.executable, "-m", *words], cwd=tmp_path, stderr=file)
    signalled, cancelled = (tmp_path / "runs" / f"h2-s{seed}" for seed in (0, 1))

    def steps(path: Path) -> int:
        records = read_json_lines(path / "metrics.jsonl")
        return records[-1]["step"] if records else 0

    # They start seconds apart, and neither must be complete when it is stopped.
    wait_until(lambda: steps(signalled) > 60, 240, "the first job trains")
    number, name = run("squeue", "--noheader", "--format=%F %j").split()[:2]
    assert name == "train"
    run("scancel", "--signal=USR2", f"{number}_0")
    wait_until(lambda: steps(cancelled) > 60, 240, "the third job trains")
    run("scancel", f"{number}_2")

    # The first is in the queue again, and the driver waits for it.
    assert driver.wait(600) == 1
    wait_for_an_empty_queue()
    head, *named = (tmp_path / "err").read_text().partition("error: ")[2].splitlines()
    assert head == "3 job(s) of the sweep failed:"
    for line, (seed, n_heads, code) in zip(named, [(0, 3, 2), (1, 2, 75), (1, 3, 2)], strict=True):
        assert f"training.seed={seed} model.n_heads={n_heads} " in line
        assert f"(exit code {code})" in line
    assert steps(signalled) == STEPS > steps(cancelled)
    logs = tmp_path / "multirun" / ".submitit"
    log = (logs / f"{number}_0" / f"{number}_0_0_log.out").read_text()
    assert "stopped after step" in log
    assert "resume    from runs/h2-s0/checkpoints" in log

    again = command(*words, cwd=tmp_path, timeout=400)
    assert again.code == 1
    assert "error: 2 job(s) of the sweep failed:" in again.err
    assert steps(cancelled) == STEPS
    wait_for_an_empty_queue()
    written = [path.read_text() for path in logs.rglob("*_log.out")]
    assert sum(f"runs/h2-s0 is complete: all {STEPS} steps" in text for text in written) == 1


def test_a_sweep_waits_for_its_jobs_and_cancels_them_when_it_is_stopped(
    data_folder: Path, tmp_path: Path
) -> None:
    slurm = ["launch=slurm", "launch.slurm.gpus_per_node=0", "launch.slurm.partition=cpu"]
    options = [*slurm, "launch.slurm.cpus_per_task=1", *OPTIONS]
    words = ["momentum_gpt.sweep", f"data={data_folder}", "seeds=2", "output=s", "jobs=2"]
    words.append(f"overrides={options}")
    with (tmp_path / "err").open("w") as file:
        driver = subprocess.Popen([sys.executable, "-m", *words], cwd=tmp_path, stderr=file)
    runs = [tmp_path / "s" / name for name in ("vanilla-seed0", "momentum_0.5-seed0")]

    def steps(path: Path) -> int:
        records = read_json_lines(path / "metrics.jsonl")
        return records[-1]["step"] if records else 0

    wait_until(lambda: min(map(steps, runs)) > 60, 240, "two jobs train")
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(60) == 75
    wait_for_an_empty_queue()
    for path in runs:
        ended = outcome.read(path)
        assert ended is not None
        assert ended.exit_code == 75
        assert ended.message.startswith("stopped after step")

    again = command(*words, cwd=tmp_path, timeout=600)
    assert again.code == 0, again.err
    assert [steps(path) for path in runs] == [STEPS, STEPS]
    assert "Decisions, s:" in again.out
    for path in runs:  # one line goes on after the other, as in a run that was never stopped
        numbers = [record["step"] for record in read_json_lines(path / "metrics.jsonl")]
        assert numbers == sorted(numbers)

    words[-1] = f"overrides={[*options, 'model.n_heads=3']}"
    wrong = command(*words, "output=wrong", cwd=tmp_path, timeout=400)
    assert wrong.code == 1
    assert wrong.err.count("model.n_heads=3") >= 2
