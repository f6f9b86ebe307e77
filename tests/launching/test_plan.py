"""The plan's numbers against what torch and DeepSpeed allocate and count."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch.profiler import ProfilerActivity, profile

from momentum_gpt import plan as command
from momentum_gpt.core import distributed
from momentum_gpt.core.config import (
    ClusterConfig,
    DataConfig,
    LaunchConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TrainingConfig,
)
from momentum_gpt.core.files import conf_folder
from momentum_gpt.launching.plan import Plan, Way, plan_of
from momentum_gpt.models import GPT
from momentum_gpt.models.gpt import init_weights
from momentum_gpt.training import engine as engines
from tests.conftest import Result
from tests.training.ranks import on_ranks

Invoke = Callable[..., Result]
SEQUENCES = 8
H100 = ClusterConfig("H100", 8, 80, 2000, 989, 450, 400, 0.4, price=2.0)


def config(
    ranks: int = 1,
    stage: int = 1,
    precision: str = "fp32",
    attention: str = "vanilla",
    checkpointing: bool = False,
    shared: int = 1,
    optim: str = "adamw",
) -> TrainConfig:
    options = {"ema_decay": 0.5} if attention == "momentum" else {}
    model = ModelConfig(4, 4, 128, 256, vocab_size=2048)
    tokens = SEQUENCES * model.seq_len
    return TrainConfig(
        name="test",
        data=DataConfig("none"),
        model=model,
        attention={"name": attention, **options},
        optim=OptimConfig(lr=1e-3, min_lr=1e-4, warmup_steps=10, name=optim),
        training=TrainingConfig(
            1000,
            2 * ranks * tokens,
            max_tokens_per_forward=tokens,
            precision=precision,
            activation_checkpointing=checkpointing,
        ),
        deepspeed={"zero_optimization": {"stage": stage}, "sequence_parallel_size": shared},
        launch=LaunchConfig(nproc_per_node=shared),
    )


def live_bytes() -> int:
    """Bytes of the storages of all tensors in this process."""
    gc.collect()
    tensors = [
        found for found in gc.get_objects() if type(found) in (torch.Tensor, torch.nn.Parameter)
    ]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def peak_of_a_step(options: dict[str, Any], folder: Path) -> int:
    """Bytes at the peak of a step on one rank: what the engine holds, and what torch allocates."""
    c = config(distributed.world_size(), **options)
    before = live_bytes()
    model = GPT(c.model, c.attention)
    init_weights(model, 0)
    plan = c.plan_batch(distributed.world_size())
    engine = engines.build_engine(model, c, plan)
    block = torch.randint(0, 2048, (plan.micro_batch_size, c.model.seq_len + 1))
    micro_batches = [(block[:, :-1], block[:, 1:])] * plan.grad_accum_steps

    def step() -> None:
        engines.accumulate(engine, micro_batches, c.training.tokens_per_step)
        engines.update(engine)

    step()
    held = live_bytes() - before
    # gloo frees what was exchanged in threads of its own, which the profiler does not see, so that
    # the peak of a step may be too high, and is never too low.
    return held + min(peak_allocated(step, folder) for _ in range(8))


def peak_allocated(step: Callable[[], None], folder: Path) -> int:
    """Bytes at the peak of a step that torch has allocated in this step."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    trace = folder / f"trace_{distributed.rank()}.json"
    profiled.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    found = [event for event in events if event["name"] == "[memory]"]
    live: dict[int, int] = {}  # bytes by address
    peak = 0
    for event in sorted(found, key=lambda event: event["ts"]):
        address, n_bytes = event["args"]["Addr"], event["args"]["Bytes"]
        if n_bytes > 0:
            live[address] = n_bytes
        else:
            live.pop(address, None)  # it may be from before
        peak = max(peak, sum(live.values()))
    return peak


