"""Files that a stranger wrote: nothing in them is run, followed or resolved; one line says so."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from data_prep import verify
from momentum_gpt import compare, evaluate, generate, train
from momentum_gpt.core.config import TrainConfig, read_config
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import (
    MOST_JSON_BYTES,
    append_json_lines,
    read_json,
    sha256_of_file,
)
from momentum_gpt.core.manifest import read_checkpoint_manifest
from momentum_gpt.core.ownership import own
from momentum_gpt.data import TokenShards, load_tokenizer
from momentum_gpt.data.shards import read_manifest
from momentum_gpt.evaluation.few_shot.tasks import load_task
from momentum_gpt.models import load_model
from tests.conftest import SMOKE, Result, command

Invoke = Callable[..., Result]

SECRET = "a-word-that-nobody-may-see"
DEEP = "[" * 100_000
PAIRS = '{"a":' * 100_000 + "1" + "}" * 100_000


class Payload:
    """What a pickle could do when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


PICKLE = pickle.dumps(Payload())


@pytest.fixture(scope="module")
def made(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and two runs that have been evaluated."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(data_folder, folder / "data")
    options = ["name=a", "data=data", *SMOKE, "training.max_steps=2"]
    done = command("momentum_gpt.train", *options, cwd=folder)
    assert done.code == 0, done.err
    shutil.copytree(folder / "runs" / "a", folder / "runs" / "b")
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, which is the present folder, too."""
    folder = Path(shutil.copytree(made, tmp_path / "place"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SECRET", SECRET)
    return folder


def refused(read: Callable[[], object]) -> str:
    """Return the one line with which something is refused."""
    with pytest.raises(UserError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    assert not Path("ran").exists()
    assert SECRET not in message
    return message


def put(path: Path, content: str | bytes) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit a JSON file."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


# ---------------------------------------------------------------- YAML

BOMB = "a: &a [x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(9 * ['*' + before])}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

BAD_YAML: dict[str, tuple[str | bytes, str]] = {
    "tab": ("model:\n\tn_layers: 2\n", "line 2 is not YAML"),
    "bracket": ("tags: [a,\nname: b\n", "is not YAML"),
    "list": ("- name\n- data\n", "no options"),
    "number": ("5\n", "cannot be read"),
    "empty": ("", "no options"),
    "binary": (bytes(range(256)), "not UTF-8"),
    "pickle": (PICKLE, "not UTF-8"),
    "zero": ("name: a\0b\n", "not allowed"),
    "code": ("name: !!python/object/apply:os.mkdir [ran]\n", "line 1 has the tag"),
    "class": ("name: !!python/name:os.system\n", "line 1 has the tag"),
    "path": ("name: !!python/object/apply:pathlib.Path [a]\n", "line 1 has the tag"),
    "bomb": (BOMB, "line 2 has the alias *a"),
    "circle": ("name: &a [*a]\n", "line 1 has the alias *a"),
    "deep": ("name: " + 5000 * "[" + 5000 * "]", "more than 20 levels deep"),
    "duplicate": ("name: a\nname: b\n", "duplicate key name"),
    "two": ("name: a\n---\nname: b\n", "is not YAML"),
    "digits": ("name: " + 5000 * "9", "integer string conversion"),
    "large": ("name: " + 300_000 * "x", "at most 262,144 are read"),
}


@pytest.mark.parametrize("attack", BAD_YAML)
def test_yaml_that_is_not_plain_is_refused(
    attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, reason = BAD_YAML[attack]
    for name, read in (("config.yaml", read_config), ("task.yaml", load_task)):
        put(tmp_path / name, content)
        path: Any = tmp_path / name if read is read_config else str(tmp_path / name)
        message = refused(lambda read=read, path=path: read(path))  # type: ignore[misc]
        assert str(tmp_path / name) in message
        assert reason in message


INTERPOLATIONS = {
    "tracking.project": ("project: momentum-gpt", "project: ${oc.env:SECRET}"),
    "tracking.tags": ("tags: []", "tags: ['a', 'x${oc.env:SECRET}']"),
    "attention.name": ("name: vanilla", "name: ${oc.env:SECRET,vanilla}"),
    "deepspeed.zero_optimization.stage": ("stage: 1", "stage: ${oc.decode:'1'}"),
    "model.n_heads": ("n_heads: 2", "n_heads: ${model.n_layers}"),
}


@pytest.mark.parametrize("key", INTERPOLATIONS)
def test_an_interpolation_in_a_config_is_refused_by_its_key(key: str, place: Path) -> None:
    path = place / "runs" / "a" / "config.yaml"
    plain, written = INTERPOLATIONS[key]
    assert plain in path.read_text()
    path.write_text(path.read_text().replace(plain, written))
    assert f"{key} has the interpolation" in refused(lambda: read_config(path))


def test_an_interpolation_in_a_task_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text("template: ${oc.env:HOME}\n")
    assert "template has the interpolation" in refused(lambda: load_task(str(path)))


@pytest.mark.parametrize("attention", ["[1]", "{}", "{name: [x]}", "{name: null}"])
def test_an_attention_without_a_name_is_refused(attention: str, place: Path) -> None:
    path = place / "runs" / "a" / "config.yaml"
    text = path.read_text().replace("attention:\n  name: vanilla", f"attention: {attention}")
    path.write_text(text)
    assert str(path) in refused(lambda: read_config(path))


def test_what_a_run_writes_is_read(place: Path) -> None:
    assert isinstance(read_config(place / "runs" / "a" / "config.yaml"), TrainConfig)


# ---------------------------------------------------------------- JSON

BAD_JSON: list[str | bytes] = ["", "[]", "null", '"x"', "5", DEEP, PAIRS, PICKLE, "9" * 5000]


@pytest.mark.parametrize("content", BAD_JSON, ids=range(len(BAD_JSON)))
def test_json_of_another_kind_is_refused(content: str | bytes, place: Path) -> None:
    put(place / "data" / "manifest.json", content)
    refused(lambda: TokenShards("data"))

    model = place / "runs" / "a" / "checkpoints" / "step_00000002" / "model"
    put(model / "config.json", content)
    refused(lambda: load_model(model))


def test_huge_json_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(MOST_JSON_BYTES + 1)
    with pytest.raises(ValueError, match="at most"):
        read_json(path)


# ---------------------------------------------------------------- token shards

OUTSIDE = ["../../etc/passwd", "/etc/passwd", "../data/validation_00000.npy", "a/b.npy"]
NO_NAMES: list[Any] = [*OUTSIDE, "", ".", "..", "a\0b", "a\nb", 5000 * "x", 5, None, ["a"]]


@pytest.mark.parametrize("name", NO_NAMES, ids=range(len(NO_NAMES)))
def test_a_shard_stays_in_its_folder(name: Any, place: Path) -> None:
    path = place / "data" / "manifest.json"
    change(path, lambda content: content["splits"]["validation"][0].update(file=name))
    assert "is not the name of a file" in refused(lambda: read_manifest(place / "data"))


ENTRIES = [
    ("tokens", "9"),
    ("tokens", -5),
    ("tokens", 1.5),
    ("documents", "x"),
    ("documents", None),
    ("sha256", [1]),
    ("sha256", "no digits"),
    ("blocks", [1]),
    ("blocks", "xyz"),
    ("another", 1),
]


@pytest.mark.parametrize(("key", "value"), ENTRIES)
def test_an_entry_of_another_type_is_refused(key: str, value: Any, place: Path) -> None:
    path = place / "data" / "manifest.json"
    change(path, lambda content: content["splits"]["train"][0].update({key: value}))
    assert "another format" in refused(lambda: read_manifest(place / "data"))


FACTS = [
    ("dtype", "object"),
    ("dtype", "int64"),
    ("dtype", ["uint16"]),
    ("vocab_size", "512"),
    ("vocab_size", None),
    ("vocab_size", 10**30),
    ("eos_id", -1),
    ("tokenizer_sha256", 5),
    ("splits", {}),
    ("splits", [1]),
    ("splits", {"train": [], "validation": []}),
]


@pytest.mark.parametrize(("key", "value"), FACTS)
def test_a_fact_of_another_type_is_refused(key: str, value: Any, place: Path) -> None:
    change(place / "data" / "manifest.json", lambda content: content.update({key: value}))
    refused(lambda: TokenShards("data"))


def write_header(path: Path, header: bytes) -> None:
    path.write_bytes(b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header)


BAD_SHARDS: dict[str, Callable[[Path], object]] = {
    "pickle": lambda path: path.write_bytes(PICKLE),
    "objects": lambda path: np.save(path, np.array([Payload()]), allow_pickle=True),
    "empty": lambda path: path.write_bytes(b""),
    "archive": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
    "code": lambda path: write_header(path, b"__import__('os').mkdir('ran')\n"),
    "deep": lambda path: write_header(path, 60_000 * b"(" + b"\n"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "rows": lambda path: np.save(path, np.zeros((3, 3), np.uint16)),
}


@pytest.mark.parametrize("attack", BAD_SHARDS)
def test_a_shard_that_is_no_array_of_tokens_is_refused(attack: str, place: Path) -> None:
    path = place / "data" / "validation_00000.npy"
    BAD_SHARDS[attack](path)
    assert "validation_00000.npy" in refused(lambda: TokenShards("data", "validation").read(0, 1))


@pytest.mark.parametrize("content", [PICKLE, b"", b"hello"], ids=["pickle", "empty", "text"])
@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_a_tokenizer_of_another_kind_is_refused(
    name: str, content: bytes, place: Path, tmp_path: Path
) -> None:
    put(tmp_path / name, content)
    assert name in refused(lambda: load_tokenizer(tmp_path / name))


TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [
        {
            "id": 0,
            "content": "<|endoftext|>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
    ],
    "model": {"type": "BPE", "vocab": {"<|endoftext|>": 0}, "merges": []},
}


def test_a_tokenizer_with_other_ids_than_the_model_is_refused(
    place: Path, invoke: Invoke, tmp_path: Path
) -> None:
    (model_of(place) / "tokenizer.model").unlink()
    path = model_of(place) / "tokenizer.json"
    for token, reason in ((512, "the model knows 512"), (4_000_000_000, "its largest id is")):
        model = TOKENIZER["model"] | {"vocab": {"<|endoftext|>": 0, "a": token}}
        path.write_text(json.dumps(TOKENIZER | {"model": model}))
        done = invoke(generate.main, "run=runs/a", "prompt=a")
        assert (done.code, reason in done.err) == (2, True), done.err

    words = {"type": "WordLevel", "vocab": {"a": 1}, "unk_token": "z"}
    path.write_text(json.dumps(TOKENIZER | {"model": words}))
    assert "only BPE and Unigram" in refused(lambda: load_tokenizer(path))


# ---------------------------------------------------------------- models


def model_of(place: Path) -> Path:
    return place / "runs" / "a" / "checkpoints" / "step_00000002" / "model"


@pytest.mark.parametrize(
    "name", [*OUTSIDE, "", "step_1/../..", "a\0b", "step_00000001\nstep_00000002"]
)
def test_latest_stays_in_its_folder(name: str, place: Path) -> None:
    put(place / "runs" / "a" / "checkpoints" / "latest", name)
    assert "latest cannot be read" in refused(lambda: load_model("runs/a"))


SIZES: list[tuple[str, Any]] = [
    ("n_layers", 10**12),
    ("n_layers", 3),
    ("n_layers", 2.5),
    ("n_heads", 2.0),
    ("n_heads", True),
    ("n_layers", None),
    ("d_model", 10**9),
    ("d_model", 10**30),
    ("seq_len", 10**12),
    ("vocab_size", 10**12),
    ("vocab_size", None),
    ("positions", ["learned"]),
    ("init_std", "x"),
    ("another", 1),
]


@pytest.mark.parametrize(("key", "value"), SIZES)
def test_a_size_that_the_weights_do_not_have_is_refused(key: str, value: Any, place: Path) -> None:
    change(model_of(place) / "config.json", lambda content: content["model"].update({key: value}))
    message = refused(lambda: load_model("runs/a"))
    if key in ("n_layers", "n_heads", "d_model", "seq_len", "vocab_size"):
        assert "its config.json" in message  # so that no model of that size was built


@pytest.mark.parametrize("end", ["x", -5, 10**30, [1], 1.5, 512])
def test_an_end_of_documents_that_is_no_token_is_refused(end: Any, place: Path) -> None:
    change(model_of(place) / "config.json", lambda content: content.update(document_end=end))
    assert "which is no token" in refused(lambda: load_model("runs/a"))


BAD_WEIGHTS: dict[str, Callable[[Path], object]] = {
    "pickle": lambda path: path.write_bytes(PICKLE),
    "torch": lambda path: torch.save(Payload(), path),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "long": lambda path: path.write_bytes((10**18).to_bytes(8, "little") + b"{}"),
    "deep": lambda path: path.write_bytes((100_000).to_bytes(8, "little") + DEEP.encode()),
    "integers": lambda path: save_file({k: v.long() for k, v in load_file(path).items()}, path),
    "none": lambda path: save_file({}, path),
    "no numbers": lambda path: save_file(
        {key: value * float("nan") for key, value in load_file(path).items()}, path
    ),
    "8 bits": lambda path: save_file(
        {key: value.to(torch.float8_e4m3fn) for key, value in load_file(path).items()}, path
    ),
}


@pytest.mark.parametrize("attack", BAD_WEIGHTS)
def test_weights_of_another_kind_are_refused(attack: str, place: Path) -> None:
    BAD_WEIGHTS[attack](model_of(place) / "model.safetensors")
    assert "does not hold a model" in refused(lambda: load_model("runs/a"))


@pytest.mark.parametrize("name", [*OUTSIDE, 5, None])
@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_an_index_of_weights_stays_in_its_folder(kind: str, name: Any, tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8}
    put(tmp_path / "config.json", json.dumps(config | {"vocab_size": 16}))
    put(tmp_path / f"{kind}.index.json", json.dumps({"weight_map": {"wte.weight": name}}))
    assert "is not the name of a file" in refused(lambda: load_model(tmp_path))


@pytest.mark.parametrize("content", [[1, 2], {"wte.weight": "x"}, torch.ones(3)])
def test_torch_files_that_hold_no_weights_are_refused(content: Any, tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8}
    put(tmp_path / "config.json", json.dumps(config | {"vocab_size": 16}))
    torch.save(content, tmp_path / "pytorch_model.bin")
    refused(lambda: load_model(tmp_path))


# ---------------------------------------------------------------- what is written in place


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("precious\n")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for name in ("lock", "validation.jsonl"):
        (run_dir / name).symlink_to(mine)
    refused(lambda: own(run_dir))
    refused(lambda: append_json_lines(run_dir / "validation.jsonl", [{"step": 1}]))
    assert mine.read_text() == "precious\n"


# ---------------------------------------------------------------- whole commands

COMMANDS: dict[str, tuple[Callable[[], None], list[str]]] = {
    "train": (train.main, ["name=a", "data=data", *SMOKE]),
    "evaluate": (evaluate.main, ["run=runs/a"]),
    "compare": (compare.main, ["runs=[runs/a,runs/b]"]),
    "generate": (generate.main, ["run=runs/a"]),
    "verify": (verify.main, ["data=data"]),
}


def everything_bad(place: Path) -> None:
    """Put a pickle into every file that a command may read."""
    for path in [*place.rglob("*.yaml"), *place.rglob("*.json"), *place.rglob("latest")]:
        path.write_bytes(PICKLE)
    for path in [*place.rglob("*.npy"), *place.rglob("*.safetensors"), *place.rglob("*.pt")]:
        path.write_bytes(PICKLE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_ends_in_one_line(name: str, place: Path, invoke: Invoke) -> None:
    everything_bad(place)
    main, options = COMMANDS[name]
    done = invoke(main, *options)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert not list(place.rglob("ran"))


def test_an_engine_state_of_another_kind_ends_in_one_line(place: Path) -> None:
    checkpoint = place / "runs" / "a" / "checkpoints" / "step_00000002"
    states = list((checkpoint / "engine").iterdir())
    assert states
    for path in states:
        torch.save({"module": Payload()}, path)
    # The manifest is honest about the files, so that only reading them tells.
    manifest = read_checkpoint_manifest(checkpoint)
    files = {name: sha256_of_file(checkpoint / name) for name in manifest.files}
    replace(manifest, files=files).write(checkpoint)

    config = place / "runs" / "a" / "config.yaml"
    config.write_text(config.read_text().replace("max_steps: 2", "max_steps: 4"))
    done = command("momentum_gpt.train", "name=a", "data=data", *SMOKE, "training.max_steps=4")
    assert done.code == 2
    assert "does not hold the engine's state" in done.err
    assert done.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.err
    assert not list(place.rglob("ran"))


def test_a_secret_of_the_environment_gets_into_no_output(place: Path, invoke: Invoke) -> None:
    path = place / "runs" / "a" / "config.yaml"
    path.write_text(path.read_text().replace("name: vanilla", "name: ${oc.env:SECRET}"))
    for name in ("train", "evaluate", "compare"):
        main, options = COMMANDS[name]
        done = invoke(main, *options)
        assert (done.code, SECRET in done.out + done.err) == (2, False)
        assert "attention.name has the interpolation" in done.err
    assert not (place / "runs" / "report.html").exists()
