"""A real SLURM on this machine: one controller, and two nodes that are both this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldPort=16817
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ReturnToService=2
KillWait=30
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=16821 {size}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=16822 {size}
PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""

NODES = ("n1", "n2")


def run(*command: str) -> str:
    """Return what a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"
    return done.stdout


@contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """Run a SLURM of two nodes, for root on Debian; it is installed if need be.

    Args:
        folder: for its files; it does not exist yet.
    """
    if not shutil.which("slurmctld"):
        run("apt-get", "update")
        run("apt-get", "install", "-y", "--no-install-recommends", "slurm-wlm", "munge")
    _start_munge()

    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 // 2 - 512
    size = f"CPUs={os.cpu_count()} RealMemory={memory} State=UNKNOWN"
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=socket.gethostname(), folder=folder, size=size))
    os.environ["SLURM_CONF"] = str(config)
    try:
        run("slurmctld", "-f", str(config))
        time.sleep(2)
        for node in NODES:
            run("slurmd", "-f", str(config), "-N", node)
        end = time.monotonic() + 60
        while run("sinfo", "--noheader", "--format=%T %D").split() != ["idle", "2"]:
            assert time.monotonic() < end, run("sinfo")
            time.sleep(1)
        yield
    finally:
        for path in folder.glob("*.pid"):
            subprocess.run(["kill", path.read_text().strip()], check=False)
        del os.environ["SLURM_CONF"]


def _start_munge() -> None:
    folders = ("/run/munge", "/var/log/munge", "/var/lib/munge")
    for folder in folders:
        Path(folder).mkdir(exist_ok=True)
    run("chown", "munge:munge", *folders, "/etc/munge/munge.key")
    Path("/run/munge").chmod(0o711)
    subprocess.run(
        ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "/usr/sbin/munged"],
        check=False,
    )
