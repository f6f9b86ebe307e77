"""Every YAML file composes to its dataclass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from data_prep.prepare import PrepareConfig
from data_prep.sources import build_sources
from data_prep.verify import VerifyConfig
from momentum_gpt.analyze import AnalyzeConfig
from momentum_gpt.bench.attention import BenchAttentionConfig
from momentum_gpt.bench.evaluation import BenchEvaluationConfig
from momentum_gpt.bench.growth import BenchGrowthConfig
from momentum_gpt.bench.training import BenchTrainingConfig
from momentum_gpt.check_attention import CheckAttentionConfig
from momentum_gpt.cli.compose import typed
from momentum_gpt.compare import CompareConfig
from momentum_gpt.core.config import TASKS, TrainConfig, read_config, write_config
from momentum_gpt.core.files import conf_folder
from momentum_gpt.dashboard import DashboardConfig
from momentum_gpt.doctor import DoctorConfig
from momentum_gpt.evaluate import EvaluateConfig
from momentum_gpt.export import ExportConfig
from momentum_gpt.generate import GenerateConfig
from momentum_gpt.intervene import InterveneConfig
from momentum_gpt.models import ATTENTIONS, build_attention
from momentum_gpt.plan import PlanConfig
from momentum_gpt.power import PowerConfig
from momentum_gpt.recall import RecallConfig
from momentum_gpt.sweep import SweepConfig
from momentum_gpt.training.engine import check_deepspeed_options

CONF = conf_folder()

REQUIRED = {
    "train": (TrainConfig, ["name=a", "data.path=b"]),
    "prepare": (PrepareConfig, ["output=a"]),
    "verify": (VerifyConfig, ["data=a"]),
    "doctor": (DoctorConfig, []),
    "compare": (CompareConfig, ["runs=[a,b]"]),
    "dashboard": (DashboardConfig, []),
    "evaluate": (EvaluateConfig, ["run=a"]),
    "generate": (GenerateConfig, ["run=a"]),
    "export": (ExportConfig, ["run=a", "output=b"]),
    "check_attention": (CheckAttentionConfig, []),
    "bench_attention": (BenchAttentionConfig, []),
    "bench_training": (BenchTrainingConfig, []),
    "analyze": (AnalyzeConfig, ["runs=[a]"]),
    "intervene": (InterveneConfig, ["runs=[a]"]),
    "bench_growth": (BenchGrowthConfig, []),
    "bench_evaluation": (BenchEvaluationConfig, []),
    "recall": (RecallConfig, []),
    "sweep": (SweepConfig, []),
    "power": (PowerConfig, ["noise=0.001"]),
    "plan": (PlanConfig, []),
}
GROUPS = {
    "train": ["model", "attention", "optim", "training", "deepspeed", "launch", "experiment"],
    "plan": ["cluster"],
    "sweep": ["study"],
    "prepare": ["corpus", "tokenizer", "executor"],
}


def composed(invoke: str, *overrides: str) -> Any:
    schema, required = REQUIRED[invoke]
    ConfigStore.instance().store(name=f"{invoke}_schema", node=schema)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(compose(invoke, [*required, *overrides]), schema)


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


CHOICES = [
    (invoke, group, name)
    for invoke, groups in GROUPS.items()
    for group in groups
    for name in names(group)
]


@pytest.mark.parametrize(("invoke", "group", "name"), CHOICES)
def test_every_choice_of_every_group_composes(invoke: str, group: str, name: str) -> None:
    fill = {
        "text": ["corpus.paths=[a]"],
        "hub": ["corpus.dataset=a"],
        "mix": ["corpus.sources={a: {kind: stdlib}}"],
        "slurm": ["executor.partition=a"] if invoke == "prepare" else [],
        "hosts": ["launch.hostfile=a"],
        "zero3_nvme": ["deepspeed.zero_optimization.offload_optimizer.nvme_path=/tmp"],
    }.get(name, [])
    fits = (
        ["training.tokens_per_step=524288", "training.max_tokens_per_forward=16384"]
        if group == "model"
        else []
    )
    no_corpus = ["data.path=null"] if group == "experiment" and name in TASKS else []
    config = composed(invoke, f"{group}={name}", *fill, *fits, *no_corpus)
    if invoke == "train":
        build_attention(config.attention, config.model)
        if name != "auto":  # the stage is chosen on the machine that trains
            check_deepspeed_options(config.deepspeed, config.training.precision, config.optim.name)
    elif invoke == "sweep":
        assert config.experiment in names("experiment")
    elif invoke == "prepare":
        build_sources(config.corpus)


@pytest.mark.parametrize("invoke", REQUIRED)
def test_every_door_composes(invoke: str) -> None:
    assert isinstance(composed(invoke), REQUIRED[invoke][0])


def test_every_group_on_disk_is_tested() -> None:
    groups = set().union(*GROUPS.values())
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == groups | {
        "icl"
    }  # few-shot tasks: tests/evaluation/test_icl.py


def test_the_variants_are_the_yaml_files_and_nothing_else() -> None:
    assert names("attention") == sorted(ATTENTIONS)
    for name in names("attention"):
        assert composed("train", f"attention={name}").attention["name"] == name


def test_no_yaml_can_name_code_to_run() -> None:
    assert not [path for path in CONF.rglob("*.yaml") if "_target_" in path.read_text()]


def test_the_paper_experiment_has_the_numbers_of_table_10() -> None:
    config = composed("train", "experiment=dai2023_350m", "attention=momentum")
    model, optim, training = config.model, config.optim, config.training
    assert (model.n_layers, model.d_model, model.n_heads, model.seq_len) == (24, 1024, 16, 1024)
    assert (optim.beta1, optim.beta2, optim.eps, optim.lr, optim.grad_clip) == (
        0.9,
        0.98,
        1e-6,
        3e-4,
        2.0,
    )
    assert (optim.schedule, optim.warmup_steps) == ("polynomial", 20_000)
    assert (training.tokens_per_step, training.max_steps) == (512 * 1024, 500_000)


def test_a_written_config_reads_back_the_same(tmp_path: Path) -> None:
    config = composed(
        "train", "attention=momentum", "tracking.tags=[a,b]", "evaluation.context_lengths=[64,256]"
    )
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config
