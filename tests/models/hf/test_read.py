"""A model that `transformers` writes is the same model when we read it, in another process."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from momentum_gpt.core.config import EvaluationConfig, ModelConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import read_json_lines
from momentum_gpt.data import TokenShards
from momentum_gpt.evaluation.suite import evaluate
from momentum_gpt.models import GPT, Cache, load_model, start_from
from momentum_gpt.models.gpt import init_weights
from momentum_gpt.models.weights import check_start
from tests.conftest import SMOKE, command

MODELS = {
    "gpt2": """GPT2LMHeadModel(t.GPT2Config(
        vocab_size=520, n_positions=64, n_embd=32, n_layer=3, n_head=4,
    ))""",
    "xglm": """XGLMForCausalLM(t.XGLMConfig(
        vocab_size=520, max_position_embeddings=64, d_model=32, ffn_dim=128, num_layers=3,
        attention_heads=4,
    ))""",
}
"""How a script makes a model of transformers with random weights."""

WRITE = """
import sys, torch, transformers as t
from safetensors.torch import save_file
torch.manual_seed(0)
model = t.{model}.eval()
# Fresh biases and norms are equal, which would hide a swapped one.
for name, parameter in model.named_parameters():
    torch.nn.init.normal_(parameter, std=0.2)
model.save_pretrained(sys.argv[1], **{options})
tokens = torch.randint(3, 520, (3, 64), generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    expected = {{"tokens": tokens, "logits": model(tokens).logits}}
save_file(expected, sys.argv[1] + "/expected.safetensors")
"""

READ = """
import sys, torch
from safetensors.torch import load_file
from momentum_gpt.models import load_model
expected = load_file(sys.argv[1] + "/expected.safetensors")
with torch.no_grad():
    logits = load_model(sys.argv[1])(expected["tokens"])
assert "transformers" not in sys.modules
print((logits - expected["logits"]).abs().max().item(), expected["logits"].abs().max().item())
"""


def run(script: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    run(WRITE.format(model=MODELS[request.param], options={}), path)
    return path


def test_logits_are_those_of_transformers_in_fresh_processes(folder: Path) -> None:
    difference, largest = map(float, run(READ, folder).split())
    assert difference < 1e-4
    assert largest > 0.5


def test_weights_in_several_files_are_read(tmp_path: Path) -> None:
    run(WRITE.format(model=MODELS["gpt2"], options={"max_shard_size": "50KB"}), tmp_path)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert float(run(READ, tmp_path).split()[0]) < 1e-4


def test_weights_in_torchs_format_are_read_without_running_them(
    folder: Path, tmp_path: Path
) -> None:
    config = (folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    tokens = torch.arange(3, 40)[None]
    assert torch.equal(load_model(tmp_path)(tokens), load_model(folder)(tokens))
    (tmp_path / "pytorch_model.bin").write_bytes(
        b"\x80\x04cposix\nsystem\n\x8c\x0ctouch pickled\x85R."
    )
    with pytest.raises(UserError, match="does not hold a model"):
        load_model(tmp_path)


def test_decoding_an_imported_model_is_its_full_pass(folder: Path) -> None:
    model, tokens = load_model(folder), torch.arange(3, 40)[None]
    cache = Cache(model.config.n_layers, 1, 64)
    pieces = [model(part, cache=cache) for part in tokens.split([20, 1, 16], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), rtol=1e-4, atol=1e-4)


def test_momentum_starts_from_imported_weights(folder: Path) -> None:
    """With decay 0 it is the imported model; with another, another function of its weights."""
    vanilla = load_model(folder)
    tokens = torch.arange(3, 40)[None]
    for options, same in (({"ema_decay": 0.0}, True), ({"ema_decay": 0.5, "learned": True}, False)):
        model = GPT(vanilla.config, {"name": "momentum", **options})
        init_weights(model, 0)
        start_from(model, folder)
        assert torch.equal(model(tokens), vanilla(tokens)) is same
        for name, parameter in vanilla.named_parameters():
            assert torch.equal(parameter, model.get_parameter(name)), name


def test_a_larger_vocabulary_and_a_shorter_context_keep_the_first_rows(folder: Path) -> None:
    vanilla, tokens = load_model(folder), torch.arange(3, 20)[None]
    changed = ModelConfig(**(vars(vanilla.config) | {"vocab_size": 576, "seq_len": 32}))
    check_start(changed, str(folder))
    model = GPT(changed, {"name": "vanilla"})
    init_weights(model, 0)
    start_from(model, folder)
    torch.testing.assert_close(model(tokens)[..., :520], vanilla(tokens), rtol=1e-5, atol=1e-5)


def test_a_model_of_another_shape_is_refused_with_the_options_that_fit(folder: Path) -> None:
    shape = vars(load_model(folder).config)
    changes = {"n_layers": 2, "d_model": 64, "activation": "gelu_tanh", "positions": "rotary"}
    message = r"another shape than the model: add model\.n_layers=3 .*model\.d_model=32"
    with pytest.raises(UserError, match=message):
        check_start(ModelConfig(**(shape | changes)), str(folder))

    with pytest.raises(UserError, match=r"add model\.vocab_size=520$"):
        check_start(ModelConfig(**(shape | {"vocab_size": 512})), str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "llama"},
            "a model of type 'llama': only gpt2, xglm, momentum_gpt can be loaded",
        ),
        (
            {"activation_function": "relu"},
            "activation_function='relu', which our GPT does not support: it must be 'gelu",
        ),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False"),
    ],
)
def test_what_our_gpt_does_not_support_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    config = json.loads((folder / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        load_model(tmp_path)


def test_missing_weights_are_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UserError, match=r"has no weights: it needs one of model\.safetensors"):
        load_model(tmp_path)
    torch.save({"wte.weight": torch.zeros(520, 32)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="has no tensor"):
        load_model(tmp_path)


@pytest.mark.slow
def test_evaluation_and_further_training_take_the_folder(
    folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    """With decay 0 and hardly a learning rate, training changes nothing that is measured."""
    measure = ["evaluation.tokens=2048", "evaluation.induction_sequences=4"]
    imported = command("momentum_gpt.evaluate", f"run={folder}", f"data={data_folder}", *measure)
    assert imported.code == 0, imported.err
    assert "val/loss" in imported.out

    shape = ["model.n_layers=3", "model.n_heads=4"]
    if "xglm" in folder.name:
        shape += ["model.positions=sinusoidal", "model.activation=gelu"]
        shape += ["model.scale_embedding=true"]
    slow = ["training.max_steps=2", "optim.lr=1e-12", "optim.min_lr=0"]
    arguments = [
        "momentum_gpt.train",
        "name=further",
        f"data={data_folder}",
        f"runs={tmp_path}",
        f"init={folder}",
        *SMOKE,
        *slow,
    ]
    wrong = command(*arguments)
    assert wrong.code == 2
    assert "another shape than the model: add model.n_layers=3 model.n_heads=4" in wrong.err

    done = command(*arguments, *shape, "attention=momentum", "attention.ema_decay=0.0")
    assert done.code == 0, done.err
    assert load_model(tmp_path / "further").config.vocab_size == 520
    further = command("momentum_gpt.evaluate", f"run={tmp_path / 'further'}", *measure)
    assert further.code == 0, further.err

    config = EvaluationConfig(tokens=2048, induction_sequences=4)
    shards = TokenShards(data_folder, "validation")
    expected = evaluate(load_model(folder), shards, config, 64, 4096).metrics
    [metrics] = read_json_lines(tmp_path / "further" / "evaluations" / "validation.jsonl")
    compared = expected.keys() - {"eval/seconds"}
    assert {"val/loss", "icl/induction/loss"} <= compared
    for key in compared:
        assert in_nats(key, metrics[key]) == pytest.approx(in_nats(key, expected[key]), abs=1e-4)


def in_nats(key: str, metric: float) -> float:
    """Return the logarithm of a perplexity, which random weights make huge; else the metric."""
    return math.log(metric) if "ppl" in key else metric
