"""Training as a user runs it: killed, interrupted and resumed, on one rank and on two."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from momentum_gpt import evaluate, train
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import read_json_lines, sha256_of_file
from momentum_gpt.core.manifest import read_checkpoint_manifest
from momentum_gpt.core.ownership import own
from momentum_gpt.data import TokenShards
from momentum_gpt.models import load_model
from momentum_gpt.models.weights import weights_sha256
from tests.chaos.__main__ import CLOCK
from tests.conftest import SMOKE, Result, command

Invoke = Callable[..., Result]

ROOT = Path(__file__).resolve().parents[1]
LONG = ["training.max_steps=100000", "training.eval_every=0", "training.save_every=0"]


def arguments(folder: Path, data: Path, name: str, *more: str) -> list[str]:
    return ["momentum_gpt.train", f"name={name}", f"data={data}", f"runs={folder}", *SMOKE, *more]


def start(folder: Path, data: Path, name: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments(folder, data, name, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_until(
    holds: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 120
) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.003)


def deterministic(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run without what depends on the clock."""
    clock = CLOCK
    records = read_json_lines(folder / "metrics.jsonl")
    for record in records:
        for key in clock:
            record.pop(key, None)
    return records


def manifest(run: Path) -> dict[str, Any]:
    latest = (run / "checkpoints" / "latest").read_text().strip()
    return json.loads((run / "checkpoints" / latest / "manifest.json").read_text())


def latest_step(run: Path) -> int:
    try:
        return int((run / "checkpoints" / "latest").read_text().removeprefix("step_"))
    except (FileNotFoundError, ValueError):
        return 0


