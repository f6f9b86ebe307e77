"""Measure a model on disk, or find what was measured of it before: the engine of `evaluate`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

from momentum_gpt.core import distributed
from momentum_gpt.core.config import EvaluationConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.manifest import read_checkpoint_manifest
from momentum_gpt.core.terminal import progress_bar
from momentum_gpt.data import SyntheticTask
from momentum_gpt.evaluation.few_shot.tasks import load_task, task_fingerprint
from momentum_gpt.evaluation.records import Measured, Origin
from momentum_gpt.evaluation.samples import write_samples
from momentum_gpt.evaluation.suite import EvaluationData, plan_suite
from momentum_gpt.models import load_model
from momentum_gpt.models.weights import load_model_config, model_folder

REVISION = 4
"""Raised when the code changes results or adds some: what was measured is measured again."""

WEIGHTS = "model/model.safetensors"
"""The weights, by their name in a checkpoint's manifest."""


def model_folders(run_dir: Path, checkpoints: str) -> list[Path]:
    """Return the model folders to measure, the oldest first.

    Args:
        run_dir: a run folder, or the folder of a model.
        checkpoints: latest | all.

    Raises:
        UserError: there is no model.
    """
    if checkpoints == "latest":
        return [model_folder(run_dir)]
    found = sorted((run_dir / "checkpoints").glob("step_*/model"))
    if not found:
        raise UserError(
            f"checkpoints=all: {run_dir} has no checkpoints: give the folder of a run, "
            "or leave checkpoints out"
        )
    return found


def check_vocabulary(folder: Path, data: EvaluationData) -> None:
    """Raise a UserError if the data have tokens that the model does not know."""
    if isinstance(data, SyntheticTask):
        return
    known = load_model_config(folder).vocab_size
    needed = data.tokenizer.vocab_size
    if known is not None and known < needed:
        raise UserError(
            f"{data.name} has {needed} tokens, but the model knows {known}: prepare the data "
            "with the model's tokenizer"
        )


def measure_model(
    folder: Path,
    data: EvaluationData,
    config: EvaluationConfig,
    seq_len: int,
    tokens_per_forward: int,
    title: str,
    with_samples: bool = False,
) -> Measured:
    """Return what the model in a folder gets, with a progress bar in a terminal.

    Args:
        folder: the model folder.
        data: what the model is measured on.
        config: what is measured.
        seq_len: the longest context, tokens.
        tokens_per_forward: most tokens in a forward pass.
        title: what the bar calls the work.
        with_samples: whether the model writes texts, too, if the data are text.
    """
    model = load_model(folder, distributed.local_device())
    suite = plan_suite(data, config, seq_len)
    with progress_bar(f"{title}, tokens", suite.n_tokens) as advance:
        measured = suite.measure(model, tokens_per_forward, advance)
    if with_samples and not isinstance(data, SyntheticTask):
        return replace(measured, samples=write_samples(model, data, seq_len))
    return measured


def origin_of(
    checkpoint: Path, named: str | None, data: EvaluationData, config: EvaluationConfig
) -> Origin:
    """Return what identifies an evaluation of a run's checkpoint.

    Args:
        checkpoint: the checkpoint's folder.
        named: data or text that the user named; None for the run's own validation data.
        data: what the checkpoint is measured on.
        config: what is measured.
    """
    manifest = read_checkpoint_manifest(checkpoint)
    is_own = named is None
    settings = settings_hash(config, data, is_own, manifest.files.get(WEIGHTS))
    return Origin(manifest.step, manifest.tokens, checkpoint.name, named, settings)


def settings_hash(
    config: EvaluationConfig, data: EvaluationData, is_own: bool, weights: str | None
) -> str:
    """Return a hash of all that changes an evaluation's results.

    Args:
        config: what is measured.
        data: what the model is measured on; its content counts, not its path.
        is_own: whether these are the run's own validation data, whose metrics are kept apart.
        weights: sha256 of the model's weights.
    """
    options = asdict(config)
    del options["share"]  # it only chooses options in training, which are written into the config
    few_shot = options["icl"]
    few_shot["tasks"] = [
        task_fingerprint(load_task(name), config.icl.data) for name in config.icl.tasks
    ]
    del few_shot["data"]  # the fingerprints have its content

    facts = {
        "revision": REVISION,
        "options": options,
        "data": data.fingerprint(),
        "is_own": is_own,
        "weights": weights,
    }
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
