"""Options: documented, the same in the YAML files, and read without slow imports."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import MISSING, fields

import pytest
from omegaconf import OmegaConf

from data_prep import settings
from data_prep.prepare import stages_of
from data_prep.settings import CORPUS_CONFIGS, STAGES, corpus_config
from data_prep.stages import Work
from momentum_gpt.cli.options import field_texts
from momentum_gpt.core.files import conf_folder

SCHEMAS = [
    *CORPUS_CONFIGS.values(),
    settings.MixShareConfig,
    settings.CleanConfig,
    settings.DecontaminateConfig,
    settings.TokenizerConfig,
    settings.ExecutorConfig,
    settings.PrepareConfig,
    settings.VerifyConfig,
    settings.BenchTokenizeConfig,
]
HEAVY = ["torch", "deepspeed", "transformers", "datasets", "datatrove", "scipy", "aiohttp", "numpy"]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_option_is_documented(schema: type) -> None:
    for name, text in field_texts(schema).items():
        assert text.endswith("."), f"{schema.__name__}.{name}"


@pytest.mark.parametrize("kind", CORPUS_CONFIGS)
def test_the_yaml_file_of_a_kind_has_its_options_with_their_defaults(kind: str) -> None:
    given = OmegaConf.to_container(OmegaConf.load(conf_folder() / "corpus" / f"{kind}.yaml"))
    assert isinstance(given, dict)
    assert given.pop("kind") == kind
    expected = {}
    for entry in fields(CORPUS_CONFIGS[kind]):
        expected[entry.name] = "???" if entry.default is MISSING else entry.default
    assert given == expected


def test_a_single_path_may_be_written_without_brackets() -> None:
    options = {"kind": "text", "paths": "a", "validation_paths": "b"}
    assert corpus_config(options) == settings.TextCorpusConfig(["a"], ["b"])


def test_the_stages_are_those_that_until_can_name(tmp_path) -> None:
    options = settings.PrepareConfig("out", {"kind": "stdlib"}, settings.TokenizerConfig())
    stages = stages_of(Work(options, [], tmp_path))
    assert tuple(stage.name for stage in stages) == STAGES
    for number, stage in enumerate(stages):
        assert set(stage.needs) <= set(STAGES[:number])


@pytest.mark.parametrize("module", ["prepare", "verify", "bench_tokenize"])
def test_a_command_imports_nothing_heavy_before_it_runs(module: str) -> None:
    code = f"import sys, data_prep.{module}; print(*set(sys.modules) & set({HEAVY}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
