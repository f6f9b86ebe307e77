"""Hand a run over to other hosts, SLURM or Kubernetes: a script in the run's folder, submitted.

The scripts are those of the folder launch/, with the options of this run in them.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from momentum_gpt.core import outcome, stopping
from momentum_gpt.core.config import TrainConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import launch_folder, write_text

SETTINGS = "set -euo pipefail\n"
"""The line of a script after which its arguments are put."""

LOOK_EVERY = 0.5
"""Seconds between two looks at whether a job has ended."""

OURS = (
    *("launch=", "launch.kind=", "launch.dry_run=", "launch.wait=", "launch.hostfile="),
    *("launch.slurm.", "launch.kubernetes.", "launch.nproc_per_node=", "launch.nnodes="),
)
"""Options that say what to submit, and those that the scripts set: they are not passed on."""


def submit(config: TrainConfig, options: Sequence[str]) -> int:
    """Write the script of a run, show it and submit it; return the exit code.

    Args:
        options: of `train`, as they were typed.

    Raises:
        UserError: the command that would submit it is not there.
    """
    launch = config.launch
    name, render, command = KINDS[launch.kind]
    path = config.run_dir / name
    passed_on = [option for option in options if not option.startswith(OURS)]
    write_text(path, render(config, passed_on))
    print(path.read_text(encoding="utf-8"))
    line = shlex.join([*command, str(path)])
    if launch.dry_run:
        print(f"not submitted, because of launch.dry_run=true; it would be: {line}")
        return 0

    print(line, flush=True)
    try:
        if launch.kind == "slurm" and launch.wait:
            return submit_and_wait([*command, str(path)], config.run_dir)
        return subprocess.run([*command, str(path)], check=False).returncode
    except FileNotFoundError:
        raise UserError(
            f"there is no command {command[0]!r} here, with which launch={launch.kind} submits "
            f"{path}: give the command where there is one, or use launch.dry_run=true"
        ) from None


def submit_and_wait(command: Sequence[str], run_dir: Path) -> int:
    """Submit a SLURM job and wait until it has ended, requeued or not; return the run's exit code.

    When this process is asked to stop, the job is cancelled: it saves a checkpoint first.
    """
    outcome.forget(run_dir)
    words = [*command[:-1], "--wait", command[-1]]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    submitted = process.stdout.readline().strip()  # Submitted batch job 12
    print(submitted, flush=True)

    cancelled = False
    while process.poll() is None:
        if stopping.requested() and not cancelled:
            stopping.obey()
            subprocess.run(["scancel", submitted.rpartition(" ")[2]], check=False)
            cancelled = True
        time.sleep(LOOK_EVERY)

    ended = outcome.read(run_dir)
    if ended is None:
        print(f"the job has ended without a word; see its log in {run_dir}", file=sys.stderr)
        return process.returncode or 1
    print(ended.message, file=sys.stderr if ended.exit_code else sys.stdout)
    return ended.exit_code


def hosts_script(config: TrainConfig, options: Sequence[str]) -> str:
    """Return launch/hosts.sh with its arguments in it."""
    assert config.launch.hostfile
    hostfile = str(Path(config.launch.hostfile).absolute())
    return with_arguments(template("hosts.sh"), [hostfile, *options])


def slurm_script(config: TrainConfig, options: Sequence[str]) -> str:
    """Return launch/slurm.sbatch for this one run, with what it asks for and its arguments."""
    launch = config.launch
    asked = launch.slurm
    gpus = launch.nproc_per_node if asked.gpus_per_node is None else asked.gpus_per_node
    values = {
        "job-name": config.name,
        "partition": asked.partition,
        "account": asked.account,
        "time": asked.time,
        "nodes": launch.nnodes,
        "ntasks-per-node": launch.nproc_per_node,
        "gpus-per-node": gpus or None,
        "cpus-per-task": asked.cpus_per_task,
        "output": config.run_dir.absolute() / "slurm-%j.log",
    }
    mine = []
    for name, value in values.items():
        if value is not None:
            mine.append(f"#SBATCH --{name}={shlex.quote(str(value))}")
    for option in asked.extra:
        mine.append(f"#SBATCH --{option.replace(':', '=', 1)}")

    lines = []
    for line in template("slurm.sbatch").splitlines():
        option = line.removeprefix("#SBATCH --").partition("=")[0]
        if not line.startswith("#SBATCH") or option not in (*values, "array"):
            lines.append(line)
    first = next(number for number, line in enumerate(lines) if line.startswith("#SBATCH"))
    lines[first:first] = mine
    return with_arguments("\n".join(lines) + "\n", options)


def kubernetes_manifest(config: TrainConfig, options: Sequence[str]) -> str:
    """Return launch/kubernetes.yaml with the names, numbers and options of this run."""
    launch = config.launch
    asked = launch.kubernetes
    service, job = yaml.safe_load_all(template("kubernetes.yaml"))
    name = kubernetes_name(config.name)
    service["metadata"]["name"] = job["metadata"]["name"] = name
    service["spec"]["selector"]["job-name"] = name
    job["spec"] |= {"completions": launch.nnodes, "parallelism": launch.nnodes}

    pod = job["spec"]["template"]["spec"]
    pod["subdomain"] = name
    pod["volumes"][0]["persistentVolumeClaim"]["claimName"] = asked.claim
    container: dict[str, Any] = pod["containers"][0]
    container |= {"image": asked.image, "workingDir": asked.folder}
    container["volumeMounts"][0]["mountPath"] = asked.folder
    container["args"] = [*options, f"launch.nproc_per_node={launch.nproc_per_node}"]
    if launch.nnodes > 1:
        container["args"] += [
            f"launch.nnodes={launch.nnodes}",
            "launch.node_rank=$(JOB_COMPLETION_INDEX)",
            f"launch.master_addr={name}-0.{name}",
        ]
    gpus = launch.nproc_per_node if asked.gpus_per_node is None else asked.gpus_per_node
    if gpus:
        container["resources"]["limits"]["nvidia.com/gpu"] = str(gpus)
    else:
        del container["resources"]
    return yaml.safe_dump_all([service, job], sort_keys=False)


def kubernetes_name(name: str) -> str:
    """Return a run's name in the letters that Kubernetes allows: a-z, 0-9 and "-"."""
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
    return plain.lower().strip("-")[:50].strip("-") or "run"


def with_arguments(script: str, arguments: Sequence[str]) -> str:
    """Return a script that has its arguments in it."""
    assert SETTINGS in script
    return script.replace(SETTINGS, f"{SETTINGS}set -- {shlex.join(arguments)}\n", 1)


def template(name: str) -> str:
    """Return a file of launch/."""
    return (launch_folder() / name).read_text(encoding="utf-8")


KINDS: dict[str, tuple[str, Callable[[TrainConfig, Sequence[str]], str], list[str]]] = {
    "hosts": ("launch.sh", hosts_script, ["bash"]),
    "slurm": ("launch.sbatch", slurm_script, ["sbatch"]),
    "kubernetes": ("launch.yaml", kubernetes_manifest, ["kubectl", "apply", "-f"]),
}
"""launch.kind -> the name of the script, what renders it, and the command that submits it."""