@pytest.fixture(scope="module")
def straight(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 40 steps without a stop, momentum attention."""
    folder = tmp_path_factory.mktemp("runs")
    done = command(
        *arguments(folder, data_folder, "straight", "attention=momentum", "training.max_steps=40")
    )
    assert done.code == 0, done.err
    return folder / "straight"


def test_a_run_leaves_what_the_design_says(straight: Path, data_folder: Path) -> None:
    assert {path.name for path in straight.iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "checkpoints",
        "evaluations",
        "lock",
        "outcome.json",
    }
    assert (straight / "checkpoints" / "latest").read_text() == "step_00000040\n"
    last = straight / "checkpoints" / "step_00000040"
    assert {path.name for path in last.iterdir()} == {"model", "engine", "manifest.json"}
    assert {path.name for path in (last / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.model",
    }
    found = manifest(straight)
    assert (found["step"], found["tokens"], found["world_size"]) == (40, 40 * 512, 1)
    assert set(found["files"]) == {
        str(p.relative_to(last)) for p in last.rglob("*") if p.is_file()
    } - {"manifest.json"}
    for key in ("canary_loss", "initial_weights_sha256", "data_sha256", "order_sha256"):
        assert found[key], key
    records = read_json_lines(straight / "metrics.jsonl")
    keys = set().union(*records)
    wanted = {
        "train/loss",
        "train/tokens_per_s",
        "val/loss",
        "val/ppl@16",
        "val/ppl@32",
        "val/ppl@64",
        "optim/lr",
        "optim/grad_norm",
    }
    assert (
        wanted | {"icl/score", "icl/induction/acc", "icl/induction/loss", "step", "tokens"} <= keys
    )
    assert records[0]["train/loss"] == pytest.approx(6.24, abs=0.1)  # ln 512
    assert records[-1]["val/loss"] < 6.0
    lines = read_json_lines(straight / "evaluations" / "perplexity.jsonl")
    assert [(line["step"], line["context_length"]) for line in lines] == [
        (step, length) for step in (10, 20, 30, 40) for length in (16, 32, 64)
    ]
    assert lines[-1]["loss"] == records[-1]["val/loss"]


def test_the_model_folder_is_all_that_an_evaluator_needs(
    invoke: Invoke, straight: Path, data_folder: Path
) -> None:
    model = load_model(straight)
    block = torch.from_numpy(TokenShards(data_folder, "validation").read(0, 65))[None]
    with torch.no_grad():
        loss = model(block[:, :-1], block[:, 1:]).item() / 64
    assert loss == pytest.approx(manifest(straight)["canary_loss"], rel=1e-6)

    more = ["evaluation.tokens=2048", "evaluation.induction_sequences=4"]
    done = invoke(evaluate.main, f"run={straight}", *more)
    assert done.code == 0, done.err
    again = json.loads((straight / "evaluations" / "validation.jsonl").read_text())
    records = read_json_lines(straight / "metrics.jsonl")
    in_training = [record for record in records if "val/loss" in record][-1]
    for key in ("val/loss", "val/ppl@16", "icl/score", "icl/induction/loss"):
        assert again[key] == pytest.approx(in_training[key], rel=1e-5), key
    (straight / "evaluations" / "validation.jsonl").unlink()


@pytest.mark.slow
def test_killed_twice_and_resumed_it_is_the_straight_run_to_the_bit(
    straight: Path, data_folder: Path, tmp_path: Path
) -> None:
    """kill -9 at some moment after the first checkpoint, and once more after a later one."""
    more = ["attention=momentum", "training.max_steps=40", "training.save_every=4"]
    killed = tmp_path / "straight"
    for at_least in (4, 12):
        process = start(tmp_path, data_folder, "straight", *more)
        wait_until(lambda step=at_least: latest_step(killed) >= step, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert latest_step(killed) < 40
    done = command(*arguments(tmp_path, data_folder, "straight", *more))
    assert done.code == 0, done.err
    assert "resume    from" in done.out
    assert deterministic(killed) == deterministic(straight)
    mine, theirs = manifest(killed), manifest(straight)
    assert mine["files"]["model/model.safetensors"] == theirs["files"]["model/model.safetensors"]
    for key in ("canary_loss", "order_sha256", "initial_weights_sha256"):
        assert mine[key] == theirs[key]


@pytest.mark.slow
def test_two_ranks_give_the_curve_of_one(
    invoke: Invoke, straight: Path, data_folder: Path, tmp_path: Path
) -> None:
    """launch/local.sh 2 with half the micro-batch: same tokens, same order, same losses."""
    more = ["attention=momentum", "training.max_steps=40", "deepspeed=zero2"]
    two = arguments(tmp_path, data_folder, "two", *more)[1:]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [str(ROOT / "launch" / "local.sh"), "2", *two, "training.max_tokens_per_forward=128"],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "8 sequences = 2 rank(s) x 2 per forward x 2 accumulated" in done.stdout
    assert manifest(tmp_path / "two")["order_sha256"] == manifest(straight)["order_sha256"]
    for mine, theirs in zip(deterministic(tmp_path / "two"), deterministic(straight), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)

    other = invoke(train.main, *two, "optim.lr=0.001")
    assert other.code == 2
    assert "another config (optim.lr was 0.002 and is 0.001)" in other.err


def test_ctrl_c_saves_a_checkpoint_and_the_same_command_resumes_from_it(
    data_folder: Path, tmp_path: Path
) -> None:
    process = start(tmp_path, data_folder, "x", *LONG)
    wait_until(lambda: len(read_json_lines(tmp_path / "x" / "metrics.jsonl")) > 5, process)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "checkpoint saved; the same command resumes the run" in out
    assert "Traceback" not in out
    step = latest_step(tmp_path / "x")
    assert f"stopped after step {step}" in out
    again = start(tmp_path, data_folder, "x", *LONG)
    wait_until(
        lambda: (
            (read_json_lines(tmp_path / "x" / "metrics.jsonl") or [{"step": 0}])[-1]["step"] > step
        ),
        again,
    )
    os.killpg(again.pid, signal.SIGTERM)
    out, _ = again.communicate(timeout=60)
    assert again.returncode == 75
    assert f"resume    from {tmp_path}/x/checkpoints/step_{step:08d}" in out
    assert latest_step(tmp_path / "x") > step


@pytest.mark.slow
def test_ctrl_c_on_two_ranks_ends_cleanly_too(data_folder: Path, tmp_path: Path) -> None:
    process = start(tmp_path, data_folder, "x", *LONG, "launch.nproc_per_node=2")
    wait_until(lambda: len(read_json_lines(tmp_path / "x" / "metrics.jsonl")) > 5, process)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert "checkpoint saved; the same command resumes the run" in out
    assert "Traceback" not in out


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_request_during_an_evaluation_is_obeyed_and_the_evaluation_comes_later(
    data_folder: Path, tmp_path: Path, ranks: int
) -> None:
    """The evaluation of step 10 takes seconds; its records are those of a run without a stop."""
    more = ["training.save_every=0", "training.eval_every=10", "training.max_steps=12"]
    more += [f"launch.nproc_per_node={ranks}"]
    slow = ["evaluation.tokens=32768", "evaluation.context_lengths=[1,2,4,8,16,32,64]"]
    slow += ["evaluation.induction_sequences=8192"]
    process = start(tmp_path, data_folder, "x", *more, *slow)
    metrics = tmp_path / "x" / "metrics.jsonl"
    wait_until(lambda: len(read_json_lines(metrics)) == 10, process)
    time.sleep(0.1)
    process.send_signal(signal.SIGUSR1)
    asked = time.monotonic()
    out, _ = process.communicate(timeout=60)
    assert time.monotonic() - asked < 30
    assert process.returncode == 75, out
    assert "stopped after step 10, checkpoint saved" in out
    assert "Traceback" not in out
    found = manifest(tmp_path / "x")
    assert (found["step"], found["evaluation_is_due"]) == (10, True)
    assert not any("val/loss" in record for record in read_json_lines(metrics))

    again = command(*arguments(tmp_path, data_folder, "x", *more, *slow))
    assert again.code == 0, again.err
    steps = [record["step"] for record in read_json_lines(metrics) if "val/loss" in record]
    assert steps == [10, 12]
    assert not manifest(tmp_path / "x")["evaluation_is_due"]


@pytest.mark.parametrize(
    "number", [signal.SIGHUP, pytest.param(signal.SIGUSR2, marks=pytest.mark.slow)]
)
def test_a_request_before_the_first_step_is_obeyed(
    data_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """While torch and DeepSpeed are imported: no traceback, nothing that blocks the next start."""
    process = start(tmp_path, data_folder, "x", *LONG)
    time.sleep(1.5)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75, out
    assert "Traceback" not in out
    assert latest_step(tmp_path / "x") <= 1


def test_a_second_start_says_who_holds_the_run(
    invoke: Invoke, data_folder: Path, tmp_path: Path
) -> None:
    process = start(tmp_path, data_folder, "x", *LONG)
    wait_until(lambda: len(read_json_lines(tmp_path / "x" / "metrics.jsonl")) > 2, process)
    config = (tmp_path / "x" / "config.yaml").read_text()
    done = command(*arguments(tmp_path, data_folder, "x", "training.max_steps=7"))
    assert done.code == 2
    assert f"{tmp_path}/x is in use by process {process.pid} on " in done.err
    assert "Traceback" not in done.err
    assert (tmp_path / "x" / "config.yaml").read_text() == config

    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    with own(tmp_path / "x"):
        pass


@pytest.mark.slow
def test_a_first_start_that_failed_does_not_block_the_corrected_command(
    data_folder: Path, tmp_path: Path
) -> None:
    much = ["optim.lr=1e30", "optim.min_lr=0", "optim.warmup_steps=0", "optim.grad_clip=0"]
    failed = command(*arguments(tmp_path, data_folder, "x", *much, "training.bad_step=stop"))
    assert failed.code == 2, failed
    assert "use a lower optim.lr" in failed.err
    (kept,) = (tmp_path / "x" / "bad_steps").iterdir()
    assert json.loads(kept.read_text())["micro_batches"][0]["texts"][0]

    done = command(*arguments(tmp_path, data_folder, "x", "resume=never", "training.max_steps=2"))
    assert done.code == 0, done.err


def test_a_damaged_newest_checkpoint_is_skipped_and_reported(
    straight: Path, data_folder: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(straight, tmp_path / "straight"))
    weights = run / "checkpoints" / "step_00000040" / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = command(
        *arguments(tmp_path, data_folder, "straight", "attention=momentum", "training.max_steps=40")
    )
    assert done.code == 0, done.err
    assert (
        "passed over a checkpoint: step_00000040 is damaged "
        "(model/model.safetensors is not what was written)" in done.out
    )
    assert "step_00000030" in done.out
    assert deterministic(run) == deterministic(straight)


def test_a_checkpoint_whose_model_is_another_is_passed_over(
    straight: Path, data_folder: Path, tmp_path: Path
) -> None:
    """All bytes are what was written, but the restored model has not the loss that it had."""
    run = Path(shutil.copytree(straight, tmp_path / "straight"))
    last = run / "checkpoints" / "step_00000040"
    shutil.rmtree(last)
    newest = run / "checkpoints" / "step_00000030"
    older = Path(shutil.copytree(newest, run / "checkpoints" / "step_00000020"))
    replace(read_checkpoint_manifest(older), step=20).write(older)
    replace(read_checkpoint_manifest(newest), canary_loss=9.0).write(newest)

    more = ["attention=momentum", "training.max_steps=40"]
    done = command(*arguments(tmp_path, data_folder, "straight", *more))
    assert done.code == 0, done.err
    assert "passed over a checkpoint: step_00000030 is broken (its loss on the fixed" in done.out
    assert f"resume    from {older}" in done.out
    assert (run / "checkpoints" / "damaged_step_00000030").is_dir()


def test_a_complete_run_is_not_trained_again(
    invoke: Invoke, straight: Path, data_folder: Path
) -> None:
    before = (straight / "metrics.jsonl").read_bytes()
    more = ["attention=momentum", "training.max_steps=40"]
    done = invoke(train.main, *arguments(straight.parent, data_folder, "straight", *more)[1:])
    assert (done.code, "is complete: all 40 steps are done" in done.out) == (0, True)
    assert (straight / "metrics.jsonl").read_bytes() == before


def test_other_tokens_under_a_run_are_noticed(
    straight: Path, data_folder: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(data_folder, tmp_path / "other"))
    shard = other / "train_00000.npy"
    tokens = np.load(shard)
    tokens[0] += 1
    np.save(shard, tokens)
    listed = json.loads((other / "manifest.json").read_text())
    listed["splits"]["train"][0]["sha256"] = sha256_of_file(shard)
    (other / "manifest.json").write_text(json.dumps(listed))

    run = Path(shutil.copytree(straight, tmp_path / "straight"))
    shutil.rmtree(run / "checkpoints" / "step_00000040")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(data_folder), str(other)))

    more = ["attention=momentum", "training.max_steps=40"]
    done = command(*arguments(tmp_path, other, "straight", *more))
    assert (done.code, "was trained on other tokens than" in done.err) == (2, True), done


@pytest.mark.slow
def test_a_sweep_trains_one_run_after_the_other(data_folder: Path, tmp_path: Path) -> None:
    more = [
        "--multirun",
        "attention=momentum",
        "attention.ema_decay=0.3,0.5",
        "training.max_steps=2",
    ]
    done = command(
        *arguments(tmp_path / "runs", data_folder, "decay_${attention.ema_decay}", *more),
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    assert {path.name: latest_step(path) for path in (tmp_path / "runs").iterdir()} == {
        "decay_0.3": 2,
        "decay_0.5": 2,
    }


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_job_that_fails_and_does_no_job_twice(
    data_folder: Path, tmp_path: Path
) -> None:
    more = ["--multirun", "model.n_heads=3,1,2", "training.max_steps=2"]
    words = arguments(tmp_path / "runs", data_folder, "heads_${model.n_heads}", *more)
    done = command(*words, cwd=tmp_path)
    assert done.code == 1
    named = done.err.partition("error: 1 job(s) of the sweep failed:\n")[2]
    assert "model.n_heads=3" in named
    assert "(exit code 2)" in named
    assert "Traceback" not in done.err
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["heads_1", "heads_2"]

    again = command(*words, cwd=tmp_path)
    assert again.code == 1
    assert again.out.count("is complete: all 2 steps are done") == 2


@pytest.mark.slow
def test_optuna_looks_for_the_smallest_loss(data_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    more = [
        "--multirun",
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=3",
        "hydra.sweeper.n_jobs=1",
        "optim.lr=choice(1e-9,1e-3,1e-8)",
        "hydra/sweeper/sampler=grid",
        "training.max_steps=10",
    ]
    words = arguments(tmp_path / "runs", data_folder, "lr_${optim.lr}", *more)
    done = command(*words, "optim.min_lr=0", cwd=tmp_path)
    assert done.code == 0, done.err
    found = (tmp_path / "multirun" / "optimization_results.yaml").read_text()
    assert "optim.lr: 0.001" in found


def test_a_terminal_shows_a_bar_with_loss_speed_and_time_left(
    data_folder: Path, tmp_path: Path
) -> None:
    """W&B is asked whether there is a login, which must print nothing into the bar."""
    environment = {**os.environ, "HOME": str(tmp_path)}  # no login there
    environment.pop("WANDB_MODE", None)
    environment.pop("WANDB_API_KEY", None)

    seen = output_in_a_terminal(
        arguments(tmp_path, data_folder, "x", "tracking.wandb=auto"), environment
    )
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen)  # without colours and cursor movements
    assert "20/20" in text
    assert re.search(r"20/20 loss \d\.\d{4}  [\d,]+ tokens/s 0:00:00", text)
    assert "\x1b[2K" in seen  # the bar is drawn in place
    assert "step 20  val/loss" in text
    assert "wandb: " not in text
    assert "deprecated" not in text


def output_in_a_terminal(command: list[str], environment: dict[str, str]) -> str:
    """Return all that a module prints in a terminal of 120 columns."""
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 120))
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=child,
        stderr=child,
        env=environment,
        start_new_session=True,
    )
    os.close(child)

    seen = b""
    while process.poll() is None or select.select([parent], [], [], 0)[0]:
        if select.select([parent], [], [], 0.1)[0]:
            try:
                seen += os.read(parent, 65536)
            except OSError:  # the terminal closes with its last process
                break
    text = seen.decode()
    assert process.wait() == 0, text
    return text


def test_what_a_training_opens_it_opens_once(
    invoke: Invoke,
    data_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The driver reads the manifest only; the worker opens what it reads once, and packs once.

    Packing reads all of the training split; the first step is not reached.
    """
    from momentum_gpt.data import packing

    opened: list[str] = []
    packed: list[int] = []
    load = np.lib.format.open_memmap
    best_fit = packing.best_fit

    def counting_load(path: Path, *more: Any, **options: Any) -> Any:
        opened.append(Path(path).name)
        return load(path, *more, **options)

    def counting_best_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
        packed.append(len(sizes))
        return best_fit(sizes, capacity)

    def stop_here(*_: Any) -> None:
        raise UserError("everything is open")

    monkeypatch.setattr(np.lib.format, "open_memmap", counting_load)
    monkeypatch.setattr(packing, "best_fit", counting_best_fit)
    monkeypatch.setattr("momentum_gpt.worker.build_engine", stop_here)

    done = invoke(train.main, *arguments(tmp_path, data_folder, "x", "data.packing=best_fit")[1:])
    assert "everything is open" in done.err
    assert sorted(opened) == sorted(path.name for path in data_folder.glob("train_*.npy"))
    assert len(packed) == 1


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_missing_shard_is_refused_before_the_run_folder_is_made(
    invoke: Invoke, data_folder: Path, tmp_path: Path, split: str
) -> None:
    copy = Path(shutil.copytree(data_folder, tmp_path / "copy"))
    shard = copy / f"{split}_00001.npy"
    for damage, said in (
        (lambda: shard.write_bytes(shard.read_bytes()[:500]), "is too small for the"),
        (shard.unlink, "does not exist"),
    ):
        damage()
        done = invoke(train.main, *arguments(tmp_path, copy, "x")[1:])
        assert (done.code, f"{shard} {said}" in done.err) == (2, True), done
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "override",
    ["+deepspeed.nosuchkey=4", "+deepspeed.zero_optimization.overlap=true"],
)
def test_unknown_keys_of_deepspeed_are_refused_in_one_line(
    invoke: Invoke, data_folder: Path, tmp_path: Path, override: str
) -> None:
    key = override[1:].partition("=")[0]
    done = invoke(train.main, *arguments(tmp_path, data_folder, "x", override)[1:])
    assert done.code == 2
    assert f"DeepSpeed has no option '{key}'" in done.err
    assert done.err.count("\n") == 1


