"""The Trainer of `transformers`, one step at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from momentum_gpt.bench.contenders import BETAS, CLIP, FOREVER, LR, WEIGHT_DECAY
from momentum_gpt.bench.shapes import Shape
from momentum_gpt.data import TokenShards


class Windows(Dataset[dict[str, torch.Tensor]]):
    """Windows of token shards, one after another."""

    def __init__(self, shape: Shape, data: Path) -> None:
        self.shards = TokenShards(data, "train")
        self.seq_len = shape.seq_len

    def __len__(self) -> int:
        return len(self.shards) // self.seq_len

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        tokens = torch.as_tensor(self.shards.read(number * self.seq_len, self.seq_len))
        return {"input_ids": tokens, "labels": tokens}


class Gate(TrainerCallback):
    """Stops the training after each step until it may go on."""

    def __init__(self) -> None:
        self.is_done = Event()
        self.may_go_on = Event()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.is_done.set()
        self.may_go_on.wait()
        self.may_go_on.clear()


def train_stepwise(shape: Shape, data: Path) -> Iterator[None]:
    """Yield after each step of the Trainer, which trains in a thread of its own."""
    config = GPT2Config(
        n_layer=shape.n_layers,
        n_head=shape.n_heads,
        n_embd=shape.d_model,
        n_positions=shape.seq_len,
        vocab_size=shape.vocab_size,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    gate = Gate()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=FOREVER,
            per_device_train_batch_size=shape.rows,
            gradient_accumulation_steps=shape.passes,
            learning_rate=LR,
            lr_scheduler_type="constant",
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            weight_decay=WEIGHT_DECAY,
            max_grad_norm=CLIP,
            optim="adamw_torch_fused",
            bf16=shape.precision == "bf16",
            torch_compile=shape.compile,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        model = GPT2LMHeadModel(config)
        windows = Windows(shape, data)
        trainer = Trainer(model, arguments, train_dataset=windows, callbacks=[gate])
        Thread(target=trainer.train, daemon=True).start()
        while True:
            gate.is_done.wait()
            gate.is_done.clear()
            yield
            gate.may_go_on.set()
