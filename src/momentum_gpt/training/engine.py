"""The DeepSpeed engine: the only file that imports deepspeed."""

from __future__ import annotations

import contextlib
import difflib
import io
import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from momentum_gpt.core import activity, distributed
from momentum_gpt.core.batch_plan import BatchPlan
from momentum_gpt.core.config import TrainConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.models import GPT
from momentum_gpt.models.weights import read_weights
from momentum_gpt.training.muon import Layout, MuonAdamW, one_after_another, side_by_side
from momentum_gpt.training.optim import build_optimizer
from momentum_gpt.training.ulysses import SharedSequences

DERIVED_KEYS = {
    "train_batch_size": "training.tokens_per_step",
    "train_micro_batch_size_per_gpu": "training.max_tokens_per_forward",
    "gradient_accumulation_steps": "training.max_tokens_per_forward",
    "gradient_clipping": "optim.grad_clip",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "data_types": "training.precision",
    "optimizer": "optim",
    "scheduler": "optim.schedule",
}
"""DeepSpeed's keys that we write ourselves, and the option each comes from."""

AVERAGING = {
    "gradient_allreduce_op": "mean",
    "gradient_predivide_factor": 1.0,
    "managed_gradient_accumulation": True,
}
"""DeepSpeed's keys by which it takes the mean over micro-batches and ranks; see `train_batch`."""


def check_deepspeed_options(
    options: dict[str, Any], precision: str, optimizer: str = "adamw"
) -> str | None:
    """Check what the user tells DeepSpeed, and mend in place what does not go together.

    Returns:
        A message on what was mended, if anything was.

    Raises:
        UserError: A key that is derived, a key that DeepSpeed does not know, a value it refuses, or
            one that changes what the loss is divided by.
    """
    for key, option in DERIVED_KEYS.items():
        if key in options:
            raise UserError(f"deepspeed.{key} is derived and cannot be set: use {option}")
    for key, value in AVERAGING.items():
        if options.get(key, value) != value:
            raise UserError(
                f"deepspeed.{key}={options[key]} would change what the loss is divided by: "
                f"leave it at {value}"
            )
    stage = zero_stage(options)
    if stage not in (0, 1, 2, 3):
        raise UserError(f"deepspeed.zero_optimization.stage must be 0, 1, 2 or 3, got {stage!r}")
    _check_keys(options)
    if optimizer == "muon":
        _refuse_offload(options)

    if stage == 0 and precision == "bf16":
        options["zero_optimization"]["stage"] = 1
        return "ZeRO stage 0 takes wrong first Adam steps in bf16: using stage 1"
    return None


def _refuse_offload(options: dict[str, Any]) -> None:
    """Refuse what Muon cannot work on: it needs the ranks' gradients beside one another."""
    for key in ("offload_optimizer", "offload_param"):
        device = (options["zero_optimization"].get(key) or {}).get("device", "none")
        if device != "none":
            raise UserError(
                f"optim.name=muon does not go with deepspeed.zero_optimization.{key}.device="
                f"{device}: use deepspeed=zero1, zero2 or zero3, or optim=adamw"
            )


