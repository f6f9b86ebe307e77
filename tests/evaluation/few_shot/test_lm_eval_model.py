"""lm-eval and we agree: our model class against its own on the same weights, and task files on exported models against our
few-shot scores and bits per byte. Skipped where lm-eval is not installed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from momentum_gpt.core.config import EvaluationConfig, IclConfig, ModelConfig
from momentum_gpt.data import Texts, load_tokenizer, read_texts
from momentum_gpt.evaluation.few_shot.measure import evaluate_icl
from momentum_gpt.evaluation.few_shot.tasks import (
    ROWS,
    IclTask,
    demonstrations,
    load_examples,
    load_task,
)
from momentum_gpt.evaluation.perplexity import perplexity
from momentum_gpt.export import ExportConfig, export
from momentum_gpt.models import GPT, save_model
from momentum_gpt.models.gpt import init_weights
from tests.conftest import SHARED_DATA

pytest.importorskip("lm_eval", reason="lm-eval is not installed: make test-harness installs it")
pytest.importorskip("accelerate")

TEXT = "the quick brown fox jumps over the lazy dog while a slow red turtle looks on " * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of `transformers` with random weights and a byte-level tokenizer of its own."""
    import tokenizers
    import transformers

    path = tmp_path_factory.mktemp("gpt2")
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([TEXT], vocab_size=400, special_tokens=["<|endoftext|>"])
    tokenizer.save(str(path / "tokenizer.json"))
    end = "<|endoftext|>"
    transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(path / "tokenizer.json"), eos_token=end
    ).save_pretrained(path)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=400, n_positions=128, n_embd=32, n_layer=2, n_head=4)
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(path)
    return path


def both(folder: Path) -> tuple[Any, Any]:
    from lm_eval.models.huggingface import HFLM

    from momentum_gpt.evaluation.few_shot.lm_eval_model import NativeLM

    return NativeLM(run=str(folder)), HFLM(
        pretrained=str(folder), device="cpu", dtype="float32", batch_size=4
    )


def test_log_probabilities_and_choices_are_those_of_lm_evals_own_model(folder: Path) -> None:
    """One-token and longer answers, shared and unshared contexts, one too long for the model, and none at all."""
    from lm_eval.api.instance import Instance

    prefix = " ".join(TEXT.split()[:60])
    asked = [
        (f"{prefix} {word} is", answer)
        for word in ("fox", "dog", "red turtle")
        for answer in (" the", " a slow", " over")
    ]
    asked += [("dog", " the"), ("", "the quick"), (TEXT, " brown fox")]
    instances = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(asked)]
    mine, theirs = (model.loglikelihood(instances) for model in both(folder))
    np.testing.assert_allclose(
        [score for score, _ in mine], [score for score, _ in theirs], atol=1e-4
    )
    assert [chosen for _, chosen in mine] == [chosen for _, chosen in theirs]


def test_whole_texts_have_lm_evals_nats(folder: Path) -> None:
    """Shorter than the context of 128 tokens, and longer, with a last window that reaches back; and none at all."""
    from lm_eval.api.instance import Instance

    words = TEXT.split()
    texts = [" ".join(words[:n]) for n in (20, 3, 1, 150, 333, 500)] + [""]
    instances = [
        Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(texts)
    ]
    mine, theirs = (model.loglikelihood_rolling(instances) for model in both(folder))
    assert mine[-1] == 0
    np.testing.assert_allclose(mine[:-1], theirs[:-1], rtol=1e-6)


def test_generation_stops_where_it_is_told(folder: Path) -> None:
    from lm_eval.api.instance import Instance

    ours, theirs = both(folder)
    options = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}
    instances = [Instance("generate_until", {}, ("the quick brown", options), 0)]
    assert ours.generate_until(instances) == theirs.generate_until(instances)


