"""An export is the same model in transformers, or there is no export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from sentencepiece import sentencepiece_model_pb2

from data_prep.train_tokenizer import TokenizerConfig, train
from momentum_gpt import export
from momentum_gpt.core.config import ModelConfig
from momentum_gpt.data import load_tokenizer
from momentum_gpt.data.tokenizer import CONTROL_PIECES
from momentum_gpt.models import ATTENTIONS, GPT, build_attention, load_model, save_model
from momentum_gpt.models.attention import MomentumAttention, Variant
from momentum_gpt.models.gpt import is_of_variant
from momentum_gpt.models.hf import check
from momentum_gpt.models.hf.write import write_model
from tests.conftest import Result
from tests.models import variants

Invoke = Callable[..., Result]

Model = tuple[dict[str, Any], dict[str, Any]]
"""Options of the shape, and of the attention."""

CASES: dict[str, Model] = {
    "gpt2": ({}, {"name": "vanilla"}),
    "vanilla": ({"positions": "rotary", "bias": False, "activation": "gelu"}, {"name": "vanilla"}),
    "momentum": ({}, {"name": "momentum", "ema_decay": 0.9}),
    "momentum_layers": (
        {"positions": "sinusoidal", "activation": "gelu", "scale_embedding": True},
        {"name": "momentum", "ema_decay": [0.3, 0.0, 0.9], "layers": [1, 2], "normalised": True},
    ),
    "momentum_learned": (
        {"positions": "rotary"},
        {
            "name": "momentum",
            "ema_decay": [[0.3, 0.5, 0.7, 0.99]],
            "learned": True,
            "include_current": True,
        },
    ),
    "shift": ({"positions": "rotary"}, {"name": "shift", "weight": 0.5}),
    "linear": ({"positions": "sinusoidal"}, {"name": "linear"}),
    "linear_momentum": (
        {},
        {"name": "linear_momentum", "ema_decay": 0.5, "layers": [0], "learned": True},
    ),
}
"""Models of different shapes and options; every other variant is added with those of its YAML."""


def shape_of(options: dict[str, Any]) -> ModelConfig:
    return ModelConfig(3, 4, 32, 160, vocab_size=512, **options)


def has_hf_form(attention: dict[str, Any]) -> bool:
    return build_attention(attention, shape_of({}))[0].hf_form() is not None


def all_models() -> dict[str, Model]:
    models = dict(CASES)
    for name in ATTENTIONS:
        attention = variants.FROM_YAML[name]
        if name not in models and has_hf_form(attention):
            models[name] = ({}, attention)
    return models


MODELS = all_models()

ASK = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer

def continuations(model, batches, **options):
    rows = []
    for batch in batches:
        tokens = model.generate(**batch, **options)[:, batch["input_ids"].shape[1]:]
        rows += tokens.tolist()
    return rows

def answers(folder, trust, tokens, prompts):
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    options = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": 511}
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    alone = [tokenizer(prompt, return_tensors="pt") for prompt in prompts]
    return {
        "class": type(model).__name__,
        "buffers": len(list(model.buffers())),
        "logits": model(tokens).logits.tolist(),
        "loss": model(tokens, labels=tokens).loss.item(),
        "batch": continuations(model, [batch], **options),
        "alone": continuations(model, alone, **options),
        "again": continuations(model, alone, use_cache=False, **options),
        "n_padded": int((batch["attention_mask"] == 0).sum()),
    }

asked = json.load(sys.stdin)
tokens = torch.tensor(asked["tokens"])
found = []
with torch.no_grad():
    for folder, trust in asked["folders"]:
        found.append(answers(folder, trust, tokens, asked["prompts"]))
print(json.dumps(found))
"""

TOKENS = torch.randint(512, (2, 160), generator=torch.Generator().manual_seed(1))
PROMPTS = ["def main(", "import os\nimport sys\n\n\nclass A:\n    def", "x"]


def made(folder: Path, name: str, tokenizer: Path | None) -> GPT:
    """Save a model whose every parameter matters, as a run leaves it."""
    shape, attention = MODELS[name]
    model = GPT(shape_of(shape), attention)
    generator = torch.Generator().manual_seed(0)
    for parameter_name, parameter in model.named_parameters():
        drawn = torch.empty(parameter.shape).normal_(0, 0.4, generator=generator)
        if is_of_variant(parameter_name) or "norm" in parameter_name:
            drawn = parameter.data + drawn
        parameter.data = drawn
    save_model(folder, model, dict(model.named_parameters()), tokenizer)
    return model.eval()


