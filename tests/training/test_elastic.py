"""A run goes on with another number of ranks, another ZeRO stage and another precision.

What was stored and what is restored are both asked from DeepSpeed, by its own getters.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from momentum_gpt.core import distributed
from momentum_gpt.core.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TrainingConfig,
    plan_batch,
)
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import read_json_lines
from momentum_gpt.core.manifest import CheckpointManifest
from momentum_gpt.models import GPT
from momentum_gpt.models.gpt import init_weights
from momentum_gpt.training import engine as engines
from momentum_gpt.training.elastic import is_same_layout, load_elsewhere, universal_states
from momentum_gpt.training.optim import lr_at
from momentum_gpt.training.saving import Saver
from tests.conftest import SMOKE, command
from tests.training.ranks import on_ranks

SAVED = 4
STEPS = 14
SEQUENCES = 6  # in a step, for 1, 2 or 3 ranks
SHAPE = ModelConfig(n_layers=2, n_heads=2, d_model=32, seq_len=16, vocab_size=64)
OPTIM = OptimConfig(lr=3e-3, min_lr=3e-4, warmup_steps=2)
MANIFEST = CheckpointManifest(
    step=SAVED,
    tokens=0,
    order_sha256="",
    canary_loss=1.0,
    world_size=1,
    initial_weights_sha256="",
    data_sha256="",
    tokenizer_sha256="",
)
KEYS = ("fp32", "exp_avg", "exp_avg_sq")

Way = tuple[int, str]
"""ZeRO stage and precision."""


def new_engine(way: Way, **zero: Any) -> tuple[Any, TrainConfig]:
    stage, precision = way
    config = TrainConfig(
        name="test",
        data=DataConfig("none"),
        model=SHAPE,
        attention={"name": "momentum", "ema_decay": 0.5},
        optim=OPTIM,
        training=TrainingConfig(
            STEPS, SEQUENCES * 16, max_tokens_per_forward=16, precision=precision
        ),
        deepspeed={"zero_optimization": {"stage": stage, **zero}},
    )
    model = GPT(config.model, config.attention)
    init_weights(model, 0)
    plan = plan_batch(config.training, 16, distributed.world_size())
    return engines.build_engine(model, config, plan), config


def train(engine: Any, first: int, last: int, leave_out: bool = False) -> list[float]:
    """The loss of each step, over all ranks.

    Args:
        leave_out: whether no update is taken.
    """
    losses = []
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        blocks = torch.randint(0, 64, (SEQUENCES, 17), generator=generator)
        mine = blocks[distributed.rank() :: distributed.world_size()]
        micro_batches = [(block[None, :-1], block[None, 1:]) for block in mine]
        engines.set_lr(engine, lr_at(step, OPTIM, STEPS))
        parts = engines.accumulate(engine, micro_batches, SEQUENCES * 16)
        engines.update(engine, leave_out)
        losses.append(distributed.sum_over_ranks(parts.double().sum()).item())
    return losses


def whole_state(engine: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Each parameter's fp32 weights and moments, from DeepSpeed; from torch's AdamW at stage 0."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if engine.zero_optimization_stage() in (1, 2):
        # DeepSpeed links them after the step of the first group alone, so that others are missing.
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()

    state = {}
    for name, parameter in engine.module.named_parameters():
        if engine.zero_optimization_stage() == 0:
            adam = engine.optimizer.state[parameter]
            found = {"fp32": parameter.detach(), **{key: adam[key] for key in KEYS[1:]}}
        else:
            found = {"fp32": safe_get_full_fp32_param(parameter)}
            for key in KEYS[1:]:
                found[key] = safe_get_full_optimizer_state(parameter, key)
        state[name] = {key: tensor.clone() for key, tensor in found.items()}
    return state


def updates(engine: Any) -> set[float]:
    """AdamW's counters."""
    return {float(state["step"]) for state in engine.optimizer.state.values()}


def place(folder: str, way: Way) -> Path:
    return Path(folder) / f"{distributed.world_size()}_ranks_zero{way[0]}_{way[1]}"