CASES: list[tuple[int, dict[str, Any]]] = [
    (1, {"stage": 0}),
    (2, {"stage": 1, "attention": "momentum"}),
    (2, {"stage": 1, "precision": "bf16"}),
    (2, {"stage": 2, "precision": "bf16"}),
    (2, {"stage": 3}),
    (1, {"stage": 1, "checkpointing": True}),
    (2, {"stage": 1, "shared": 2}),
    (4, {"stage": 1, "shared": 4, "attention": "momentum"}),
    (2, {"stage": 1, "optim": "muon"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "options"), CASES)
def test_the_memory_is_what_is_allocated(
    tmp_path: Path, ranks: int, options: dict[str, Any]
) -> None:
    allocated = on_ranks(ranks, peak_of_a_step, tmp_path, options, tmp_path)[0]
    cluster = replace(H100, device="CPU", gpus_per_node=ranks)
    made = plan_of(config(ranks, **options), cluster)
    planned = made.memory(made.way, SEQUENCES * made.config.ranks_per_sequence).total
    print(f"{ranks} rank(s), {options}: {allocated / 1e6:.1f} MB, planned {planned / 1e6:.1f} MB")
    assert planned == pytest.approx(allocated, rel=0.03)


ON_AN_H200: list[tuple[tuple[int, int, int], str, int, float]] = [
    ((24, 16, 1024), "vanilla", 32, 35.26),
    ((24, 16, 1024), "momentum", 32, 36.87),
    ((24, 16, 1024), "vanilla", 8, 15.42),
    ((24, 16, 1536), "vanilla", 8, 25.93),
    ((12, 12, 768), "vanilla", 16, 10.45),
]
"""Layers, heads, width; attention; sequences in a pass; peak in GB that was measured (LOG.md,
2026-11-26: one H200, torch 2.11, bf16, ZeRO-1, compiled, 1,024 tokens, vocabulary 50,304)."""


@pytest.mark.parametrize(("shape", "attention", "sequences", "measured"), ON_AN_H200)
def test_the_memory_is_what_an_h200_had(
    shape: tuple[int, int, int], attention: str, sequences: int, measured: float
) -> None:
    c = config(precision="bf16", attention=attention)
    c = replace(c, model=ModelConfig(*shape, 1024, vocab_size=50304))
    c.training.compile = True
    c.training.tokens_per_step = 2**17
    found = plan_of(c, replace(H100, gpus_per_node=1, memory_gb=141))
    planned = found.memory(found.way, sequences).total / 1e9
    assert planned == pytest.approx(measured, rel=0.05)


def made(cluster: ClusterConfig = H100, **options: Any) -> Plan:
    return plan_of(config(8, **options), cluster)


@pytest.mark.parametrize("attention", ["vanilla", "momentum"])
def test_the_parameters_are_those_of_the_model(attention: str) -> None:
    found = made(attention=attention)
    model = GPT(found.config.model, found.config.attention)
    assert found.n_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.parameters["embedding"] == 2048 * 128
    assert found.parameters["positions"] == 256 * 128
    assert found.parameters["MLP"] == 4 * (8 * 128 * 128 + 5 * 128)
    assert found.parameters["norms"] == 9 * 2 * 128


def test_a_run_takes_as_long_as_its_flops_at_the_stated_share_of_the_peak() -> None:
    found = made()
    flops = 6 * (12 * 4 * 128**2 + 2048 * 128) + 12 * 4 * 256 * 128
    assert found.tokens_per_s == pytest.approx(8 * 0.4 * 989e12 / flops)
    tokens = 1000 * 2 * 8 * SEQUENCES * 256
    assert found.hours == pytest.approx(tokens / found.tokens_per_s / 3600)
    slower = made(checkpointing=True)
    assert slower.tokens_per_s == pytest.approx(found.tokens_per_s * 3 / 4)


@pytest.mark.parametrize(("stage", "times"), [(0, 2), (1, 2), (2, 2), (3, 12)])
def test_what_is_sent_is_what_a_ring_sends(stage: int, times: int) -> None:
    """Stage 3 with four passes: the weights eight times, the gradients four times."""
    found = made()
    whole = 4 * found.n_parameters
    assert found.sent_bytes(Way(stage), passes=4) == pytest.approx(times * 7 / 8 * whole)


def test_sharing_sequences_sends_four_tensors_of_each_layer_twice() -> None:
    """Of q, k, v and the output, forward and backward, half goes to the other of two ranks."""
    apart, together = made(), made(shared=2)
    tokens = 2 * SEQUENCES * 256  # that pass through a rank in a step
    exchanged = 2 * 4 * 4 * (tokens * 128 * 4) / 2
    more = together.sent_bytes(Way(1), 1) - apart.sent_bytes(Way(1), 1)
    assert more == pytest.approx(exchanged)
    assert together.sequences(Way(1)) == 2 * apart.sequences(Way(1))
    both, alone = together.memory(Way(1), 16), apart.memory(Way(1), 8)
    assert (both.working, both.weights) == (alone.working, alone.weights)
    kept = 4 * (8 * 256 * 128 * 4)  # the output before it is exchanged, of four layers
    assert both.activations - alone.activations == pytest.approx(kept)


def test_between_hosts_the_network_limits() -> None:
    here = made().communication_s(Way(1), 1)
    there = made(replace(H100, nodes=2, network_gb_s=45.0))
    assert there.communication_s(Way(1), 1) == pytest.approx(here * 10 * (15 / 16) / (7 / 8))


def test_the_best_interval_between_checkpoints_loses_the_least() -> None:
    """Young's formula is the minimum of what is lost."""
    found = made(replace(H100, nodes=128, disk_gb_s=1e-4))
    best = found.best_interval_s
    assert found.between_failures_s == pytest.approx(3600 * 50_000 / 1024)
    assert best == pytest.approx(math.sqrt(2 * found.checkpoint_s * found.between_failures_s))
    assert found.goodput(best) > max(found.goodput(best * 1.1), found.goodput(best / 1.1))
    lost = found.checkpoint_s / best + (600 + best / 2) / found.between_failures_s
    assert found.goodput(best) == pytest.approx(1 - lost)


def test_the_sequences_fit_and_divide_the_share_of_a_rank() -> None:
    found = made()
    assert found.sequences(found.way) == 2 * SEQUENCES
    for memory_gb in (2.05, 2.1, 2.12, 2.2):
        small = made(replace(H100, memory_gb=memory_gb))
        fitting = small.sequences(small.way)
        assert (2 * SEQUENCES) % max(1, fitting) == 0
        assert small.memory(small.way, fitting).total <= small.usable
    assert made(replace(H100, memory_gb=2.01)).sequences(Way(1)) == 0


def test_a_run_that_does_not_fit_gets_the_nearest_that_does() -> None:
    found = made(replace(H100, memory_gb=2.021))
    assert found.sequences(found.way) == 0
    nearest = found.nearest()
    assert nearest is not None
    assert nearest.sequences(nearest.way) > 0
    ways = list(found.ways())
    for way in ways[: ways.index(nearest.way)]:
        assert found.sequences(way) == 0


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (conf_folder() / "cluster").glob("*"))
)
def test_every_cluster_is_one(name: str) -> None:
    content = OmegaConf.load(conf_folder() / "cluster" / f"{name}.yaml")
    ClusterConfig(**{str(key): value for key, value in content.items()})


def test_the_command_prints_the_plan(invoke: Invoke) -> None:
    options = ["model=gpt_350m", "model.vocab_size=50304", "training=paper"]
    done = invoke(command.main, *options)
    assert done.code == 0, done.err
    assert "354,871,296 parameters" in done.out
    assert "* zero1 " in done.out
    assert "at 40% MFU" in done.out


def test_the_command_refuses_what_cannot_run_with_the_nearest_that_can(invoke: Invoke) -> None:
    options = ["model=gpt_2_7b", "model.vocab_size=50304", "training=paper", "cluster=a100_40x8"]
    done = invoke(command.main, *options, "cluster.memory_gb=24")
    assert done.code == 2
    assert "the nearest that fits is deepspeed=zero2" in done.err

    done = invoke(command.main)
    assert done.code == 2
    assert "model.vocab_size is not known without data=DIR" in done.err


def test_the_groups_are_those_of_training() -> None:
    defaults = {}
    for name in ("train", "plan"):
        content = OmegaConf.to_container(OmegaConf.load(conf_folder() / f"{name}.yaml"))
        defaults[name] = [entry for entry in content["defaults"] if isinstance(entry, dict)]
    assert [entry for entry in defaults["plan"] if "cluster" not in entry] == defaults["train"]