@pytest.fixture(scope="module")
def exported(
    data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[GPT, dict[str, Any]]]:
    """Return each model with what transformers answers about its export, in a fresh process."""
    path = tmp_path_factory.mktemp("exports")
    models = {name: made(path / name, name, data_folder / "tokenizer.model") for name in MODELS}
    for name in MODELS:
        export.export(export.ExportConfig(str(path / name), str(path / "out" / name)))
    folders = [(str(path / "out" / name), name != "gpt2") for name in MODELS]
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        input=json.dumps({"folders": folders, "tokens": TOKENS.tolist(), "prompts": PROMPTS}),
        env=os.environ | {"HF_HOME": str(path / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {
        name: (models[name], answer)
        for name, answer in zip(MODELS, json.loads(done.stdout), strict=True)
    }


@pytest.fixture
def model_folder(data_folder: Path, tmp_path: Path) -> Path:
    made(tmp_path / "model", "momentum", data_folder / "tokenizer.model")
    return tmp_path / "model"


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_export_is_the_same_model(
    exported: dict[str, tuple[GPT, dict[str, Any]]], name: str
) -> None:
    """Compare logits, the loss and decoding: alone, in a padded batch, and without a cache."""
    model, answer = exported[name]
    assert answer["class"] == ("GPT2LMHeadModel" if name == "gpt2" else "MomentumGPTForCausalLM")
    logits = model(TOKENS)
    torch.testing.assert_close(torch.tensor(answer["logits"]), logits, rtol=1e-4, atol=1e-4)
    assert logits.abs().max() > 2
    nats = model(TOKENS[:, :-1], TOKENS[:, 1:]).item()
    assert answer["loss"] == pytest.approx(nats / TOKENS[:, 1:].numel(), rel=1e-4)
    assert answer["n_padded"] > 10
    assert answer["batch"] == answer["alone"] == answer["again"]
    assert name == "gpt2" or answer["buffers"] == 0


@pytest.mark.parametrize("name", MODELS)
def test_an_export_is_read_back_as_the_same_model(tmp_path: Path, name: str) -> None:
    """The modelling code is not needed for that, and the model can be exported again."""
    model = made(tmp_path / "model", name, None)
    model.document_end = 3
    (tmp_path / "out").mkdir()
    write_model(tmp_path / "out", model, 3, 3)
    (tmp_path / "out" / "modeling_momentum_gpt.py").unlink(missing_ok=True)
    again = load_model(tmp_path / "out")
    assert (again.config, again.document_end) == (model.config, 3)
    torch.testing.assert_close(again(TOKENS), model(TOKENS), rtol=1e-6, atol=1e-6)
    write_model(tmp_path / "model", again, 3, 3)
    first, second = (
        load_file(tmp_path / place / "model.safetensors") for place in ("out", "model")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.transformers4
@pytest.mark.parametrize("name", MODELS)
def test_transformers_4_loads_the_same_model(data_folder: Path, tmp_path: Path, name: str) -> None:
    """The export checks logits, greedy decoding and the tokenizer, in version 4.57 here."""
    made(tmp_path / "model", name, data_folder / "tokenizer.model")
    check_in_transformers_4(tmp_path)


@pytest.mark.transformers4
def test_transformers_4_loads_the_same_unigram_model(text_folder: Path, tmp_path: Path) -> None:
    model = unigram_of(text_folder)
    (tmp_path / "tokenizer.model").write_bytes(model)
    made(tmp_path / "model", "gpt2", tmp_path / "tokenizer.model")
    check_in_transformers_4(tmp_path)


def unigram_of(text_folder: Path) -> bytes:
    texts = [path.read_text() for path in text_folder.iterdir()]
    return train(texts, TokenizerConfig(vocab_size=512, model_type="unigram"))


def check_in_transformers_4(folder: Path) -> None:
    """Export the model of a folder with version 4.57, which checks it."""
    older = Path(__file__).resolve().parents[1] / ".venv" / "transformers4"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "momentum_gpt.export",
            f"run={folder / 'model'}",
            f"output={folder / 'out'}",
        ],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(
                [str(older), *filter(None, [os.environ.get("PYTHONPATH")])]
            )
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "checked in transformers 4.57." in done.stdout


def test_an_export_of_an_earlier_version_is_read_back(tmp_path: Path) -> None:
    """It has no `mixing`, and its `attention` has a decay for each head of each layer."""
    model = made(tmp_path / "model", "momentum_layers", None)
    (tmp_path / "out").mkdir()
    write_model(tmp_path / "out", model, 3, 3)

    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text())
    del config["mixing"]
    config["attention"] = {
        "name": "momentum",
        "ema_decay": [[0.3] * 4, [0.0] * 4, [0.9] * 4],
        "learned": False,
        "normalised": True,
        "include_current": False,
        "layers": [1, 2],
    }
    path.write_text(json.dumps(config))
    torch.testing.assert_close(load_model(tmp_path / "out")(TOKENS), model(TOKENS))


@pytest.mark.parametrize("name", ATTENTIONS)
def test_every_variant_is_exported_or_refused_in_one_line(
    invoke: Invoke, tmp_path: Path, name: str
) -> None:
    """Those that can be exported are compared with transformers in the slow tests."""
    attention = variants.FROM_YAML[name]
    if has_hf_form(attention):
        assert name in {options["name"] for _, options in MODELS.values()}
        return

    model = GPT(shape_of({}), attention)
    save_model(tmp_path / "model", model, dict(model.named_parameters()), None)
    done = invoke(export.main, f"run={tmp_path / 'model'}", f"output={tmp_path / 'out'}")
    assert (done.code, done.err.count("\n")) == (2, 1), done
    assert f"attention {name!r} cannot be exported: it has no Hugging Face form" in done.err
    assert not list(tmp_path.glob("*out*"))


def test_the_modelling_code_knows_no_variant_by_name(tmp_path: Path) -> None:
    """It reads `mixing` alone, so another name in config.json changes nothing."""
    model = made(tmp_path / "model", "momentum", None)
    (tmp_path / "out").mkdir()
    write_model(tmp_path / "out", model, 3, 3)
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text())
    config["attention"] = {"name": "something_else"}
    path.write_text(json.dumps(config))
    check.check_export(tmp_path / "out", model, 3, {})