class _Asked(dict[str, Any]):
    """A config that notes which keys are asked for.

    DeepSpeed publishes no list of its keys, and ignores those it does not know. What its own parser
    asks for is the list, in every version. Sections note it as well. Those that are taken as a
    whole become models of pydantic, which refuse by themselves what they do not know.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.asked: set[str] = set()
        self.is_unpacked = False
        for key, value in content.items():
            if isinstance(value, dict):
                self[key] = _Asked(value)

    def unknown(self, prefix: str) -> Iterator[tuple[str, str, list[str]]]:
        """Yield the whole name, the key, and the known keys beside it, of each unknown key."""
        for key, value in self.items():
            if key not in self.asked:
                yield prefix + key, key, sorted(self.asked)
            elif isinstance(value, _Asked) and value.asked and not value.is_unpacked:
                yield from value.unknown(f"{prefix}{key}.")

    def __iter__(self) -> Iterator[str]:
        self.is_unpacked = True  # by `**config`
        return super().__iter__()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def keys(self) -> Any:
        return self  # so that `key in config.keys()` asks, too


def _check_keys(options: dict[str, Any]) -> None:
    """Refuse what DeepSpeed does not read: a misspelt key would be ignored silently."""
    _import_deepspeed()
    from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError
    from deepspeed.runtime.config_utils import DeepSpeedConfigModel
    from pydantic import ValidationError

    # The batch size is only there because the parser demands one.
    told = _Asked({"train_batch_size": distributed.world_size(), **options})
    try:
        DeepSpeedConfig(told)
    except ValidationError as error:
        raise _refusal(error, DeepSpeedConfigModel, options) from None
    except (ValueError, TypeError, AttributeError, AssertionError, DeepSpeedConfigError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"DeepSpeed refuses its options: {reason}") from None
    told.asked.add("sequence_parallel_size")  # asked for among several ranks alone
    for name, key, known in told.unknown("deepspeed."):
        raise UserError(_no_such_key(name, key, known))


def _refusal(error: Any, base: Any, options: dict[str, Any]) -> UserError:
    """Return what is wrong with a section, given the error of DeepSpeed's own model of it.

    Args:
        error: of pydantic.
        base: the class that all such models inherit from.
        options: all options.
    """
    first = error.errors()[0]
    *parents, key = (str(part) for part in first["loc"] or ("",))
    # The path begins in the section, or with it.
    top = (parents or [key])[0]
    sections = [name for name, section in options.items() if top in _keys(section)]
    name = ".".join(["deepspeed", *([] if top in options else sections[:1]), *parents, key])
    if first["type"] != "extra_forbidden":
        return UserError(f"{name}: {first['msg']}, got {first['input']!r}")

    (model,) = (model for model in _all_subclasses(base) if model.__name__ == error.title)
    # A nested model stands in its field's type, which may be "that model or None".
    for parent in parents:
        kind = model.model_fields[parent].annotation
        model = next(part for part in (kind, *get_args(kind)) if hasattr(part, "model_fields"))
    return UserError(_no_such_key(name, key, list(model.model_fields)))


def _keys(section: Any) -> Iterable[str]:
    return section if isinstance(section, dict) else ()


def _all_subclasses(base: Any) -> Iterator[Any]:
    for model in base.__subclasses__():
        yield model
        yield from _all_subclasses(model)


def _no_such_key(name: str, key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    prefix = name.removesuffix(key)
    hint = f"did you mean {prefix + close[0]!r}?" if close else "see deepspeed.ai/docs/config-json"
    return f"DeepSpeed has no option {name!r}: {hint}"


def zero_stage(options: dict[str, Any]) -> Any:
    """Return the ZeRO stage, after writing the default, 1, where the user names none."""
    return options.setdefault("zero_optimization", {}).setdefault("stage", 1)


def deepspeed_config(config: TrainConfig, plan: BatchPlan, n_parameters: int) -> dict[str, Any]:
    """Return all that DeepSpeed is told, with those defaults that change between versions.

    Its own buffers have room for 500 million gradients, however small the model.
    """
    stage = config.stage_on(distributed.world_size())
    bucket = distributed.bucket(n_parameters)
    buffers = {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    return config.deepspeed | {
        "zero_optimization": buffers | config.deepspeed["zero_optimization"] | {"stage": stage},
        "train_batch_size": plan.global_batch_size,
        "train_micro_batch_size_per_gpu": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.grad_accum_steps,
        "gradient_clipping": config.optim.grad_clip,
        # Each gradient is added to its fp32 sum at once, so that none is kept in bf16 as well.
        "bf16": {"enabled": config.training.precision == "bf16", "immediate_grad_update": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 2**31,
        **AVERAGING,
    }


def build_engine(model: GPT, config: TrainConfig, plan: BatchPlan) -> Any:
    """Return the engine around a model that already has its weights. Every rank must call this.

    No op is built: the optimizer is torch's own, and DeepSpeed's shared-memory op for CPUs is
    switched off.
    """
    deepspeed = _import_deepspeed()
    # Building this op would take a compiler, ninja and 90 s at the first start on a CPU.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

    _require_device(config.deepspeed)
    model.activation_checkpointing = config.training.activation_checkpointing
    model.to(distributed.local_device())
    optimizer = build_optimizer(model, config.optim)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    told = deepspeed_config(config, plan, n_parameters)
    if MuonAdamW not in deepspeed.runtime.zero.utils.ZERO_SUPPORTED_OPTIMIZERS:
        deepspeed.runtime.zero.utils.ZERO_SUPPORTED_OPTIMIZERS.append(MuonAdamW)
    with contextlib.redirect_stdout(io.StringIO()):  # in bf16 it prints its memory eight times
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=told)
    _read_back(engine, told)
    if isinstance(optimizer, MuonAdamW) and zero_stage(told):
        optimizer.layout = _layout(engine.optimizer, zero_stage(told))

    engine.checkpoint_engine = _checkpoint_engine()
    # At stage 3 a rank has only its part of the weights.
    engine.checkpoint_engine.stores_weights = zero_stage(told) == 3
    # DeepSpeed adds scripts that convert its files: model/ makes them superfluous.
    engine._copy_recovery_script = lambda folder: None
    if zero_stage(told) == 0:
        engine.clip_fp32_gradients = lambda: _clip(engine)
        # Alone, DeepSpeed would still copy all gradients into buffers and back.
        engine.enable_backward_allreduce = distributed.world_size() > 1
    engine.shared_sequences = _shared_sequences(plan.ranks_per_sequence)
    if config.is_compiled_on(distributed.local_device().type):
        engine.compile()
    return engine


def _require_device(options: dict[str, Any]) -> None:
    """Refuse what DeepSpeed can do on GPUs alone.

    Raises:
        UserError: this rank has no GPU.
    """
    if distributed.local_device().type == "cuda":
        return
    asked = [f"zero_optimization.{key}" for key in quantised(options)]
    if options.get("compile", {}).get("deepcompile"):
        asked.append("compile.deepcompile")
    if asked:
        raise UserError(
            f"deepspeed.{asked[0]}=true needs a GPU, and this rank has none: use deepspeed=zero3"
        )


def is_on_nvme(options: dict[str, Any]) -> bool:
    """Return whether DeepSpeed keeps the optimizer's state on a disk."""
    offload = options["zero_optimization"].get("offload_optimizer") or {}
    return offload.get("device") == "nvme"


