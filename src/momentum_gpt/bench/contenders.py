"""What is timed beside what: trainers that take one optimizer step whenever they are asked to.

Each is a generator: it builds its model, and each `next` is a whole step of AdamW with clipping,
over batches of random windows of the same token shards.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from momentum_gpt.bench.shapes import Shape
from momentum_gpt.core import distributed
from momentum_gpt.core.config import (
    DataConfig,
    OptimConfig,
    TrainConfig,
    TrainingConfig,
)
from momentum_gpt.core.flops import flops_per_token
from momentum_gpt.data import TokenShards

LR = 3e-4
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1
CLIP = 1.0
FOREVER = 10**9

VANILLA = {"name": "vanilla"}
MOMENTUM = {"name": "momentum", "ema_decay": 0.5}

Batches = Iterator[tuple[Tensor, Tensor]]


def ours(shape: Shape, data: Path, attention: dict[str, Any]) -> Iterator[None]:
    """Train as `momentum-gpt train` does, with all that it does between steps but the logging."""
    from momentum_gpt.training.loop import Loop
    from momentum_gpt.training.throughput import Throughput
    from momentum_gpt.worker import prepare

    with tempfile.TemporaryDirectory() as runs:
        config = config_of(shape, data, attention, runs)
        timeout = timedelta(hours=1)
        distributed.start(distributed.local_device(), timeout)
        run, batches, _ = prepare(config, timeout)
        throughput = Throughput(shape.tokens_per_step, flops_per_token(config.model))
        loop = Loop(config, batches, run, None, throughput)
        for number, micro_batches, n_targets in loop.coming(range(FOREVER)):
            loop.log_step(loop.take(number, micro_batches, n_targets))
            yield


def plain_torch(shape: Shape, data: Path) -> Iterator[None]:
    """Train our model in a loop of a few lines."""
    from momentum_gpt.models import GPT
    from momentum_gpt.models.gpt import init_weights
    from momentum_gpt.training.optim import build_optimizer

    config = config_of(shape, data, VANILLA, "runs")
    model = GPT(config.model, config.attention)
    init_weights(model, 0)
    model.to(distributed.local_device()).train()
    optimizer = build_optimizer(model, config.optim)
    compiled = torch.compile(model) if shape.compile else model

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        nats: Tensor = compiled(tokens, targets)
        return nats / targets.numel()

    return steps(loss, model, optimizer, shape, data)


def nanogpt(shape: Shape, data: Path, checkout: Path) -> Iterator[None]:
    """Train nanoGPT's model with its optimizer, in the loop of its train.py."""
    sys.path.insert(0, str(checkout))
    module = import_module("model")
    options = {
        "n_layer": shape.n_layers,
        "n_head": shape.n_heads,
        "n_embd": shape.d_model,
        "block_size": shape.seq_len,
        "vocab_size": shape.vocab_size,
        "dropout": 0.0,
        "bias": True,
    }
    model = module.GPT(module.GPTConfig(**options))
    model.to(distributed.local_device()).train()
    device = distributed.local_device().type
    optimizer = model.configure_optimizers(WEIGHT_DECAY, LR, BETAS, device)
    compiled = torch.compile(model) if shape.compile else model

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        _, mean = compiled(tokens, targets)
        found: Tensor = mean
        return found

    return steps(loss, model, optimizer, shape, data)


def litgpt(shape: Shape, data: Path, checkout: Path) -> Iterator[None]:
    """Train a GPT-2 of litgpt's model in a loop of a few lines."""
    sys.path.insert(0, str(checkout))
    module = import_module("litgpt")
    config = module.Config(
        block_size=shape.seq_len,
        padded_vocab_size=shape.vocab_size,
        n_layer=shape.n_layers,
        n_head=shape.n_heads,
        n_embd=shape.d_model,
    )
    model = module.GPT(config)
    model.to(distributed.local_device()).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), LR, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
    )
    compiled = torch.compile(model) if shape.compile else model

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        logits = compiled(tokens)
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    return steps(loss, model, optimizer, shape, data)


def steps(
    loss: Callable[[Tensor, Tensor], Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    shape: Shape,
    data: Path,
) -> Iterator[None]:
    """Take steps in plain torch; in bf16, with weights in fp32 and autocast."""
    batches = random_windows(shape, data)
    device = distributed.local_device().type
    while True:
        for _ in range(shape.passes):
            with torch.autocast(device, torch.bfloat16, enabled=shape.precision == "bf16"):
                mean = loss(*next(batches))
            (mean / shape.passes).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield


def trainer(shape: Shape, data: Path) -> Iterator[None]:
    """Train a GPT-2 of `transformers` with its Trainer, in a thread that waits after each step."""
    from momentum_gpt.bench.hf_trainer import train_stepwise

    return train_stepwise(shape, data)


def random_windows(shape: Shape, data: Path) -> Batches:
    """Yield tokens and targets of random windows, (rows, seq_len) each."""
    shards = TokenShards(data, "train")
    generator = torch.Generator().manual_seed(0)
    device = distributed.local_device()
    while True:
        starts = torch.randint(len(shards) - shape.seq_len, (shape.rows,), generator=generator)
        windows = [shards.read(start, shape.seq_len + 1) for start in starts.tolist()]
        block = torch.stack([torch.as_tensor(window.astype("int64")) for window in windows])
        block = block.to(device)
        yield block[:, :-1], block[:, 1:]


def config_of(shape: Shape, data: Path, attention: dict[str, Any], runs: str) -> TrainConfig:
    """Return the options of `train` for a shape."""
    optim = OptimConfig(
        lr=LR,
        min_lr=LR,
        warmup_steps=1,
        beta1=BETAS[0],
        beta2=BETAS[1],
        weight_decay=WEIGHT_DECAY,
        grad_clip=CLIP,
    )
    training = TrainingConfig(
        max_steps=FOREVER,
        tokens_per_step=shape.tokens_per_step,
        max_tokens_per_forward=shape.rows * shape.seq_len,
        precision=shape.precision,
        compile=shape.compile,
    )
    return TrainConfig(
        name="bench",
        runs=runs,
        data=DataConfig(str(data)),
        model=shape.model,
        attention=attention,
        optim=optim,
        training=training,
        deepspeed={"zero_optimization": {"stage": 1}},
    )