def save(engine: Any, folder: Path) -> None:
    """Write a checkpoint of the step `SAVED` into the folder."""
    saver = Saver(folder, TrainingConfig(STEPS, 16), None)
    saver.begin(engine, replace(MANIFEST, world_size=distributed.world_size()))
    assert saver.finish() is None
    saver.close()


def engine_in(folder: Path) -> Path:
    return folder / f"step_{SAVED:08d}" / "engine"


def begin(folder: str, ways: list[Way]) -> list[Any]:
    """Train in each way, save after `SAVED` steps, and go on to the end."""
    results = []
    for way in ways:
        engine, _ = new_engine(way)
        train(engine, 0, SAVED)
        save(engine, place(folder, way))
        state = whole_state(engine)
        results.append((state, train(engine, SAVED, STEPS)))
        engine.destroy()
    return results


def go_on(folder: str, saved: list[str], ways: list[Way]) -> list[Any]:
    """Load each checkpoint in each way; save it again, and train to the end."""
    results = []
    for name, way in [(name, way) for name in saved for way in ways]:
        engine, _ = new_engine(way)
        load_elsewhere(engine, engine_in(Path(folder) / name), MANIFEST)
        assert updates(engine) == {SAVED}
        assert engine.global_steps == SAVED
        weights = engines.full_weights(engine)
        state = whole_state(engine)
        again = place(folder, way).with_name(f"{place(folder, way).name}_from_{name}")
        save(engine, again)
        results.append((again.name, state, weights, train(engine, SAVED, STEPS)))
        engine.destroy()
    return results


def check(restored: Any, begun: Any) -> None:
    """The state is the stored one to the bit, and the losses those of the undisturbed run."""
    name, _, _, losses = restored
    _, straight = begun
    check_state(restored, begun)
    assert losses[0] == pytest.approx(straight[0], rel=1e-6), name
    assert losses == pytest.approx(straight, rel=1e-5), name


def check_state(restored: Any, begun: Any) -> None:
    """The state is the stored one to the bit; the weights that compute are the fp32 ones."""
    name, state, weights, _ = restored
    expected, _ = begun
    assert state.keys() == expected.keys()
    for parameter, tensors in expected.items():
        for key, tensor in tensors.items():
            assert torch.equal(state[parameter][key], tensor), f"{name}: {parameter}, {key}"
        present = weights[parameter]
        assert torch.equal(present, tensors["fp32"].to(present.dtype)), f"{name}: {parameter}"


FP32: list[Way] = [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32")]
BF16: list[Way] = [(1, "bf16"), (2, "bf16"), (3, "bf16")]


@pytest.mark.slow
def test_more_ranks_and_another_stage_go_on_with_the_state_to_the_bit(tmp_path: Path) -> None:
    """From one rank and ZeRO-2 to two ranks, and to ZeRO-3."""
    begun = on_ranks(1, begin, tmp_path, str(tmp_path), [(2, "fp32")])[0]
    ways: list[Way] = [(2, "fp32"), (3, "fp32")]
    restored = on_ranks(2, go_on, tmp_path, str(tmp_path), ["1_ranks_zero2_fp32"], ways)[0]
    for one in restored:
        check(one, begun[0])


def begin_without_an_update(folder: str, ways: list[Way]) -> list[list[float]]:
    """Leave out every update, save, and go on to the end: the losses since the checkpoint."""
    losses = []
    for way in ways:
        engine, _ = new_engine(way)
        train(engine, 0, 2, leave_out=True)
        save(engine, place(folder, way))
        losses.append(train(engine, SAVED, STEPS))
        engine.destroy()
    return losses


def go_on_from_no_update(folder: str, saved: list[str], ways: list[Way]) -> list[Any]:
    results = []
    for name, way in [(name, way) for name in saved for way in ways]:
        engine, _ = new_engine(way)
        load_elsewhere(engine, engine_in(Path(folder) / name), MANIFEST)
        assert updates(engine) == {0}
        results.append((name, way, train(engine, SAVED, STEPS)))
        engine.destroy()
    return results


@pytest.mark.slow
def test_a_checkpoint_before_the_first_update_is_resumed_at_every_stage(tmp_path: Path) -> None:
    """AdamW has no moments then: every step so far was bad."""
    losses = on_ranks(1, begin_without_an_update, tmp_path, str(tmp_path), FP32)[0]
    names = [f"1_ranks_zero{stage}_fp32" for stage, _ in FP32]
    for name, way, found in on_ranks(1, go_on_from_no_update, tmp_path, str(tmp_path), names, FP32)[
        0
    ]:
        assert found == pytest.approx(losses[0], rel=1e-6), f"{name} at {way}"


@pytest.mark.chaotic
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("world", "then"), [(1, 2), (2, 1), (2, 2), (2, 3), (3, 2)])
def test_every_stage_goes_on_at_every_other(tmp_path: Path, world: int, then: int) -> None:
    """Three ranks divide no parameter evenly."""
    begun = on_ranks(world, begin, tmp_path, str(tmp_path), FP32)[0]
    saved = [f"{world}_ranks_zero{stage}_fp32" for stage, _ in FP32]
    restored = on_ranks(then, go_on, tmp_path, str(tmp_path), saved, FP32)[0]
    sources = [source for source in begun for _ in FP32]
    for one, source in zip(restored, sources, strict=True):
        check(one, source)