def quantised(options: dict[str, Any]) -> list[str]:
    """Return the options of ZeRO that round what is sent, and so change the arithmetic."""
    zero = options["zero_optimization"]
    return [key for key, value in zero.items() if key.startswith("zero_quantized") and value]


def _shared_sequences(n_ranks: int) -> SharedSequences | None:
    if n_ranks == 1:
        return None
    from deepspeed.sequence.layer import DistributedAttention

    return SharedSequences(n_ranks, DistributedAttention)


def _import_deepspeed() -> Any:
    if distributed.local_device().type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed still uses names of torch.distributed that torch has renamed.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    import deepspeed
    import deepspeed.ops

    deepspeed.utils.logger.setLevel(logging.WARNING)
    return deepspeed


def _read_back(engine: Any, told: dict[str, Any]) -> None:
    """Assert that DeepSpeed will do what it was told."""
    grad_accum_dtype = repr(engine.get_data_types()[1]).replace("torch.float32", "fp32")
    does = {
        "train_batch_size": engine.train_batch_size(),
        "train_micro_batch_size_per_gpu": engine.train_micro_batch_size_per_gpu(),
        "gradient_accumulation_steps": engine.gradient_accumulation_steps(),
        "gradient_clipping": engine.gradient_clipping(),
        "bf16": {
            "enabled": engine.bfloat16_enabled(),
            "immediate_grad_update": engine._config.bfloat16_config.immediate_grad_update,
        },
        "data_types": {"grad_accum_dtype": grad_accum_dtype},
        "gradient_predivide_factor": engine.gradient_predivide_factor(),
        "managed_gradient_accumulation": engine.managed_gradient_accumulation(),
    }
    assert engine.gradient_average
    for key, value in does.items():
        assert told[key] == value, f"DeepSpeed was told {key}={told[key]} and would use {value}"
    assert engine.zero_optimization_stage() == zero_stage(told)


