"""Run folders that were never trained: curves of a power law with noise, for pages of any size."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra

from momentum_gpt.cli.compose import typed
from momentum_gpt.core import outcome
from momentum_gpt.core.config import TrainConfig, write_config
from momentum_gpt.core.files import conf_folder, write_text
from momentum_gpt.core.manifest import CheckpointManifest, read_checkpoint_manifest
from momentum_gpt.core.outcome import Outcome
from momentum_gpt.evaluation.finding import Finding

TOKENS = 4096
"""Tokens of a step."""


@cache
def laptop() -> TrainConfig:
    """Return the configuration of `make train`."""
    GlobalHydra.instance().clear()
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = typed(compose("train", ["name=a", "data.path=b"]), TrainConfig)
    config.model.vocab_size = 2048
    config.training.tokens_per_step = TOKENS
    return config


def write_run(
    folder: Path,
    name: str,
    attention: dict[str, Any],
    seed: int = 0,
    gain: float = 0.0,
    steps: int = 400,
    done: int | None = None,
    log_every: int = 10,
    few_shot: bool = False,
) -> Path:
    """Write a run that is `gain` nats better than the curve that all share, and return its folder.

    Args:
        folder: where the run's folder is made.
        name: of the run.
        attention: name and options.
        seed: of the run; runs of one seed share their noise.
        gain: nats per token, reached with the training.
        steps: of the plan.
        done: steps that are done; None for all of them.
        log_every: steps between two readings of the training loss; there are 20 evaluations.
        few_shot: whether few-shot tasks were measured, one of them with written answers.
    """
    config = replace(laptop(), name=name, attention=attention, runs=str(folder))
    config = replace(config, training=replace(config.training, seed=seed, max_steps=steps))
    path = folder / name
    path.mkdir(parents=True)
    write_config(config, path / "config.yaml")

    done = steps if done is None else done
    records = curve_of(seed, gain, steps, done, log_every, few_shot)
    write_text(path / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    if done == steps:
        finish(path, seed, gain, few_shot)
    return path


def curve_of(
    seed: int, gain: float, steps: int, done: int, log_every: int, few_shot: bool = False
) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl up to step `done`."""
    shared = np.random.default_rng(seed)
    offset = shared.normal(0, 0.02)
    own = np.random.default_rng([seed, round(gain * 1e6) + 1_000_000])
    records = []
    for step in range(log_every, done + 1, log_every):
        share = step / steps
        loss = 3.2 + 4.5 * math.exp(-9 * share) + 0.8 * (1 - share) ** 2 + offset - gain * share
        records.append(
            {
                "step": step,
                "tokens": step * TOKENS,
                "train/loss": loss + own.normal(0, 0.06),
                "train/tokens_per_s": 7000 + own.normal(0, 300),
            }
        )
        if step % max(log_every, steps // 20 // log_every * log_every) == 0 or step == steps:
            records.append(evaluation(step, loss, own, few_shot))
    return records


def evaluation(
    step: int, loss: float, noise: np.random.Generator, few_shot: bool
) -> dict[str, Any]:
    """Return the line of an evaluation."""
    loss += noise.normal(0, 0.004)
    found: dict[str, Any] = {"step": step, "tokens": step * TOKENS}
    found |= {"val/loss": loss, "val/loss_margin": 0.04, "val/targets": 3072, "val/bpb": loss / 1.8}
    for power in range(9):
        length = 2**power
        found[f"val/loss@pos{length}"] = loss + 0.9 / (1 + power) + noise.normal(0, 0.01)
    for power in range(1, 5):
        found[f"val/loss@rank{10**power}"] = loss + power - 2 + noise.normal(0, 0.01)
    for length in (64, 128, 256):
        found[f"val/ppl@{length}"] = math.exp(loss + 8 / length)
    found["icl/score"] = -0.05 - 0.01 * (4 - loss)
    found["icl/induction/acc"] = max(0.0, min(1.0, (4.2 - loss) / 2))
    if few_shot:
        for task in ("sst2", "agnews"):
            for k in (0, 1, 4, 8, 16):
                found[f"icl/{task}/acc@{k}"] = 0.5 + 0.04 * math.log2(1 + k) + noise.normal(0, 0.01)
    return found


def finish(path: Path, seed: int, gain: float, few_shot: bool) -> None:
    """Add what a finished run has beside its metrics."""
    steps = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    checkpoint = write_checkpoint(path, steps, seed)
    write_text(path / "checkpoints" / "latest", checkpoint.name)
    outcome.write(path, Outcome(0, steps, "complete", "2026-11-26 12:00:00+0000"))
    write_documents(path, steps, gain)
    if few_shot:
        write_answers(path, steps, gain)


def write_checkpoint(path: Path, steps: int, seed: int = 0) -> Path:
    """Write the manifest of a checkpoint, and return the checkpoint's folder."""
    checkpoint = path / "checkpoints" / f"step_{steps:08d}"
    checkpoint.mkdir(parents=True)
    CheckpointManifest(
        step=steps,
        tokens=steps * TOKENS,
        order_sha256=f"{seed:064x}",
        canary_loss=3.2,
        world_size=1,
        initial_weights_sha256=f"{seed + 1:064x}",
        data_sha256="d" * 64,
        tokenizer_sha256="e" * 64,
        versions={"torch": "2.13.0"},
    ).write(checkpoint)
    return checkpoint


def write_documents(path: Path, step: int, gain: float, size: int = 120) -> None:
    """Write the losses of documents, which are better by `gain` on the average."""
    spread = np.random.default_rng(abs(round(gain * 1e6))).normal(0, 0.03, size)
    base = np.random.default_rng(7).normal(3.3, 0.4, size)
    nats = 256 * (base - gain + spread)
    numbers = list(range(size))
    line = {
        "step": step,
        "tokens": step * TOKENS,
        "context_length": 256,
        "stride": None,
        "documents": "stream",
        "loss": float(nats.mean() / 256),
        "ppl": 27.0,
        "bpb": 1.8,
        "ppl_word": 900.0,
        "targets": 256 * size,
        "bytes": 700 * size,
        "words": 100 * size,
        "document": numbers,
        "nats": nats.round(3).tolist(),
        "n_targets": [256] * size,
        "nats_of_text": nats.round(3).tolist(),
        "n_bytes": [700] * size,
        "n_words": [100] * size,
        "text": [f"{number:012x}" for number in numbers],
    }
    write_text(path / "evaluations" / "perplexity.jsonl", json.dumps(line) + "\n")


def write_answers(path: Path, step: int, gain: float) -> None:
    """Write the answers of a few-shot task that has the model write."""
    line = {
        "step": step,
        "tokens": step * TOKENS,
        "task": "trivia",
        "k": 4,
        "k_asked": 4,
        "seed": 0,
        "left_out": 0,
        "n": 3,
        "acc/exact": 0.33,
        "acc": 0.33,
        "right": [1, 0, 0],
        "queries": [4, 17, 23],
        "seconds": 1.0,
        "demonstrations": [1, 2, 3, 5],
        "content_sha256": "c" * 64,
        "written": ["Paris", f"in the year {1900 + round(gain * 100)}", "<b>Ada</b> Lovelace"],
    }
    write_text(path / "evaluations" / "icl.jsonl", json.dumps(line) + "\n")


def write_analysis(
    path: Path,
    likeness: float,
    tasks: Sequence[str] = ("sst2", "agnews"),
    shuffled: float = 0.05,
    checkpoint: Path | None = None,
    **options: Any,
) -> None:
    """Leave in a run what `analyze` finds of a checkpoint.

    Args:
        path: the run's folder.
        likeness: of ICL and finetuning, SimAOU, whose hardest null is 0.1.
        tasks: names of tasks.
        shuffled: the likeness with finetuning on shuffled labels.
        checkpoint: the checkpoint's folder; None: the last one.
        options: of the analysis, other than those of most.
    """
    # Imported here, as all this needs torch, and the pages do not.
    from momentum_gpt.analysis.kept import keep_lines, lines_of
    from momentum_gpt.analysis.tables import Row
    from momentum_gpt.analysis.units import Method

    given = {"data": None, "k": 32, "draws": 5, "queries": 200, "protocol": "default"}
    given |= {"variant": "code", "way": "backprop", "lr": None, "orders": 4}
    checkpoints = path / "checkpoints"
    checkpoint = checkpoint or checkpoints / (checkpoints / "latest").read_text()
    trained = (path.name, read_checkpoint_manifest(checkpoint).tokens)
    unknown = math.nan, math.nan
    for task in tasks:
        right = Finding(62.5, (55.0, 70.0), 50.0, (5.0, 20.0), 0.001, 5, 200)
        rows = [Row("accuracy, ICL", task, "zero-shot", right, *trained)]
        nulls = {"Gaussian noise": 0.0, "shuffled labels": shuffled, "mismatched queries": 0.1}
        for null, value in nulls.items():
            gap = likeness - value - 0.05, likeness - value + 0.05
            interval = likeness - 0.05, likeness + 0.05
            found = Finding(likeness, interval, value, gap, 0.001, 5, 200)
            rows.append(Row("SimAOU", task, null, found, *trained))
        alone = Finding(0.021, (0.01, 0.03), math.nan, unknown, math.nan, 5, 0)
        rows.append(Row("order sensitivity, ICL", task, "", alone, *trained))
        keep_lines(checkpoint, task, Method(**given | options), 32, lines_of(rows))


def momentum(decay: float) -> dict[str, Any]:
    """Return the options of momentum attention."""
    return {"name": "momentum", "ema_decay": decay}


VANILLA = {"name": "vanilla"}


def write_comparison(
    folder: Path, seeds: int = 4, decays: Sequence[float] = (0.3, 0.5, 0.9), **options: Any
) -> list[Path]:
    """Write runs of vanilla and momentum attention, the best of them with the middle decay."""
    found = []
    for seed in range(seeds):
        found.append(write_run(folder, f"vanilla_{seed}", VANILLA, seed, **options))
    for decay in decays:
        gain = 0.06 - 0.4 * (decay - 0.5) ** 2
        for seed in range(seeds):
            name = f"momentum_{decay}_{seed}"
            found.append(write_run(folder, name, momentum(decay), seed, gain, **options))
    return found