@pytest.mark.chaotic
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("worlds", "stages"), [((1, 2, 1), (2, 2, 2)), ((2, 2, 2), (1, 3, 2)), ((2, 1, 2), (0, 2, 0))]
)
def test_there_and_back_is_where_it_began(
    tmp_path: Path, worlds: tuple[int, ...], stages: tuple[int, ...]
) -> None:
    first, *others = [(stage, "fp32") for stage in stages]
    begun = on_ranks(worlds[0], begin, tmp_path, str(tmp_path), [first])[0]
    name = f"{worlds[0]}_ranks_zero{stages[0]}_fp32"
    for world, way in zip(worlds[1:], others, strict=True):
        restored = on_ranks(world, go_on, tmp_path, str(tmp_path), [name], [way])[0]
        check(restored[0], begun[0])
        name = restored[0][0]


@pytest.mark.chaotic
@pytest.mark.timeout(900)
def test_another_precision_keeps_the_fp32_weights_and_the_moments(tmp_path: Path) -> None:
    """From fp32 to bf16 and back, and from bf16 to bf16, nothing is rounded but what computes."""
    begun = on_ranks(2, begin, tmp_path, str(tmp_path), [(1, "fp32"), *BF16])[0]
    in_bf16 = on_ranks(1, go_on, tmp_path, str(tmp_path), ["2_ranks_zero1_fp32"], BF16)[0]
    for one in in_bf16:
        check_bf16(one, begun[0])

    names = [one[0] for one in in_bf16]
    ways = [(0, "fp32"), (2, "fp32")]
    for one in on_ranks(2, go_on, tmp_path, str(tmp_path), names, ways)[0]:
        check(one, begun[0])

    names = [f"2_ranks_zero{stage}_bf16" for stage, _ in BF16]
    restored = on_ranks(1, go_on, tmp_path, str(tmp_path), names, BF16)[0]
    sources = [source for source in begun[1:] for _ in BF16]
    for one, source in zip(restored, sources, strict=True):
        check_bf16(one, source)


def check_bf16(restored: Any, begun: Any) -> None:
    check_state(restored, begun)
    assert restored[-1] == pytest.approx(begun[1], rel=1e-3), restored[0]


def converted_by_deepspeed(folder: str, ways: list[Way]) -> None:
    """DeepSpeed's own converter, told to run nothing that is in a file."""
    from deepspeed.checkpoint import ds_to_universal
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    for way in ways:
        source = Path(folder) / f"2_ranks_zero{way[0]}_{way[1]}"
        told = Namespace(
            input_folder=str(engine_in(source)),
            output_folder=str(source / "universal"),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,
        )
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
        allowed = [LossScaler, ZeroStageEnum, fragment_address]
        with torch.serialization.safe_globals(allowed), contextlib.redirect_stdout(io.StringIO()):
            ds_to_universal.main(told)


