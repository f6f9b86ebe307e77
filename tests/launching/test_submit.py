"""The scripts that start a run elsewhere: as a shell, SLURM and Kubernetes read them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from momentum_gpt import train
from momentum_gpt.core.config import LaunchConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import launch_folder
from momentum_gpt.launching.submit import kubernetes_name, with_arguments
from tests.conftest import SMOKE, Result

Invoke = Callable[..., Result]
SCRIPTS = ["local.sh", "hosts.sh", "slurm.sbatch"]
SHELLCHECK = Path(sys.executable).with_name("shellcheck")


def lint(path: Path) -> None:
    done = subprocess.run([SHELLCHECK, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def validate(text: str) -> None:
    """Check a manifest against Kubernetes' own schemas, with unknown keys as errors."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for part in yaml.safe_load_all(text):
        kubernetes_validate.validate(part, "1.31", strict=True)


def job_of(text: str) -> dict:
    return next(part for part in yaml.safe_load_all(text) if part["kind"] == "Job")


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_are_clean(name: str) -> None:
    lint(launch_folder() / name)


def test_the_manifest_is_one() -> None:
    text = (launch_folder() / "kubernetes.yaml").read_text()
    validate(text)
    with pytest.raises(Exception, match="completion"):
        validate(text.replace("completions:", "completion:"))


def dry_run(invoke: Invoke, data: Path, folder: Path, *options: str) -> str:
    """Return what is shown; it is also what lies in the run's folder."""
    more = [f"data={data}", f"runs={folder}", *SMOKE, "launch.dry_run=true", *options]
    done = invoke(train.main, "name=a b", *more)
    assert done.code == 0, done.err
    (path,) = (folder / "a b").iterdir()
    text = path.read_text()
    assert text in done.out
    assert f"it would be: {shlex.join(SUBMIT[path.name] + [str(path)])}\n" in done.out
    return text


SUBMIT = {
    "launch.sbatch": ["sbatch"],
    "launch.sh": ["bash"],
    "launch.yaml": ["kubectl", "apply", "-f"],
}


def test_a_slurm_job_asks_for_what_the_options_say(
    invoke: Invoke, data_folder: Path, tmp_path: Path
) -> None:
    text = dry_run(
        invoke,
        data_folder,
        tmp_path,
        "launch=slurm",
        "launch.nnodes=2",
        "launch.nproc_per_node=4",
        "launch.slurm.time=1:00:00",
        "launch.slurm.extra=[qos:high,exclusive]",
        "training.tokens_per_step=4096",
        "launch.hang_after=900",
    )
    asked = re.findall(r"^#SBATCH --(.*)$", text, re.MULTILINE)
    assert asked == [
        "job-name='a b'",
        "time=1:00:00",
        "nodes=2",
        "ntasks-per-node=4",
        "gpus-per-node=4",
        "cpus-per-task=8",
        f"output='{tmp_path}/a b/slurm-%j.log'",
        "qos=high",
        "exclusive",
        "signal=USR1@120",
        "requeue",
        "open-mode=append",
    ]
    lint(tmp_path / "a b" / "launch.sbatch")

    # What the job would run: a shell is asked, with another srun.
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "srun").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (folder / "srun").chmod(0o755)
    done = subprocess.run(
        ["bash", tmp_path / "a b" / "launch.sbatch"],
        env={"PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    words = done.stdout.splitlines()
    assert words[:5] == ["--kill-on-bad-exit=1", "python", "-m", "momentum_gpt.train", "name=a b"]
    assert set(words[5:]) == {
        f"data={data_folder}",
        f"runs={tmp_path}",
        *SMOKE,
        "training.tokens_per_step=4096",
        "launch.hang_after=900",
    }


@pytest.mark.parametrize(
    ("code", "times", "requeued"), [(0, 1, False), (2, 1, False), (75, 1, True), (1, 3, False)]
)
def test_a_job_ends_goes_on_or_is_requeued_as_its_exit_code_says(
    tmp_path: Path, code: int, times: int, requeued: bool
) -> None:
    log = tmp_path / "log"
    for name, ends in (("srun", code), ("scontrol", 0)):
        (tmp_path / name).write_text(f'#!/bin/bash\necho "{name} $*" >> {log}\nexit {ends}\n')
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", launch_folder() / "slurm.sbatch", "name=x", "data=d"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"},
        check=False,
    )
    lines = log.read_text().splitlines()
    assert done.returncode == code
    assert sum(line.startswith("srun") for line in lines) == times
    assert ("scontrol requeue 7" in lines) == requeued


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (0, "name=x-vanilla-0 attention=vanilla training.seed=0"),
        (3, "name=x-momentum-1 attention=momentum training.seed=1"),
    ],
)
def test_a_job_of_an_array_is_one_variant_with_one_seed(
    tmp_path: Path, task: int, expected: str
) -> None:
    (tmp_path / "srun").write_text('#!/bin/bash\necho "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", launch_folder() / "slurm.sbatch", "name=x", "data=d", "a.b=c d"],
        env={"PATH": path, "SLURM_ARRAY_TASK_ID": str(task)},
        capture_output=True,
        text=True,
        check=True,
    )
    name, variant, seed = expected.split()
    assert (
        done.stdout.split("momentum_gpt.train ")[1] == f"{name} a.b=c d {variant} {seed} data=d\n"
    )


