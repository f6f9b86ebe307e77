"""The DeepSpeed engine: the only file that imports deepspeed."""

from __future__ import annotations

import contextlib
import difflib
import io
import logging
import os
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from momentum_gpt.core import distributed
from momentum_gpt.core.config import BatchPlan, TrainConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.models import GPT
from momentum_gpt.training.optim import build_optimizer

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
"""DeepSpeed's keys that are derived, and the option that each comes from."""

KNOWN_KEYS = (
    "activation_checkpointing",
    "aio",
    "autotuning",
    "checkpoint",
    "comet",
    "comms_logger",
    "communication_data_type",
    "compile",
    "csv_monitor",
    "data_efficiency",
    "dataloader_drop_last",
    "datastates_ckpt",
    "disable_allgather",
    "disable_python_gc",
    "dump_state",
    "expert_parallel",
    "flops_profiler",
    "gradient_allreduce_op",
    "gradient_predivide_factor",
    "log_level",
    "memory_breakdown",
    "pipeline",
    "prescale_gradients",
    "seq_parallel_communication_data_type",
    "tensor_parallel",
    "tensorboard",
    "timers",
    "torch_autocast",
    "wall_clock_breakdown",
    "wandb",
    "weight_quantization",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "zero_optimization",
)
"""The other keys that DeepSpeed 0.19 reads. It ignores all others without a word."""

OUR_ZERO_KEYS = {"stage", "overlap_comm"}
"""Keys of `zero_optimization` in conf/deepspeed/: known without loading DeepSpeed."""


def check_deepspeed_options(options: dict[str, Any], precision: str) -> str | None:
    """Refuse keys that are derived or unknown, and correct a stage that would be wrong, in place.

    Returns:
        What to tell the user if the stage was corrected, else None.

    Raises:
        UserError: a derived or unknown key, or a ZeRO stage that does not exist.
    """
    for key in options:
        if key in DERIVED_KEYS:
            raise UserError(
                f"deepspeed.{key} is derived and cannot be set: use {DERIVED_KEYS[key]}"
            )
        _refuse_unknown(key, KNOWN_KEYS, "deepspeed")

    stage = zero_stage(options)
    if stage not in (0, 1, 2, 3):
        raise UserError(f"deepspeed.zero_optimization.stage must be 0, 1, 2 or 3, got {stage!r}")

    zero_options = options["zero_optimization"]
    if set(zero_options) - OUR_ZERO_KEYS:
        names = _zero_keys()
        for key in zero_options:
            _refuse_unknown(key, names, "deepspeed.zero_optimization")

    if stage == 0 and precision == "bf16":
        zero_options["stage"] = 1
        return "ZeRO stage 0 takes wrong first Adam steps in bf16: using stage 1"
    return None


def _refuse_unknown(key: str, known: Collection[str], section: str) -> None:
    if key in known:
        return
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {section}.{close[0]}?" if close else "leave it out"
    raise UserError(f"DeepSpeed has no option {section}.{key}: {hint}")


def _zero_keys() -> set[str]:
    """Return the keys that DeepSpeed takes in `zero_optimization`."""
    _import_deepspeed()
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    entries = DeepSpeedZeroConfig.model_fields
    aliases = {entry.alias for entry in entries.values() if entry.alias}
    return set(entries) | aliases


def zero_stage(options: dict[str, Any]) -> Any:
    """Return the ZeRO stage; 1 is written into the options if there is none."""
    return options.setdefault("zero_optimization", {}).setdefault("stage", 1)