def test_the_tokenizer_is_exported_with_all_that_it_needs(
    invoke: Invoke, model_folder: Path, tmp_path: Path
) -> None:
    """That it splits texts in the same way is tested in tests/data/test_hf_tokenizer.py."""
    assert invoke(export.main, f"run={model_folder}", f"output={tmp_path / 'out'}").code == 0
    about = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert about["split_special_tokens"] is True
    assert (about["eos_token"], about["pad_token"]) == (
        CONTROL_PIECES["eos"],
        CONTROL_PIECES["pad"],
    )
    # Without this, transformers 4.57 would also give token_type_ids.
    assert about["model_input_names"] == ["input_ids", "attention_mask"]

    tokenizer = load_tokenizer(model_folder)
    assert load_tokenizer(tmp_path / "out").sha256 == tokenizer.sha256
    converted = load_tokenizer(tmp_path / "out" / "tokenizer.json")
    assert (converted.eos_id, converted.pad_id) == (tokenizer.eos_id, tokenizer.pad_id)
    assert converted.ordinary_ids().tolist() == tokenizer.ordinary_ids().tolist()


def test_a_unigram_model_is_exported_and_one_with_inexact_scores_is_refused(
    invoke: Invoke, text_folder: Path, tmp_path: Path
) -> None:
    model = unigram_of(text_folder)
    (tmp_path / "tokenizer.model").write_bytes(model)
    made(tmp_path / "model", "gpt2", tmp_path / "tokenizer.model")
    done = invoke(export.main, f"run={tmp_path / 'model'}", f"output={tmp_path / 'out'}")
    assert done.code == 0, done.err

    parsed = sentencepiece_model_pb2.ModelProto.FromString(model)
    parsed.pieces[300].score += 0.001
    (tmp_path / "model" / "tokenizer.model").write_bytes(parsed.SerializeToString())
    done = invoke(export.main, f"run={tmp_path / 'model'}", f"output={tmp_path / 'other'}")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "cannot be exported: transformers would split some texts" in done.err
    assert "its scores are no multiples of 1/64" in done.err
    assert not list(tmp_path.glob("*other*"))


