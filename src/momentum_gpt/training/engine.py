"""The DeepSpeed engine: the only file that imports deepspeed."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
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
"""DeepSpeed's keys that we write ourselves, and the option each comes from."""


def check_deepspeed_options(options: dict[str, Any], precision: str) -> str | None:
    """Refuse keys that are derived; returns what must be said if the stage had to be changed (in place), else None.

    Raises:
        UserError: a derived key, or a ZeRO stage that does not exist.
    """
    for key, option in DERIVED_KEYS.items():
        if key in options:
            raise UserError(f"deepspeed.{key} is derived and cannot be set: use {option}")
    stage = zero_stage(options)
    if stage not in (0, 1, 2, 3):
        raise UserError(f"deepspeed.zero_optimization.stage must be 0, 1, 2 or 3, got {stage!r}")
    if stage == 0 and precision == "bf16":
        options["zero_optimization"]["stage"] = 1
        return "ZeRO stage 0 takes wrong first Adam steps in bf16: using stage 1"
    return None


def zero_stage(options: dict[str, Any]) -> Any:
    return options.setdefault("zero_optimization", {}).setdefault("stage", 1)


def deepspeed_config(config: TrainConfig, plan: BatchPlan) -> dict[str, Any]:
    """Everything DeepSpeed is told, its changing defaults written out."""
    return config.deepspeed | {
        "train_batch_size": plan.global_batch_size,
        "train_micro_batch_size_per_gpu": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.grad_accum_steps,
        "gradient_clipping": config.optim.grad_clip,
        "bf16": {"enabled": config.training.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 2**31,
    }


def build_engine(model: GPT, config: TrainConfig, plan: BatchPlan) -> Any:
    """The engine around a model that already has its weights. Every rank must call this.

    Nothing is compiled: the optimizer is torch's own, and DeepSpeed's shared-memory op for CPUs is switched off.
    """
    deepspeed = _import_deepspeed()
    model.activation_checkpointing = config.training.activation_checkpointing
    model.to(distributed.local_device())
    told = deepspeed_config(config, plan)
    with contextlib.redirect_stdout(io.StringIO()):  # in bf16 it prints its memory eight times
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=build_optimizer(model, config.optim), config=told
        )
    _read_back(engine, told)
    engine.checkpoint_engine = _safe_checkpoint_engine()
    if config.training.compile:
        engine.compile()
    return engine


def _import_deepspeed() -> Any:
    if distributed.local_device().type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module="torch.distributed"
    )  # names DeepSpeed still uses
    import deepspeed
    import deepspeed.ops

    deepspeed.utils.logger.setLevel(logging.WARNING)
    # Building this op would take a compiler, ninja and 90 s at the first start on a CPU.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _read_back(engine: Any, told: dict[str, Any]) -> None:
    """What DeepSpeed will do must be what it was told."""
    does = {
        "train_batch_size": engine.train_batch_size(),
        "train_micro_batch_size_per_gpu": engine.train_micro_batch_size_per_gpu(),
        "gradient_accumulation_steps": engine.gradient_accumulation_steps(),
        "gradient_clipping": engine.gradient_clipping(),
        "bf16": {"enabled": engine.bfloat16_enabled()},
        "data_types": {
            "grad_accum_dtype": engine.get_data_types()[1]
            .__repr__()
            .replace("torch.float32", "fp32")
        },
    }
    for key, value in does.items():
        assert told[key] == value, f"DeepSpeed was told {key}={told[key]} and would use {value}"
    assert engine.zero_optimization_stage() == zero_stage(told)


def _safe_checkpoint_engine() -> Any:
    """DeepSpeed's own file format, read with torch's weights-only unpickler: reading a checkpoint runs nothing in it."""
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
    for group in engine.optimizer.param_groups:
        group["lr"] = lr


def train_batch(engine: Any, micro_batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """One optimizer step; returns this rank's mean loss, nats per token, still on the device."""
    total = torch.zeros((), device=engine.device)
    for tokens, targets in micro_batches:
        loss = engine(tokens.to(engine.device), targets.to(engine.device))
        engine.backward(loss)
        engine.step()  # updates only after the last micro-batch
        total += loss.detach()
    return total / len(micro_batches)


def grad_norm(engine: Any) -> float | None:
    """L2 norm of the last step's gradient before clipping; None where DeepSpeed does not compute it (fp32, stage 0)."""
    norm = engine.get_global_grad_norm()
    return None if norm is None else float(norm)


def full_weights(engine: Any) -> dict[str, Tensor]:
    """The model's parameters by name, whole, on the CPU of the main rank; {} on the others. Every rank must call this."""
    import deepspeed

    weights = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=zero_stage(engine.config) == 3):
            if distributed.is_main():
                weights[name] = parameter.detach().cpu().clone()
    return weights


def save_engine(engine: Any, folder: Path) -> None:
    """What resuming needs, a file or two per rank. Every rank must call this: DeepSpeed waits for all."""
    engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)


def load_engine(engine: Any, folder: Path) -> None:
    path, _ = engine.load_checkpoint(str(folder.parent), tag=folder.name)
    assert path is not None, f"DeepSpeed found nothing in {folder}"