@pytest.fixture
def data_of_many_files(tmp_path: Path) -> Path:
    folder = tmp_path / "network" / "data"
    for number in range(300):
        path = folder / str(number % 10) / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number % 256]) * 10_000)
    (folder / "manifest.json").write_text("{}")
    return folder


def program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Folder of an srun that runs the copy, and prints the arguments of the training."""
    program(tmp_path / "bin" / "srun", '[[ $1 == --ntasks=1 ]] && exec "${@:3}"\necho "$@"')
    return tmp_path / "bin"


def start_with_a_cache(programs: Path, data: Path, cache: Path) -> subprocess.Popen[str]:
    path = f"{programs}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", launch_folder() / "slurm.sbatch", "name=x", f"data={data}"],
        env={"PATH": path, "SLURM_NNODES": "1", "CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_jobs_that_start_together_on_a_host_share_one_copy_of_the_data(
    programs: Path, data_of_many_files: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "disk" / "my data"
    jobs = [start_with_a_cache(programs, data_of_many_files, cache) for _ in range(4)]
    for job in jobs:
        out, err = job.communicate(timeout=60)
        assert (job.returncode, err) == (0, "")
        assert out.endswith(f" data={cache}\n")
    assert contents(cache) == contents(data_of_many_files)
    assert sorted(path.name for path in cache.parent.iterdir()) == ["my data", "my data.lock"]


def test_a_copy_that_was_cut_short_is_made_again(
    programs: Path, data_of_many_files: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "disk" / "data"
    program(programs / "cp", 'mkdir -p "$3/0"; echo half > "$3/0/0.bin"; touch "$3/more"; exit 1')
    assert start_with_a_cache(programs, data_of_many_files, cache).wait(60) == 1
    assert not cache.exists()
    (programs / "cp").unlink()
    job = start_with_a_cache(programs, data_of_many_files, cache)
    assert job.communicate(timeout=60)[1] == ""
    assert contents(cache) == contents(data_of_many_files)


def test_a_copy_of_other_data_is_neither_used_nor_replaced(
    programs: Path, data_of_many_files: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "data"
    cache.mkdir()
    (cache / "manifest.json").write_text("others")
    job = start_with_a_cache(programs, data_of_many_files, cache)
    out, err = job.communicate(timeout=60)
    assert (job.returncode, out) == (2, "")
    rule = f"CACHE={cache} holds other data than {data_of_many_files}"
    assert err == f"error: {rule}: delete it, or name another folder\n"
    assert contents(cache) == {"manifest.json": b"others"}


def test_a_kubernetes_job_has_a_pod_for_each_host(
    invoke: Invoke, data_folder: Path, tmp_path: Path
) -> None:
    options = ["launch=kubernetes", "launch.nnodes=2", "launch.nproc_per_node=2"]
    text = dry_run(invoke, data_folder, tmp_path, *options, "launch.kubernetes.folder=/data")
    validate(text)
    job = job_of(text)
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (2, 2)
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert container["workingDir"] == container["volumeMounts"][0]["mountPath"] == "/data"
    assert container["args"] == [
        "name=a b",
        f"data.path={data_folder}",
        f"runs={tmp_path}",
        *SMOKE,
        "launch.nproc_per_node=2",
        "launch.nnodes=2",
        "launch.node_rank=$(JOB_COMPLETION_INDEX)",
        "launch.master_addr=a-b-0.a-b",
    ]


@pytest.mark.parametrize(
    ("name", "expected"), [("a.B_c", "a-b-c"), ("-é-", "run"), ("x" * 99, "x" * 50)]
)
def test_a_run_gets_a_name_that_kubernetes_allows(name: str, expected: str) -> None:
    assert kubernetes_name(name) == expected


def test_hosts_get_the_options_and_the_hostfile(
    invoke: Invoke, data_folder: Path, tmp_path: Path
) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text("one slots=1\ntwo slots=1\n")
    runs = tmp_path / "runs"
    options = ["launch=hosts", f"launch.hostfile={hostfile}"]
    dry_run(invoke, data_folder, runs, *options)
    lint(runs / "a b" / "launch.sh")

    shell = tmp_path / "rsh"
    shell.write_text('#!/bin/bash\nsleep 0.$(( ${#1} == 3 ))\necho "$1: $2"\n')
    shell.chmod(0o755)
    done = subprocess.run(
        ["bash", runs / "a b" / "launch.sh"],
        env=os.environ | {"RSH": str(shell), "PYTHON": "/python", "NCCL_DEBUG": "INFO"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = sorted(done.stdout.splitlines())
    assert len(lines) == 2
    for number, host in enumerate(["one", "two"]):
        name, _, line = lines[number].partition(": ")
        assert name == host
        words = shlex.split(line)
        assert words[:4] == ["cd", str(tmp_path), "&&", "exec"]
        assert "NCCL_DEBUG=INFO" in words
        assert words[words.index("/python") + 1 :] == [
            *("-m", "momentum_gpt.train", "name=a b", f"data.path={data_folder}", f"runs={runs}"),
            *SMOKE,
            "launch.nproc_per_node=1",
            "launch.nnodes=2",
            f"launch.node_rank={number}",
            "launch.master_addr=one",
        ]


def test_what_cannot_be_submitted_is_refused_in_one_line(
    invoke: Invoke, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    options = ["name=x", f"data.path={data_folder}", f"runs={tmp_path}", *SMOKE]
    done = invoke(train.main, *options, "launch=slurm")
    assert done.code == 2
    assert "there is no command 'sbatch' here" in done.err

    done = invoke(train.main, *options, "launch=slurm", "model.vocab_size=3")
    assert done.code == 2
    assert "model.vocab_size=3 is smaller than" in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"nnodes": 2}, "needs launch.master_addr=HOST"),
        ({"node_rank": 1}, r"launch\.node_rank.*from 0 to launch\.nnodes - 1 = 0"),
        ({"kind": "hosts"}, "needs launch.hostfile=FILE"),
        ({"kind": "moon"}, "local, hosts, slurm, kubernetes"),
        ({"master_port": 0}, "a port, 1 to 65535"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        LaunchConfig(**options)


def test_arguments_are_quoted() -> None:
    script = with_arguments('set -euo pipefail\nprintf "%s|" "$@"\n', ["a b", "c'd", "$(exit)"])
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "a b|c'd|$(exit)|"
