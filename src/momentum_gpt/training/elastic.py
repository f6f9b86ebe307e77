"""Resume with another number of ranks, another ZeRO stage or another precision.

DeepSpeed loads a checkpoint only into an engine that is divided like the one that wrote it. Here
its files are read as what its universal checkpoint consists of (Lian et al., arXiv 2406.18820): for
each parameter, the whole fp32 weights, both moments and the number of updates. That is also what is
put into the present engine, however it is divided. Nothing is rounded on the way, nothing is
written to disk, and only one parameter at a time is in memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from momentum_gpt.core import distributed
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.manifest import CheckpointManifest
from momentum_gpt.training.engine import load_states, read_engine_file
from momentum_gpt.training.optim import parameter_groups

State = dict[str, Tensor]
"""A parameter's "fp32", "exp_avg", "exp_avg_sq" (not with Muon) and "step"."""

MOMENTS = ("exp_avg", "exp_avg_sq")


def is_same_layout(manifest: CheckpointManifest, engine: Any) -> bool:
    """Return whether DeepSpeed can load the checkpoint into the engine directly."""
    return (
        manifest.world_size == distributed.world_size()
        and manifest.precision == ("bf16" if engine.bfloat16_enabled() else "fp32")
        and manifest.zero_optimization == engine.config["zero_optimization"]
    )


def load_elsewhere(engine: Any, engine_folder: Path, manifest: CheckpointManifest) -> None:
    """Load a checkpoint into an engine that is divided otherwise. Every rank must call this.

    Args:
        engine: new, without a step taken.
        engine_folder: `engine/` of a checkpoint; beside it is `model/`.

    Raises:
        UserError: an option of DeepSpeed, then or now, leaves the state where it cannot be read
            or set.
    """
    _refuse_what_stays(manifest.zero_optimization, "was written")
    _refuse_what_stays(engine.config["zero_optimization"], "would be resumed")

    load_states(engine, universal_states(engine_folder, engine.module))
    engine.global_steps = manifest.step
    engine.global_samples = manifest.step * engine.train_batch_size()


def _refuse_what_stays(zero: dict[str, Any], what: str) -> None:
    """Refuse options with which the state is not in DeepSpeed's files, or is laid out differently.

    Args:
        zero: DeepSpeed's `zero_optimization`.
    """
    for key in ("offload_optimizer", "offload_param"):
        if (zero.get(key) or {}).get("device") == "nvme":
            raise _refusal(f"{key}.device=nvme", what)
    if zero.get("elastic_checkpoint"):
        raise _refusal("elastic_checkpoint=true", what)
    if zero.get("mics_shard_size", -1) > 0:
        raise _refusal(f"mics_shard_size={zero['mics_shard_size']}", what)


def _refusal(option: str, what: str) -> UserError:
    return UserError(
        f"the checkpoint {what} with deepspeed.zero_optimization.{option}, which does not go with "
        "another number of ranks, ZeRO stage or precision: resume it with those it was written with"
    )


def universal_states(engine_folder: Path, model: nn.Module) -> Iterator[tuple[str, State]]:
    """Yield the name and the whole, flat state of each parameter, from DeepSpeed's own files.

    Args:
        engine_folder: `engine/` of a checkpoint, of any ZeRO stage, number of ranks and precision.
        model: of the same shape as the one in the checkpoint.
    """
    files = sorted(engine_folder.glob("*_optim_states.pt"), key=_rank_of)
    if not files:
        yield from _undivided(engine_folder, model)
        return

    pieces: dict[str, list[State]] = {}
    for rank, file in enumerate(files):
        stored = read_engine_file(file)["optimizer_state_dict"]
        if "fp32_flat_groups" in stored:
            found = _pieces_of_stage_3(stored, _shapes(engine_folder), rank, len(files))
        else:
            found = _pieces_of_stages_1_and_2(stored)
        for name, piece in found:
            pieces.setdefault(name, []).append(piece)

    # Each rank holds a later stretch of a parameter than the rank before it.
    for name, in_order in pieces.items():
        yield name, _joined(in_order)


