"""A rank's place, from the environment that torchrun or SLURM gives it."""

from __future__ import annotations

import os
import subprocess

from momentum_gpt.core.errors import MachineError

FIRST_PORT = 20_000
N_PORTS = 12_000
"""The ports that jobs take by their number; Linux gives none of them to outgoing connections."""


def take_place() -> None:
    """Set what torch and DeepSpeed read (RANK, WORLD_SIZE, ...), if srun has started several tasks.

    MASTER_ADDR and MASTER_PORT stay as they are where they are set.

    Raises:
        MachineError: the name of the first host cannot be found out.
    """
    place = os.environ
    if "RANK" in place or int(place.get("SLURM_STEP_NUM_TASKS", 1)) < 2:
        return
    place["RANK"] = place["SLURM_PROCID"]
    place["LOCAL_RANK"] = place["SLURM_LOCALID"]
    place["WORLD_SIZE"] = place["SLURM_STEP_NUM_TASKS"]
    if "MASTER_ADDR" not in place:
        place["MASTER_ADDR"] = _first_host()
    if "MASTER_PORT" not in place:
        number = int(place["SLURM_JOB_ID"]) + 1009 * int(place["SLURM_STEP_ID"])
        place["MASTER_PORT"] = str(FIRST_PORT + number % N_PORTS)


def ranks() -> tuple[int, int]:
    """Return which rank this process is, and how many there are; of a single process 0 and 1."""
    take_place()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def _first_host() -> str:
    if os.environ["SLURM_STEP_NUM_NODES"] == "1":
        return "127.0.0.1"
    command = ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise MachineError(
            f"the first host is unknown ({' '.join(command)}: {error}): set MASTER_ADDR"
        ) from None
    return done.stdout.split()[0]