def deepspeed_config(config: TrainConfig, plan: BatchPlan) -> dict[str, Any]:
    """Return everything that DeepSpeed is told, with the defaults that it changes written out."""
    return config.deepspeed | {
        "train_batch_size": plan.global_batch_size,
        "train_micro_batch_size_per_gpu": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.grad_accum_steps,
        "gradient_clipping": config.optim.grad_clip,
        "bf16": {"enabled": config.training.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 2**31,  # we print ourselves
    }


def build_engine(model: GPT, config: TrainConfig, plan: BatchPlan) -> Any:
    """Return the engine around a model that has its weights. Every rank must call this.

    Nothing is compiled: the optimizer is torch's own, and DeepSpeed's shared-memory operation for
    CPUs is switched off.
    """
    deepspeed = _import_deepspeed()
    model.activation_checkpointing = config.training.activation_checkpointing
    model.to(distributed.local_device())
    settings = deepspeed_config(config, plan)
    optimizer = build_optimizer(model, config.optim)

    # In bf16 it prints its memory use eight times.
    with contextlib.redirect_stdout(io.StringIO()):
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)

    _check_settings(engine, settings)
    engine.checkpoint_engine = _safe_checkpoint_engine()
    if config.training.compile:
        engine.compile()
    return engine


def _import_deepspeed() -> Any:
    if distributed.local_device().type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed still uses names that torch has deprecated.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")

    import deepspeed
    import deepspeed.ops

    deepspeed.utils.logger.setLevel(logging.WARNING)
    # Building this operation takes a compiler, ninja and 90 s at the first start on a CPU.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _check_settings(engine: Any, settings: dict[str, Any]) -> None:
    """Assert that DeepSpeed will do what it was told."""
    sum_type = str(engine.get_data_types()[1])
    actual = {
        "train_batch_size": engine.train_batch_size(),
        "train_micro_batch_size_per_gpu": engine.train_micro_batch_size_per_gpu(),
        "gradient_accumulation_steps": engine.gradient_accumulation_steps(),
        "gradient_clipping": engine.gradient_clipping(),
        "bf16": {"enabled": engine.bfloat16_enabled()},
        "data_types": {"grad_accum_dtype": sum_type.replace("torch.float32", "fp32")},
    }
    for key, value in actual.items():
        message = f"DeepSpeed was told {key}={settings[key]} and would use {value}"
        assert settings[key] == value, message
    assert engine.zero_optimization_stage() == zero_stage(settings)


def _safe_checkpoint_engine() -> Any:
    """Return a reader of DeepSpeed's files that runs nothing that is in them.

    It uses torch's weights-only unpickler with the three classes that DeepSpeed writes.
    """
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    class SafeCheckpointEngine(TorchCheckpointEngine):
        def load(self, path: str, map_location: Any = None) -> Any:
            with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
                return torch.load(path, map_location=map_location, weights_only=True)

    return SafeCheckpointEngine()


def set_lr(engine: Any, lr: float) -> None:
    """Set the learning rate of the next update."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr


def train_batch(engine: Any, micro_batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Take one optimizer step and return this rank's mean loss, nats per token, on the device.

    Args:
        micro_batches: tokens and targets, (B, T) each.
    """
    total = torch.zeros((), device=engine.device)
    for tokens, targets in micro_batches:
        loss = engine(tokens.to(engine.device), targets.to(engine.device))
        engine.backward(loss)
        engine.step()  # updates only after the last micro-batch
        total += loss.detach()
    return total / len(micro_batches)


def grad_norm(engine: Any) -> float | None:
    """Return the L2 norm of the last step's gradient before clipping.

    None where DeepSpeed does not compute it: in fp32 at stage 0.
    """
    norm = engine.get_global_grad_norm()
    return None if norm is None else float(norm)


def full_weights(engine: Any) -> dict[str, Tensor]:
    """Return the model's whole parameters by name, on the CPU. Every rank must call this.

    Only the main rank gets them; the others get {}.
    """
    import deepspeed

    is_sharded = zero_stage(engine.config) == 3
    weights = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=is_sharded):
            if distributed.is_main():
                weights[name] = parameter.detach().cpu().clone()
    return weights


def save_engine(engine: Any, folder: Path) -> None:
    """Write what resuming needs, a file or two per rank. Every rank must call this."""
    engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)


def load_engine(engine: Any, folder: Path) -> None:
    """Read what `save_engine` wrote. Every rank must call this."""
    path, _ = engine.load_checkpoint(str(folder.parent), tag=folder.name)
    assert path is not None, f"DeepSpeed found nothing in {folder}"
