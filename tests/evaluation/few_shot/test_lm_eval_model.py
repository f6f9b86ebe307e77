"""lm-eval and we agree.

Our model class is compared with lm-eval's own on the same weights, and task files on exported
models with our few-shot scores and bits per byte. Skipped where lm-eval is not installed.
"""

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
from momentum_gpt.evaluation import evaluate
from momentum_gpt.evaluation.few_shot.measure import measure_task
from momentum_gpt.evaluation.few_shot.prompts import prepare_task
from momentum_gpt.evaluation.few_shot.tasks import (
    ROWS,
    IclTask,
    draw_demonstrations,
    load_examples,
    load_task,
)
from momentum_gpt.export import ExportConfig, export
from momentum_gpt.models import GPT, save_model
from momentum_gpt.models.gpt import init_weights
from tests.conftest import SHARED_DATA
from tests.evaluation.few_shot.cases import write_rows

pytest.importorskip("lm_eval", reason="lm-eval is not installed: make test-harness installs it")
pytest.importorskip("accelerate", reason="accelerate is not installed: make test-harness does it")

TEXT = "the quick brown fox jumps over the lazy dog while a slow red turtle looks on " * 40

TASKS = ["sst2", "sst5", "mr", "subj", "agnews", "cb", "imdb", "arc_easy", "piqa"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of `transformers` with random weights and a byte-level tokenizer of its own."""
    import tokenizers
    import transformers

    path = tmp_path_factory.mktemp("gpt2")
    end = "<|endoftext|>"
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([TEXT], vocab_size=400, special_tokens=[end])
    tokenizer.save(str(path / "tokenizer.json"))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(path / "tokenizer.json"), eos_token=end
    )
    fast.save_pretrained(path)

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=400, n_positions=128, n_embd=32, n_layer=2, n_head=4
    )
    model = transformers.GPT2LMHeadModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(path)
    return path


def both(folder: Path) -> tuple[Any, Any]:
    """Return our model class and lm-eval's own, on the same weights."""
    from lm_eval.models.huggingface import HFLM

    from momentum_gpt.evaluation.few_shot.lm_eval_model import NativeLM

    ours = NativeLM(run=str(folder))
    theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4)
    return ours, theirs


def test_log_probabilities_and_choices_are_those_of_lm_evals_own_model(folder: Path) -> None:
    """One-token and longer answers, shared and unshared contexts, one too long, and none at all."""
    from lm_eval.api.instance import Instance

    prefix = " ".join(TEXT.split()[:60])
    asked = []
    for word in ("fox", "dog", "red turtle"):
        for answer in (" the", " a slow", " over"):
            asked.append((f"{prefix} {word} is", answer))
    asked += [("dog", " the"), ("", "the quick"), (TEXT, " brown fox")]

    instances = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(asked)]
    ours, theirs = both(folder)
    our_scores, our_choices = zip(*ours.loglikelihood(instances), strict=True)
    their_scores, their_choices = zip(*theirs.loglikelihood(instances), strict=True)
    np.testing.assert_allclose(our_scores, their_scores, atol=1e-4)
    assert our_choices == their_choices


def test_whole_texts_have_lm_evals_nats(folder: Path) -> None:
    """Shorter than the context of 128 tokens, longer with a last full window, and empty."""
    from lm_eval.api.instance import Instance

    words = TEXT.split()
    texts = [" ".join(words[:n]) for n in (20, 3, 1, 150, 333, 500)] + [""]
    instances = []
    for number, text in enumerate(texts):
        instances.append(Instance("loglikelihood_rolling", {}, (text,), number))

    ours, theirs = both(folder)
    our_nats = ours.loglikelihood_rolling(instances)
    their_nats = theirs.loglikelihood_rolling(instances)
    assert our_nats[-1] == 0
    np.testing.assert_allclose(our_nats[:-1], their_nats[:-1], rtol=1e-6)


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
    """A model with weights that matter, and the `transformers` folder that it was exported to."""
    path = tmp_path_factory.mktemp(request.param)
    attention = {"name": request.param}
    if request.param == "momentum":
        attention["ema_decay"] = 0.7

    model = GPT(ModelConfig(2, 4, 32, 2048, vocab_size=512, init_std=0.2), attention)
    init_weights(model, 0)
    weights = dict(model.named_parameters())
    save_model(path / "model", model, weights, data_folder / "tokenizer.model")
    export(ExportConfig(str(path / "model"), str(path / "exported")))
    return model.eval(), path / "exported"


def harness(
    folder: Path,
    tasks: Path,
    monkeypatch: pytest.MonkeyPatch,
    samples: dict[str, list[int]] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Return what lm-eval's own model of `transformers` gets in the task files, offline."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    arguments = {
        "pretrained": str(folder),
        "trust_remote_code": True,
        "dtype": "float32",
        "device": "cpu",
        # Its sums over long candidates in float32 are 1e-4 nats off.
        "softmax_dtype": "float64",
        **options,
    }
    results = lm_eval.simple_evaluate(
        "hf",
        model_args=arguments,
        tasks=sorted(path.stem for path in tasks.glob("*.yaml")),
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        batch_size=8,
        samples=samples,
        log_samples=True,
    )
    assert results is not None
    return results


CHOICES = {
    "piqa": "{{[' ' ~ sol1, ' ' ~ sol2]}}",
    "arc": "{{[' ' ~ choices.text[0], ' ' ~ choices.text[1], "
    "' ' ~ choices.text[2], ' ' ~ choices.text[3]]}}",
}
"""Candidates of the tasks whose rows have their own, as lm-eval writes them."""


