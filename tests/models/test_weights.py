"""A model on disk comes back as it was, and nothing that is not one is taken for one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from momentum_gpt.core.config import ModelConfig
from momentum_gpt.core.errors import UserError
from momentum_gpt.models import GPT, load_model, save_model
from momentum_gpt.models.gpt import init_weights

TINY = ModelConfig(n_layers=2, n_heads=2, d_model=16, seq_len=40, vocab_size=50, positions="rotary")


def saved(folder: Path) -> GPT:
    model = GPT(TINY, {"name": "momentum", "ema_decay": 0.3})
    init_weights(model, 0)
    save_model(folder, model, dict(model.named_parameters()), tokenizer=None)
    return model


@pytest.mark.parametrize("where", [".", "model", "checkpoints/step_00000007/model"])
def test_a_model_comes_back_from_its_folder_its_checkpoint_and_its_run(
    tmp_path: Path, where: str
) -> None:
    model = saved(tmp_path / where)
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    (tmp_path / "checkpoints" / "latest").write_text("step_00000007\n")
    loaded = load_model(tmp_path)
    tokens = torch.arange(40)[None]
    assert torch.equal(loaded(tokens), model(tokens))
    assert loaded.config == TINY
    assert loaded.attention == {"name": "momentum", "ema_decay": 0.3}


def test_a_vanilla_checkpoint_loads_into_a_momentum_model(tmp_path: Path) -> None:
    model = saved(tmp_path)
    other = GPT(TINY, {"name": "vanilla"})
    other.load_state_dict(model.state_dict())


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model"):
        load_model(tmp_path)
    saved(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(UserError, match="does not hold a model"):
        load_model(tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"]["d_model"] = 32
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="does not hold a model"):
        load_model(tmp_path)
