"""The same bytes come from a real one-node SLURM and from a real Ray cluster.

Both are started here and stopped again.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data_prep.samples import SMALL, contents

pytestmark = pytest.mark.cluster

CONFIG = """
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"
    return done.stdout


def prepare(text: Path, output: Path, *more: str) -> None:
    arguments = ["corpus=text", f"corpus.paths={text}", f"output={output}", *SMALL, *more]
    run(sys.executable, "-m", "data_prep.prepare", *arguments)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not shutil.which("slurmctld"):
        run("apt-get", "update")
        run("apt-get", "install", "-y", "--no-install-recommends", "slurm-wlm", "munge")
    munge = ("/run/munge", "/var/log/munge", "/var/lib/munge")
    for folder in munge:
        Path(folder).mkdir(exist_ok=True)
    run("chown", "munge:munge", *munge, "/etc/munge/munge.key")
    Path("/run/munge").chmod(0o711)
    subprocess.run(
        ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "/usr/sbin/munged"],
        check=False,
    )
    folder = tmp_path / "slurm"
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 - 512
    config = CONFIG.format(
        host=socket.gethostname(), folder=folder, cores=os.cpu_count(), memory=memory
    )
    (folder / "slurm.conf").write_text(config)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    run("slurmctld", "-f", str(folder / "slurm.conf"))
    time.sleep(2)
    run("slurmd", "-f", str(folder / "slurm.conf"))
    end = time.monotonic() + 60
    while "idle" not in run("sinfo", "--noheader", "--format=%T"):
        assert time.monotonic() < end, run("sinfo")
        time.sleep(1)
    yield
    for name in ("slurmd", "slurmctld"):
        subprocess.run(["kill", (folder / f"{name}.pid").read_text().strip()], check=False)


def test_slurm_makes_the_same_bytes(slurm: None, text_folder: Path, tmp_path: Path) -> None:
    prepare(text_folder, tmp_path / "here")
    prepare(
        text_folder,
        tmp_path / "there",
        "executor=slurm",
        "executor.partition=cpu",
        "executor.memory_gb=1",
    )
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    binary = str(Path(sys.executable).with_name("ray"))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    run(
        binary,
        "start",
        "--head",
        "--node-ip-address=127.0.0.1",
        "--include-dashboard=false",
        "--disable-usage-stats",
    )
    yield
    run(binary, "stop", "--force")


def test_ray_makes_the_same_bytes(ray: None, text_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    prepare(text_folder, tmp_path / "here")
    prepare(text_folder, tmp_path / "there", "executor=ray", "executor.memory_gb=1")
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