def _layout(optimizer: Any, stage: int) -> Layout:
    """Return how the matrices stand in the flat tensors of one of DeepSpeed's optimizers."""
    if stage == 3:
        flat, groups = optimizer.fp32_partitioned_groups_flat, optimizer.fp16_groups
        shapes = [[parameter.ds_shape for parameter in group] for group in groups]
        orthogonalise = side_by_side
    else:
        flat = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        bf16 = hasattr(optimizer, "bf16_groups")  # stage 1 in bf16 has a class of its own
        groups = optimizer.bf16_groups if bf16 else optimizer.round_robin_bit16_groups
        shapes = [[parameter.shape for parameter in group] for group in groups]
        orthogonalise = one_after_another

    shapes_in = dict(zip(flat, shapes, strict=True))
    return lambda tensor, update: orthogonalise(shapes_in[tensor], update)


def _checkpoint_engine() -> Any:
    """Return DeepSpeed's checkpoint format, which is written later and read without running it.

    What DeepSpeed wants to save is copied to the CPU and kept: the training goes on while the copy
    is written. Weights that `model/` holds whole are not stored again in `engine/`.
    """
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

    class CheckpointEngine(TorchCheckpointEngine):
        def __init__(self) -> None:
            super().__init__()
            self.states: dict[Path, Any] = {}
            self.stores_weights = False

        def makedirs(self, path: str, exist_ok: bool = False) -> None:
            """Make nothing yet."""

        def preserves_storage_sharing(self) -> bool:
            return False

        def save(self, state_dict: dict[str, Any], path: str) -> None:
            if "module" in state_dict and not self.stores_weights:
                state_dict = {**state_dict, "module": None}
            self.states[Path(path)] = _copied(state_dict)

        def load(self, path: str, map_location: Any = None) -> Any:
            state = _load_file(path, map_location)
            if "module" in state and state["module"] is None:
                state["module"] = read_weights(Path(path).parents[1] / "model")
            return state

    return CheckpointEngine()


def _load_file(path: str | Path, map_location: Any, mmap: bool = False) -> Any:
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    # The only classes that DeepSpeed's own files hold, beside tensors and plain types.
    with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
        return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)


def _copied(value: Any) -> Any:
    """Return a copy, on the CPU, of the tensors in nested containers, and all else as it is."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return type(value)((key, _copied(part)) for key, part in value.items())
    if type(value) in (list, tuple):
        return type(value)(_copied(part) for part in value)
    return value


def set_lr(engine: Any, lr: float) -> None:
    """Set the learning rate of the next update."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr


def accumulate(engine: Any, micro_batches: list[tuple[Tensor, Tensor]], n_targets: int) -> Tensor:
    """Add up the gradient of one global batch; return this rank's parts of the loss, on the device.

    The loss is the sum of nats over the whole global batch divided by its number of targets, in
    nats per token. It is the sum of all parts, (micro-batches,), of all ranks. `update` must
    follow.

    Args:
        micro_batches: this rank's tokens and targets, (B, T) each.
        n_targets: targets of the whole global batch, over micro-batches and ranks.
    """
    # DeepSpeed takes the mean over micro-batches and ranks. So each sum of nats is divided by
    # their mean number of targets, whatever its own number is.
    mean_targets = n_targets / (len(micro_batches) * distributed.world_size())
    parts = []
    engine.module.share_sequences(engine.shared_sequences)
    for number, (tokens, targets) in enumerate(micro_batches):
        if number:
            engine.step()  # counts the micro-batch before; nothing is updated yet
        tokens, targets = (of.to(engine.device, non_blocking=True) for of in (tokens, targets))
        nats = engine(tokens, targets)
        engine.backward(nats / mean_targets)
        parts.append(nats.detach())
        activity.pulse()
    engine.module.share_sequences(None)  # whatever else is done with the model is done whole
    if zero_stage(engine.config) == 0:
        engine._global_grad_norm = _total_norm(engine)
    return torch.stack(parts) / n_targets