@pytest.mark.chaotic
@pytest.mark.timeout(900)
def test_what_is_read_is_deepspeeds_universal_checkpoint(tmp_path: Path) -> None:
    """The same names and the same values, to the bit, as its converter writes."""
    ways = FP32[1:] + BF16
    on_ranks(2, begin, tmp_path, str(tmp_path), ways)
    on_ranks(1, converted_by_deepspeed, tmp_path, str(tmp_path), ways)
    for stage, precision in ways:
        source = tmp_path / f"2_ranks_zero{stage}_{precision}"
        found = dict(universal_states(engine_in(source), GPT(SHAPE, {"name": "vanilla"})))
        universal = source / "universal" / "zero"
        assert found.keys() == {path.name for path in universal.iterdir() if path.is_dir()}
        for name, state in found.items():
            for key in KEYS:
                stored = torch.load(universal / name / f"{key}.pt")
                stored = stored["param"] if isinstance(stored, dict) else stored
                assert torch.equal(state[key], stored.flatten()), f"{source.name}: {name}, {key}"


def other_groups(folder: str) -> list[Any]:
    """Under ZeRO-3, the weights in groups of another size."""
    engine, _ = new_engine((3, "fp32"), sub_group_size=3000)
    train(engine, 0, SAVED)
    save(engine, place(folder, (3, "fp32")))
    begun = whole_state(engine), train(engine, SAVED, STEPS)
    engine.destroy()

    engine, _ = new_engine((3, "fp32"), sub_group_size=10_000)
    manifest = replace(
        MANIFEST,
        world_size=2,
        precision="fp32",
        zero_optimization={"stage": 3, "sub_group_size": 3000},
    )
    assert not is_same_layout(manifest, engine)
    load_elsewhere(engine, engine_in(place(folder, (3, "fp32"))), manifest)
    state, weights = whole_state(engine), engines.full_weights(engine)
    return [("groups", state, weights, train(engine, SAVED, STEPS)), begun]


@pytest.mark.chaotic
def test_other_groups_under_zero_3_are_another_layout(tmp_path: Path) -> None:
    restored, begun = on_ranks(2, other_groups, tmp_path, str(tmp_path))[0]
    check(restored, begun)


def test_the_pieces_of_more_than_ten_ranks_are_joined_in_their_order(tmp_path: Path) -> None:
    """By number: as names, rank 10 would come before rank 2."""
    from deepspeed.utils.tensor_fragment import fragment_address

    for rank in range(12):
        value = torch.tensor([float(rank)])
        adam = {"exp_avg": value + 100, "exp_avg_sq": value + 200, "step": torch.tensor(7.0)}
        stored = {
            "param_slice_mappings": [{"weight": fragment_address(numel=1, start=0)}],
            "single_partition_of_fp32_groups": [value],
            "base_optimizer_state": {"state": {0: adam}},
        }
        file = tmp_path / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        torch.save({"optimizer_state_dict": stored}, file)

    ((name, state),) = universal_states(tmp_path, torch.nn.Linear(1, 12, bias=False))
    assert (name, state["step"]) == ("weight", 7)
    in_order = torch.arange(12.0)
    for key, first in (("fp32", 0), ("exp_avg", 100), ("exp_avg_sq", 200)):
        assert torch.equal(state[key], in_order + first), key


def engine_of(zero: dict[str, Any], bf16: bool = False) -> Any:
    return SimpleNamespace(config={"zero_optimization": zero}, bfloat16_enabled=lambda: bf16)


def test_only_an_engine_that_is_divided_alike_is_the_same_layout() -> None:
    written = replace(MANIFEST, precision="fp32", zero_optimization={"stage": 2})
    assert is_same_layout(written, engine_of({"stage": 2}))
    assert not is_same_layout(written, engine_of({"stage": 1}))
    assert not is_same_layout(written, engine_of({"stage": 2}, bf16=True))
    assert not is_same_layout(replace(written, world_size=2), engine_of({"stage": 2}))