@pytest.fixture(scope="module", params=["vanilla", "momentum"])
def exported(
    request: pytest.FixtureRequest, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[GPT, Path]:
    """A model with weights that matter, and the folder of transformers that it was exported to."""
    path = tmp_path_factory.mktemp(request.param)
    attention = (
        {"name": "vanilla"}
        if request.param == "vanilla"
        else {"name": "momentum", "ema_decay": 0.7}
    )
    model = GPT(ModelConfig(2, 4, 32, 2048, vocab_size=512, init_std=0.2), attention)
    init_weights(model, 0)
    save_model(
        path / "model", model, dict(model.named_parameters()), data_folder / "tokenizer.model"
    )
    export(ExportConfig(str(path / "model"), str(path / "exported")))
    return model.eval(), path / "exported"


def harness(
    folder: Path,
    tasks: Path,
    monkeypatch: pytest.MonkeyPatch,
    samples: dict[str, list[int]] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """What lm-eval's own model of transformers gets in the task files, without a network."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    arguments = {
        "pretrained": str(folder),
        "trust_remote_code": True,
        "dtype": "float32",
        "device": "cpu",
        **options,
    }
    arguments["softmax_dtype"] = (
        "float64"  # its sums over long candidates in float32 are 1e-4 nats off
    )
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    names = sorted(path.stem for path in tasks.glob("*.yaml"))
    results = lm_eval.simple_evaluate(
        "hf",
        model_args=arguments,
        tasks=names,
        task_manager=manager,
        batch_size=8,
        samples=samples,
        log_samples=True,
    )
    assert results is not None
    return results


CHOICES = {
    "piqa": "{{[' ' ~ sol1, ' ' ~ sol2]}}",
    "arc": "{{[' ' ~ choices.text[0], ' ' ~ choices.text[1], ' ' ~ choices.text[2], ' ' ~ choices.text[3]]}}",
}


def write_task_file(folder: Path, task: IclTask, rows: Path, shown: list[dict[str, Any]]) -> None:
    """The task as lm-eval's file, with these demonstrations for every query."""
    template = re.sub(r"{(\w+)}", r"{{\1}}", task.template)
    choices: Any = task.verbalizers or CHOICES[str(task.rows)]
    about = {
        "task": task.name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": template,
        "doc_to_choice": choices,
        "doc_to_target": "{{choices.label.index(answerKey)}}" if task.rows == "arc" else "label",
        "target_delimiter": "",  # the space is the candidate's
        "fewshot_delimiter": "\n",
        "num_fewshot": len(shown),
        "fewshot_config": {"sampler": "first_n", "samples": shown},
        "metric_list": [{"metric": "acc"}],
    }
    (folder / f"{task.name}.yaml").write_text(
        OmegaConf.to_yaml(OmegaConf.create({"x": about})["x"]).replace("${", "{")
    )


def check_task(
    exported: tuple[GPT, Path],
    folder: Path,
    name: str,
    data: str | None,
    rows: Path,
    train: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each candidate's log-probability, of lm-eval on the export and of our evaluation, behind the same demonstrations."""
    model, export_folder = exported
    config = IclConfig(tasks=[name], data=data, k=[4], seeds=1, queries=12)
    (record,) = evaluate_icl(model, load_tokenizer(export_folder), config, 2048, 4096)
    task = load_task(name)
    by_prompt = {
        task.template.format(**row): row for row in map(json.loads, train.read_text().splitlines())
    }
    chosen = demonstrations(load_examples(task, data)[0], record["k"], task.name, 0)
    folder.mkdir()
    write_task_file(folder, task, rows, [by_prompt[example.prompt] for example in chosen])
    read = ROWS.get(str(task.rows), lambda row, task: row)
    kept = [
        i
        for i, row in enumerate(map(json.loads, rows.read_text().splitlines()))
        if read(row, task) is not None
    ]
    asked = [kept[i] for i in record["queries"]]
    results = harness(export_folder, folder, monkeypatch, {task.name: asked}, add_bos_token=True)
    samples = sorted(results["samples"][task.name], key=lambda sample: sample["doc_id"])
    assert [sample["doc_id"] for sample in samples] == asked
    theirs = [[float(score) for score, _ in sample["filtered_resps"]] for sample in samples]
    assert len({score for scores in theirs for score in scores}) > 12
    np.testing.assert_allclose(record["scores"]["sum"], theirs, atol=1e-4)
    if len({len(text) for text in task.verbalizers}) == 1:
        assert results["results"][task.name]["acc,none"] == pytest.approx(record["acc/sum"])


@pytest.mark.parametrize(
    "name", ["sst2", "sst5", "mr", "subj", "agnews", "cb", "imdb", "arc_easy", "piqa"]
)
@pytest.mark.shared_data
def test_task_files_on_exported_models_give_our_scores(
    exported: tuple[GPT, Path], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, task = SHARED_DATA / "icl", load_task(name)
    rows, train = (data / name / f"{split}.jsonl" for split in (task.test_split, "train"))
    check_task(exported, tmp_path / "tasks", name, str(data), rows, train, monkeypatch)


def test_a_task_file_of_ones_own_on_exported_models_gives_our_scores(
    exported: tuple[GPT, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels of several tokens, text with several spaces and beyond ASCII."""
    for split, n in (("train", 9), ("test", 20)):
        rows = [{"text": f"{split}  häuser {i} ☃", "label": i % 3} for i in range(n)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "own.yaml"
    path.write_text(
        f"dataset: {tmp_path}\ntest_split: test\ntemplate: 'Text: {{text}} Colour:'\n"
        "verbalizers: [' red and yellow', ' blue', ' grün']\n"
    )
    check_task(
        exported,
        tmp_path / "tasks",
        str(path),
        None,
        tmp_path / "test.jsonl",
        tmp_path / "train.jsonl",
        monkeypatch,
    )


def test_bits_per_byte_of_exported_models_are_ours(
    exported: tuple[GPT, Path], text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents shorter than the context, longer, and of two windows and more."""
    texts = [
        path.read_text()[:length]
        for path, length in zip(sorted(text_folder.iterdir()), (9000, 50, 700, 4000), strict=False)
    ]
    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in texts)
    )
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "texts.yaml").write_text(
        f"task: texts\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path / 'texts.jsonl'}}}}}\n"
        "output_type: loglikelihood_rolling\ntest_split: test\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
        "metric_list: [{metric: bits_per_byte}, {metric: word_perplexity}]\n"
    )
    model, folder = exported
    stream = Texts(
        read_texts(str(tmp_path / "texts.jsonl"), None, "test", "text"),
        load_tokenizer(folder),
        10**6,
        "texts",
    )
    config = EvaluationConfig(tokens=10**6, documents="apart", context_lengths=[2048])
    metrics, _ = perplexity(model, stream, config, 2048, 4096)
    theirs = harness(folder, tmp_path / "tasks", monkeypatch)["results"]["texts"]
    assert metrics["val/bpb"] == pytest.approx(theirs["bits_per_byte,none"], rel=1e-6)