def _rank_of(file: Path) -> int:
    found = re.search(r"zero_pp_rank_(\d+)_", file.name)
    assert found, f"{file} is not a rank's file"
    return int(found[1])


def _joined(pieces: list[State]) -> State:
    whole = {"step": pieces[0]["step"]}
    for key in pieces[0].keys() - {"step"}:
        whole[key] = torch.cat([piece[key] for piece in pieces])
    return whole


def _pieces_of_stages_1_and_2(stored: dict[str, Any]) -> Iterator[tuple[str, State]]:
    """Yield one rank's piece of each parameter that it has a piece of."""
    for group, addresses in enumerate(stored["param_slice_mappings"]):
        weights = stored["single_partition_of_fp32_groups"][group]
        adam = _adam(stored["base_optimizer_state"]["state"], group, weights)
        for name, address in addresses.items():
            yield name, _piece(weights, adam, address.start, address.numel)


def _pieces_of_stage_3(
    stored: dict[str, Any], shapes: list[dict[str, torch.Size]], rank: int, world_size: int
) -> Iterator[tuple[str, State]]:
    """Yield one rank's piece of each parameter: equal parts, of which the last are padded.

    Args:
        shapes: of the parameters of each group, in the order in which they are stored.
    """
    for group, shape_of in enumerate(shapes):
        weights = stored["fp32_flat_groups"][group]
        adam = _adam(stored["optimizer_state_dict"]["state"], group, weights)
        start = 0
        for name, shape in shape_of.items():
            part = math.ceil(shape.numel() / world_size)
            rest = max(0, shape.numel() - rank * part)
            yield name, _piece(weights, adam, start, min(part, rest))
            start += part


def _shapes(engine_folder: Path) -> list[dict[str, torch.Size]]:
    """Return the shapes of the parameters of each group under ZeRO-3."""
    file = engine_folder / "zero_pp_rank_0_mp_rank_00_model_states.pt"
    return read_engine_file(file)["param_shapes"]


def _piece(weights: Tensor, adam: State, start: int, size: int) -> State:
    flat = {"fp32": weights} | _moments(adam)
    piece = {key: tensor.narrow(0, start, size) for key, tensor in flat.items()}
    return piece | {"step": adam["step"]}


def _moments(adam: State) -> State:
    return {key: adam[key] for key in MOMENTS if key in adam}


def _adam(states: dict[int, State], index: int, weights: Tensor) -> State:
    """Return AdamW's state of a tensor: zeros if every update before the checkpoint was left out.

    Args:
        states: by the tensor's index.
        weights: the tensor.
    """
    if states.get(index):
        return states[index]
    zeros = torch.zeros_like(weights)
    return {"step": torch.zeros(()), "exp_avg": zeros, "exp_avg_sq": zeros}


def _undivided(engine_folder: Path, model: nn.Module) -> Iterator[tuple[str, State]]:
    """Yield each parameter's state from a checkpoint of stage 0.

    AdamW's state is in the order of the optimizer's groups, without names.
    """
    stored = read_engine_file(engine_folder / "mp_rank_00_model_states.pt")
    states = stored["optimizer"]["state"]
    with safe_open(engine_folder.parent / "model" / "model.safetensors", "pt") as file:
        weights = {name: file.get_tensor(name) for name, _ in model.named_parameters()}
    muon = any(group.get("muon") for group in stored["optimizer"]["param_groups"])
    names = [name for group in parameter_groups(weights, muon).values() for name in group]
    for index, name in enumerate(names):
        adam = _adam(states, index, weights[name])
        assert adam["exp_avg"].shape == weights[name].shape, name
        flat = {"fp32": weights[name]} | _moments(adam)
        state = {key: tensor.flatten() for key, tensor in flat.items()}
        yield name, state | {"step": adam["step"]}