def _total_norm(engine: Any) -> Tensor:
    """Return the L2 norm of the gradient at stage 0, where each rank has all of it."""
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def _clip(engine: Any) -> None:
    """Clip the gradient at stage 0 by the norm that `accumulate` has found.

    DeepSpeed would compute it again, parameter by parameter, and not tell it.
    """
    parameters = engine.module.parameters()
    most = engine.gradient_clipping()
    torch.nn.utils.clip_grads_with_norm_(parameters, most, engine._global_grad_norm)


def gradient_is_finite(engine: Any) -> bool:
    """Return whether the gradient at stage 0 is finite; it is the same on every rank there.

    At other stages DeepSpeed looks itself, and `update` says what it found.
    """
    if zero_stage(engine.config) != 0:
        return True
    return bool(engine._global_grad_norm.isfinite())


def update(engine: Any, leave_out: bool = False) -> bool:
    """Take the optimizer step of the gradient that was added up; return whether it was taken.

    DeepSpeed leaves it out by itself if the gradient is not finite.

    Args:
        leave_out: whether to drop the gradient instead. Weights and moments then stay as they are.
    """
    if not leave_out:
        engine.step()
        return bool(engine.was_step_applied())

    # At every ZeRO stage DeepSpeed's step calls that of torch's optimizer.
    optimizer = engine.client_optimizer
    optimizer.step = lambda *_: None
    try:
        engine.step()
    finally:
        del optimizer.step
    return False


def gradients(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield each parameter's name and gradient, whole, after `accumulate`.

    Every rank must call this, and take all of them.
    """
    from deepspeed.utils import safe_get_full_grad

    for name, parameter in engine.module.named_parameters():
        if zero_stage(engine.config) == 0:
            yield name, parameter.grad
        else:
            yield name, safe_get_full_grad(parameter)


def weights(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield each parameter's name and value, whole. Every rank must call this, and take all."""
    import deepspeed

    partitioned = zero_stage(engine.config) == 3
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=partitioned):
            yield name, parameter.detach()


def grad_norm(engine: Any) -> float | None:
    """Return the L2 norm of the last step's gradient before clipping; None before the first."""
    norm = engine.get_global_grad_norm()
    return None if norm is None else float(norm)


def full_weights(engine: Any) -> dict[str, Tensor]:
    """Return the model's parameters by name, whole, on the CPU of the main rank; {} on the others.

    Every rank must call this.
    """
    found = {}
    for name, weight in weights(engine):
        if distributed.is_main():
            found[name] = weight.cpu().clone()
    return found


def engine_state(engine: Any, folder: Path) -> dict[Path, Any]:
    """Return a copy, on the CPU, of what resuming needs of this rank: file in `folder` -> content.

    Every rank must call this: DeepSpeed waits for all of them. Nothing is written. With NVMe there
    is nothing: DeepSpeed does not restore what stayed in memory beside it, such as all vectors.
    """
    if is_on_nvme(engine.config):
        return {}
    engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)
    states = engine.checkpoint_engine.states
    engine.checkpoint_engine.states = {}
    return states