def test_an_option_of_another_attention_names_that_attention(
    invoke: Invoke, data_folder: Path, tmp_path: Path
) -> None:
    more = ["attention=vanilla", "+attention.ema_decay=0.3"]
    done = invoke(train.main, *arguments(tmp_path, data_folder, "x", *more)[1:])
    assert done.code == 2
    assert "attention 'vanilla' does not take ema_decay" in done.err
    assert "attention=momentum attention.ema_decay=0.3" in done.err


def test_document_masks_and_the_kernel_are_reported_and_the_model_keeps_the_mask(
    data_folder: Path, tmp_path: Path
) -> None:
    """The model that is saved still knows where documents end."""
    more = ["attention=momentum", "data.document_mask=true", "training.max_steps=10"]
    done = command(*arguments(tmp_path, data_folder, "masked", *more))
    assert done.code == 0, done.err
    assert "each document by itself" in done.out
    assert done.out.count("summed by matrix products") == 1
    model, end = load_model(tmp_path / "masked"), TokenShards(data_folder).tokenizer.eos_id
    assert model.document_end == end
    first, second = [7, 8, 9], [end, 10, 11, 12]
    torch.testing.assert_close(
        model(torch.tensor([first + second]))[:, 3:], model(torch.tensor([second]))
    )


def test_training_starts_from_other_weights_with_another_attention(
    straight: Path, data_folder: Path, tmp_path: Path
) -> None:
    """Decay 0 is vanilla attention, so that a momentum model keeps the loss of those weights."""
    vanilla = tmp_path / "weights"
    shutil.copytree(straight / "checkpoints" / "step_00000040" / "model", vanilla)
    about = json.loads((vanilla / "config.json").read_text())
    (vanilla / "config.json").write_text(json.dumps(about | {"attention": {"name": "vanilla"}}))
    more = [
        f"init={vanilla}",
        "attention=momentum",
        "attention.ema_decay=0.0",
        "optim.lr=1e-12",
        "optim.min_lr=0",
    ]
    done = command(*arguments(tmp_path, data_folder, "further", *more, "training.max_steps=10"))
    assert done.code == 0, done.err
    expected, mine = load_model(vanilla), load_model(tmp_path / "further")
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(mine.get_parameter(name), parameter, rtol=0, atol=1e-9)
    begun = manifest(tmp_path / "further")["initial_weights_sha256"]
    assert begun == weights_sha256(expected)


@pytest.mark.slow
def test_a_run_from_other_weights_is_resumed_without_them(
    straight: Path, data_folder: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(straight / "checkpoints" / "step_00000040" / "model", weights)
    more = [
        f"init={weights}",
        "attention=momentum",
        "training.save_every=5",
        "training.max_steps=10",
    ]
    assert command(*arguments(tmp_path, data_folder, "begun", *more)).code == 0
    whole, begun = deterministic(tmp_path / "begun"), manifest(tmp_path / "begun")
    folder = tmp_path / "begun" / "checkpoints"
    shutil.rmtree(folder / "step_00000010")
    shutil.rmtree(weights)
    done = command(*arguments(tmp_path, data_folder, "begun", *more))
    assert done.code == 0, done.err
    assert deterministic(tmp_path / "begun") == whole
    assert manifest(tmp_path / "begun")["initial_weights_sha256"] == begun["initial_weights_sha256"]