@pytest.mark.parametrize(
    ("zero", "named"),
    [
        ({"offload_optimizer": {"device": "nvme"}}, r"offload_optimizer\.device=nvme"),
        ({"offload_param": {"device": "nvme"}}, r"offload_param\.device=nvme"),
        ({"elastic_checkpoint": True}, "elastic_checkpoint=true"),
        ({"mics_shard_size": 2}, "mics_shard_size=2"),
    ],
)
def test_what_cannot_change_is_refused_by_name(zero: dict[str, Any], named: str) -> None:
    before = replace(MANIFEST, zero_optimization={"stage": 1, **zero})
    message = rf"the checkpoint was written with deepspeed\.zero_optimization\.{named}, which"
    with pytest.raises(UserError, match=message):
        load_elsewhere(engine_of({"stage": 1}), Path("nowhere"), before)
    message = rf"would be resumed with deepspeed\.zero_optimization\.{named}, which"
    with pytest.raises(UserError, match=message):
        load_elsewhere(engine_of({"stage": 1, **zero}), Path("nowhere"), MANIFEST)


def arguments(folder: Path, data: Path, *more: str) -> list[str]:
    options = ["attention=momentum", "training.save_every=5", "training.keep_checkpoints=9"]
    return [
        "momentum_gpt.train",
        "name=x",
        f"data={data}",
        f"runs={folder}",
        *SMOKE,
        *options,
        *more,
    ]


def go_back_to(run: Path, step: int) -> None:
    """Delete the checkpoints after a step."""
    checkpoints = run / "checkpoints"
    assert (checkpoints / f"step_{step:08d}").is_dir()
    for path in checkpoints.glob("step_*"):
        if int(path.name.removeprefix("step_")) > step:
            shutil.rmtree(path)
    (checkpoints / "latest").write_text(f"step_{step:08d}\n")


def same_curve(run: Path, straight: Path, rel: float) -> None:
    """The losses of training and validation and the order of the windows are the same."""
    assert last_manifest(run)["order_sha256"] == last_manifest(straight)["order_sha256"]
    for key in ("train/loss", "val/loss"):
        mine, theirs = (losses(path, key) for path in (run, straight))
        assert mine == pytest.approx(theirs, rel=rel), key


def losses(run: Path, key: str) -> dict[int, float]:
    records = read_json_lines(run / "metrics.jsonl")
    return {record["step"]: record[key] for record in records if key in record}


def last_manifest(run: Path) -> dict[str, Any]:
    return json.loads((run / "checkpoints" / "step_00000020" / "manifest.json").read_text())


TWO = ["launch.nproc_per_node=2", "training.max_tokens_per_forward=128"]


@pytest.fixture(scope="module")
def straight(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps, 512 tokens each, on one rank."""
    folder = tmp_path_factory.mktemp("runs")
    done = command(*arguments(folder, data_folder))
    assert done.code == 0, done.err
    return folder / "x"


@pytest.mark.chaotic
def test_the_same_command_with_other_ranks_and_stage_resumes_the_run(
    straight: Path, data_folder: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(straight, tmp_path / "x"))
    go_back_to(run, 10)
    done = command(*arguments(tmp_path, data_folder, *TWO, "deepspeed=zero3"))
    assert done.code == 0, done.err
    assert f"resume    from {run}/checkpoints/step_00000010" in done.out
    found = last_manifest(run)
    assert (found["world_size"], found["zero_optimization"]["stage"]) == (2, 3)
    same_curve(run, straight, rel=1e-5)


@pytest.mark.chaotic
@pytest.mark.timeout(900)
def test_ranks_stages_and_precisions_come_and_go(
    straight: Path, data_folder: Path, tmp_path: Path
) -> None:
    """In bf16 a few steps differ; after them the run is still on the straight one's curve."""
    run = Path(shutil.copytree(straight, tmp_path / "x"))
    fp32 = [
        (5, [*TWO, "deepspeed=zero3"]),
        (10, ["deepspeed=zero2"]),
        (15, ["deepspeed=zero0"]),
        (15, [*TWO, "deepspeed=zero2"]),
    ]
    for step, more in fp32:
        go_back_to(run, step)
        done = command(*arguments(tmp_path, data_folder, *more))
        assert done.code == 0, done.err
        same_curve(run, straight, rel=1e-5)

    for step, precision in ((10, "bf16"), (15, "fp32")):
        go_back_to(run, step)
        more = [*TWO, "deepspeed=zero2", f"training.precision={precision}"]
        done = command(*arguments(tmp_path, data_folder, *more))
        assert done.code == 0, done.err
        same_curve(run, straight, rel=1e-3)