def test_a_byte_level_tokenizer_stays_itself_and_adds_no_tokens(
    invoke: Invoke, text_folder: Path, tmp_path: Path
) -> None:
    byte_level = tokenizers.ByteLevelBPETokenizer()
    byte_level.train(
        [str(path) for path in text_folder.iterdir()],
        vocab_size=500,
        special_tokens=["<|endoftext|>"],
    )
    post = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    byte_level._tokenizer.post_processor = post
    byte_level.save(str(tmp_path / "tokenizer.json"))
    made(tmp_path / "model", "gpt2", tmp_path / "tokenizer.json")
    assert invoke(export.main, f"run={tmp_path / 'model'}", f"output={tmp_path / 'out'}").code == 0
    before, after = (
        json.loads((tmp_path / folder / "tokenizer.json").read_text())
        for folder in ("model", "out")
    )
    assert after == before | {"post_processor": None}


def test_a_model_without_a_tokenizer_is_exported_without_one(
    invoke: Invoke, tmp_path: Path
) -> None:
    made(tmp_path / "model", "shift", None)
    done = invoke(export.main, f"run={tmp_path / 'model'}", f"output={tmp_path / 'out'}")
    assert done.code == 0, done
    assert "has no tokenizer, so the export has none either" in done.out
    assert not list((tmp_path / "out").glob("tokenizer*"))


def spoil_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["blocks.1.attention.out.weight"][3, 5] += 0.01
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def spoil_decay(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace("0.9", "0.9001"))


def spoil_code(folder: Path) -> None:
    """Make the code right in a full pass, and wrong where padding is."""
    path = folder / "modeling_momentum_gpt.py"
    path.write_text(
        path.read_text().replace(
            "v = v * real[:, None, :, None]", "v = v + 0 * real[:, None, :, None]"
        )
    )


def spoil_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    about = json.loads(path.read_text())
    merges = about["model"]["merges"]
    merges[10], merges[60] = merges[60], merges[10]
    path.write_text(json.dumps(about))


def spoil_syntax(folder: Path) -> None:
    (folder / "modeling_momentum_gpt.py").write_text("raise RuntimeError('broken')")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_weight, "logits differ by"),
        (spoil_decay, "logits differ by"),
        (spoil_code, "greedy token"),
        (spoil_tokenizer, "the text '"),
        (spoil_syntax, "does not load it: RuntimeError: broken"),
    ],
)
def test_a_difference_is_found_and_leaves_nothing(
    invoke: Invoke,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], None],
    message: str,
) -> None:
    check_export = check.check_export

    def spoiled(folder: Path, *arguments: Any) -> Any:
        spoil(folder)
        return check_export(folder, *arguments)

    monkeypatch.setattr(check, "check_export", spoiled)
    done = invoke(export.main, f"run={model_folder}", f"output={model_folder.parent / 'out'}")
    assert (done.code, done.err.count("\n")) == (2, 1), done
    assert "not the same model and was discarded: " in done.err
    assert message in done.err
    assert [path.name for path in model_folder.parent.iterdir()] == ["model"]


def test_what_cannot_be_exported_is_one_line(
    invoke: Invoke, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = model_folder.parent / "out"
    existing = invoke(export.main, f"run={model_folder}", f"output={model_folder}")
    assert existing.code == 2
    assert "exists, and nothing is overwritten" in existing.err

    with monkeypatch.context() as patched:
        patched.setattr(MomentumAttention, "hf_form", Variant.hf_form)
        unknown = invoke(export.main, f"run={model_folder}", f"output={output}")
    assert (unknown.code, unknown.err.count("\n")) == (2, 1)
    assert "attention 'momentum' cannot be exported: it has no Hugging Face form" in unknown.err
    assert "define hf_form in MomentumAttention" in unknown.err

    monkeypatch.setattr("momentum_gpt.models.hf.check.find_spec", lambda name: None)
    missing = invoke(export.main, f"run={model_folder}", f"output={output}")
    assert missing.code == 2
    assert "pip install transformers" in missing.err
    assert not list(model_folder.parent.glob("*out*"))
