"""What a run prints before its first step: what is going to happen."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention import SDPBackend

from momentum_gpt.core import distributed
from momentum_gpt.core.batch_plan import BatchPlan
from momentum_gpt.core.config import ModelConfig, TrainConfig
from momentum_gpt.core.provenance import processor
from momentum_gpt.models import ATTENTIONS
from momentum_gpt.ops import has_kernel
from momentum_gpt.ops.cross_entropy import ROWS
from momentum_gpt.ops.projection import is_for_onednn
from momentum_gpt.training.engine import is_on_nvme, quantised


def describe(config: TrainConfig, plan: BatchPlan, data: str, n_parameters: int) -> str:
    """Return what is going to happen, as lines that are printed before the first step."""
    model, training = config.model, config.training
    given = {key: value for key, value in config.attention.items() if key != "name"}
    options = ", ".join(f"{key} {value}" for key, value in given.items())
    readers = "rank(s)"
    if plan.ranks_per_sequence > 1:
        readers = f"group(s) of {plan.ranks_per_sequence} ranks"
    stage = config.stage_on(distributed.world_size())
    device = distributed.local_device().type
    caution = ""
    if quantised(config.deepspeed):
        caution = "; what is sent is rounded, which changes the arithmetic"
    if is_on_nvme(config.deepspeed):
        caution = "; with NVMe the run cannot be resumed"
    lines = {
        "run": str(config.run_dir),
        "model": f"{n_parameters:,} parameters: {model.n_layers} layers, {model.n_heads} heads, "
        f"d_model {model.d_model}, {model.seq_len} tokens of context, vocabulary "
        f"{model.vocab_size}, {model.positions} positions",
        "weights": config.init or f"drawn from seed {training.seed}",
        "attention": config.attention["name"]
        + (f" ({options})" if options else "")
        + summation(config.attention),
        "data": data,
        "batch": f"{training.tokens_per_step:,} tokens = {plan.global_batch_size} sequences = "
        f"{plan.world_size} {readers} x {plan.micro_batch_size} per forward x "
        f"{plan.grad_accum_steps} accumulated",
        "engine": f"DeepSpeed ZeRO-{stage}, {training.precision}, "
        f"{device}{', compiled' if config.is_compiled_on(device) else ''}{caution}",
    }
    return "\n".join(f"{name:<10}{text}" for name, text in lines.items())


def machine() -> str:
    """Return what this rank computes on: the name of its GPU, or of the processor."""
    device = distributed.local_device()
    return torch.cuda.get_device_name() if device.type == "cuda" else processor()


def kernels(config: TrainConfig) -> dict[str, str]:
    """Return what computes the parts of a step on this rank; runs that are compared must agree."""
    device = distributed.local_device()
    dtype = torch.bfloat16 if config.training.precision == "bf16" else torch.float32
    is_muon = config.optim.name == "muon"
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "attention": f"torch scaled_dot_product_attention, {sdpa_backend(config.model, dtype)}",
        "sum of past values": "Triton" if has_kernel(device) else "matrix products",
        "cross-entropy": f"{ROWS[device.type]} tokens at a time",
        "optimizer": "Muon and torch AdamW, fused" if is_muon else "torch AdamW, fused",
        "projections": "oneDNN" if is_for_onednn(device, dtype) else "torch",
        "compiler": "torch.compile" if config.is_compiled_on(device.type) else "none",
    }


def sdpa_backend(model: ModelConfig, dtype: torch.dtype) -> str:
    """Return the backend that torch chooses for training on rows without a mask, in its words."""
    shape = (1, model.n_heads, model.seq_len, model.d_head)
    device = distributed.local_device()
    q, k, v = (torch.zeros(shape, dtype=dtype, device=device, requires_grad=True) for _ in "qkv")
    chosen = torch._fused_sdp_choice(q, k, v, is_causal=True)
    return SDPBackend(chosen).name.lower()


def summation(attention: dict[str, Any]) -> str:
    """Return which form of `ema_of_past` was chosen, if the variant has a decay."""
    if not ATTENTIONS[attention["name"]].has_decay:
        return ""
    if has_kernel(distributed.local_device()):
        return ", summed by the Triton kernel"
    return ", summed by matrix products"