def write_task_file(folder: Path, task: IclTask, rows: Path, shown: list[dict[str, Any]]) -> None:
    """Write the task as lm-eval's file, with these demonstrations for every query."""
    about = {
        "task": task.name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": re.sub(r"{(\w+)}", r"{{\1}}", task.template),
        "doc_to_choice": task.verbalizers or CHOICES[str(task.rows)],
        "doc_to_target": "{{choices.label.index(answerKey)}}" if task.rows == "arc" else "label",
        "target_delimiter": "",  # the space is the candidate's
        "fewshot_delimiter": "\n",
        "num_fewshot": len(shown),
        "fewshot_config": {"sampler": "first_n", "samples": shown},
        "metric_list": [{"metric": "acc"}],
    }
    text = OmegaConf.to_yaml(OmegaConf.create({"x": about})["x"]).replace("${", "{")
    (folder / f"{task.name}.yaml").write_text(text)


def check_task(
    exported: tuple[GPT, Path],
    folder: Path,
    name: str,
    data: str | None,
    rows: Path,
    train: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Compare each candidate's log-probability after the same demonstrations.

    One is of lm-eval on the export, the other of our evaluation.
    """
    model, export_folder = exported
    config = IclConfig(tasks=[name], data=data, k=[4], seeds=1, queries=12)
    prompts = prepare_task(name, load_tokenizer(export_folder), config, 2048)
    (record,) = measure_task(model, prompts, 4096)
    assert record.scores is not None

    # The rows that lm-eval is to show: those of our demonstrations.
    task = load_task(name)
    by_prompt = {}
    for line in train.read_text().splitlines():
        row = json.loads(line)
        by_prompt[task.template.format(**row)] = row
    chosen = draw_demonstrations(load_examples(task, data)[0], record.k, task.name, 0)
    folder.mkdir()
    write_task_file(folder, task, rows, [by_prompt[example.prompt] for example in chosen])

    # Rows that our reader leaves out are not counted in our numbers of queries.
    kept = []
    for number, line in enumerate(rows.read_text().splitlines()):
        if task.rows is None or ROWS[task.rows](json.loads(line), task) is not None:
            kept.append(number)
    asked = [kept[i] for i in record.queries]

    results = harness(export_folder, folder, monkeypatch, {task.name: asked}, add_bos_token=True)
    samples = sorted(results["samples"][task.name], key=lambda sample: sample["doc_id"])
    assert [sample["doc_id"] for sample in samples] == asked

    theirs = []
    for sample in samples:
        theirs.append([float(score) for score, _ in sample["filtered_resps"]])
    assert len({score for scores in theirs for score in scores}) > 12
    np.testing.assert_allclose(record.scores["sum"], theirs, atol=1e-4)
    if len({len(text) for text in task.verbalizers}) == 1:
        their_accuracy = results["results"][task.name]["acc,none"]
        assert their_accuracy == pytest.approx(record.accuracies["sum"])


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.shared_data
def test_task_files_on_exported_models_give_our_scores(
    exported: tuple[GPT, Path], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = SHARED_DATA / "icl"
    rows = data / name / f"{load_task(name).test_split}.jsonl"
    train = data / name / "train.jsonl"
    check_task(exported, tmp_path / "tasks", name, str(data), rows, train, monkeypatch)


def test_a_task_file_of_ones_own_on_exported_models_gives_our_scores(
    exported: tuple[GPT, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels of several tokens, text with several spaces and beyond ASCII."""
    for split, n in (("train", 9), ("test", 20)):
        rows = [{"text": f"{split}  häuser {i} ☃", "label": i % 3} for i in range(n)]
        write_rows(tmp_path / f"{split}.jsonl", rows)
    task = tmp_path / "own.yaml"
    task.write_text(
        f"dataset: {tmp_path}\n"
        "test_split: test\n"
        "template: 'Text: {text} Colour:'\n"
        "verbalizers: [' red and yellow', ' blue', ' grün']\n"
    )
    test = tmp_path / "test.jsonl"
    train = tmp_path / "train.jsonl"
    check_task(exported, tmp_path / "tasks", str(task), None, test, train, monkeypatch)


def test_bits_per_byte_of_exported_models_are_ours(
    exported: tuple[GPT, Path], text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents shorter than the context, longer, and of two windows and more."""
    paths = sorted(text_folder.iterdir())
    rows = []
    for path, length in zip(paths, (9000, 50, 700, 4000), strict=False):
        rows.append({"text": path.read_text()[:length]})
    texts = tmp_path / "texts.jsonl"
    write_rows(texts, rows)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "texts.yaml").write_text(
        "task: texts\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {texts}}}}}\n"
        "output_type: loglikelihood_rolling\n"
        "test_split: test\n"
        "doc_to_text: ''\n"
        "doc_to_target: '{{text}}'\n"
        "metric_list: [{metric: bits_per_byte}, {metric: word_perplexity}]\n"
    )

    model, folder = exported
    documents = read_texts(str(texts), None, "test", "text")
    stream = Texts(documents, load_tokenizer(folder), 10**6, "texts")
    config = EvaluationConfig(
        tokens=10**6, documents="apart", context_lengths=[2048], induction_sequences=1
    )
    metrics = evaluate(model, stream, config, 2048, 4096).metrics
    theirs = harness(folder, tmp_path / "tasks", monkeypatch)["results"]["texts"]
    assert metrics["val/bpb"] == pytest.approx(theirs["bits_per_byte,none"], rel=1e-6)