def load_engine(engine: Any, folder: Path) -> None:
    """Load what was written of `engine_state`. Every rank must call this.

    Raises:
        UserError: a file is missing, or is not a state of this engine.
    """
    try:
        path, _ = engine.load_checkpoint(str(folder.parent), tag=folder.name)
        if path is None:
            raise ValueError("DeepSpeed finds nothing there")
    except Exception as error:  # whatever a file that somebody else wrote leads DeepSpeed to
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(
            f"{folder} does not hold the engine's state ({reason}): delete {folder.parent} to "
            "use an older checkpoint"
        ) from None


def read_engine_file(path: Path) -> Any:
    """Return what one of DeepSpeed's files holds; tensors stay on disk until they are used."""
    return _load_file(path, "cpu", mmap=True)


def load_states(engine: Any, states: Iterable[tuple[str, dict[str, Tensor]]]) -> None:
    """Put weights and AdamW's state into an engine that has not taken a step yet.

    Every rank must call this, with the same states in the same order.

    Args:
        states: each parameter's name and its whole, flat "fp32", "exp_avg" and, with AdamW,
            "exp_avg_sq", and the number of updates, "step".
    """
    created = _create_optimizer_state(engine)
    parameters = dict(engine.module.named_parameters())
    steps = set()
    for name, state in states:
        _set_parameter(engine, parameters.pop(name), state)
        steps.add(float(state["step"]))
    assert not parameters, f"nothing was stored for {sorted(parameters)}"

    (step,) = steps
    for state in created:
        state["step"].fill_(step)


def _create_optimizer_state(engine: Any) -> list[dict[str, Tensor]]:
    """Return the optimizer's state of each tensor that it updates, as zeros.

    The optimizer itself makes it in the first step. Under ZeRO these tensors are parts of many
    parameters.
    """
    optimizer = engine.optimizer
    groups = optimizer.param_groups
    if zero_stage(engine.config) == 3:
        of_tensors = [groups[number] for number in optimizer.sub_group_to_group_id.values()]
        tensors = list(zip(optimizer.fp32_partitioned_groups_flat, of_tensors, strict=True))
    else:
        tensors = [(tensor, group) for group in groups for tensor in group["params"]]

    created = []
    for tensor, group in tensors:
        state = {"step": torch.zeros((), device=tensor.device), "exp_avg": torch.zeros_like(tensor)}
        if not group.get("muon"):
            state["exp_avg_sq"] = torch.zeros_like(tensor)
        optimizer.state[tensor] = state
        created.append(state)
    if zero_stage(engine.config) in (1, 2):
        optimizer._lazy_init_hp_params_optimizer_state()  # so that DeepSpeed's setters find it
    return created


@torch.no_grad()
def _set_parameter(engine: Any, parameter: nn.Parameter, state: dict[str, Tensor]) -> None:
    """Set a parameter, its fp32 copy and its moments, or what this rank has of them."""
    import deepspeed
    from deepspeed import utils

    stage = zero_stage(engine.config)
    moments = state.keys() - {"fp32", "step"}
    # Under ZeRO-3, what the main rank has written is sent to the others.
    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=stage == 3):
        parameter.copy_(state["fp32"].view_as(parameter))

    if stage == 0:
        for key in moments:
            engine.optimizer.state[parameter][key].copy_(state[key].view_as(parameter))
    elif stage == 3:
        utils.safe_set_local_fp32_param(parameter, _local_part(parameter, state["fp32"]))
        for key in moments:
            part = _local_part(parameter, state[key])
            utils.safe_set_local_optimizer_state(parameter, part, key)
    else:
        utils.safe_set_full_fp32_param(parameter, state["fp32"])
        for key in moments:
            utils.safe_set_full_optimizer_state(parameter, state[key], key)


def _local_part(parameter: Any, whole: Tensor) -> Tensor:
    """Return what this rank holds of a flat tensor under ZeRO-3: equal parts, the last padded."""
    size = parameter.ds_tensor.numel()
    padded = F.pad(whole, (0, size * distributed.world_size() - whole.numel()))
    return padded.narrow(0, size * distributed.rank(), size)
