"""lm-eval and we agree.

Our model class is compared with lm-eval's own on the same weights, and task files on exported
models with our few-shot scores and bits per byte. Skipped where lm-eval is not installed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from momentum_gpt.core.config import EvaluationConfig, IclConfig, ModelConfig
from momentum_gpt.data import Texts, load_tokenizer, read_texts
from momentum_gpt.evaluation.few_shot.correctness import contains
from momentum_gpt.evaluation.few_shot.measure import measure_task
from momentum_gpt.evaluation.few_shot.prompts import prepare_task
from momentum_gpt.evaluation.few_shot.rows import IclTask
from momentum_gpt.evaluation.few_shot.tasks import load_examples, load_task
from momentum_gpt.evaluation.records import FewShotRecord
from momentum_gpt.evaluation.suite import evaluate
from momentum_gpt.export import ExportConfig, export
from momentum_gpt.models import GPT, save_model
from momentum_gpt.models.gpt import init_weights
from tests.conftest import SHARED_DATA
from tests.evaluation.few_shot.cases import write_rows
from tests.evaluation.few_shot.hub_rows import ROWS, write_hub

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
    """Short and long contexts, one that leaves no room, and two ways to stop."""
    from lm_eval.api.instance import Instance

    ours, theirs = both(folder)
    theirs.batch_size_per_gpu = 1  # its padding on the left is not what is compared
    contexts = ["the quick brown", "dog", " ".join(TEXT.split()[:60]), TEXT, "over the lazy"]
    instances = []
    for until, room in ((["\n"], 12), (["th", "x"], 20)):
        options = {"until": until, "max_gen_toks": room, "do_sample": False}
        for context in contexts:
            number = len(instances)
            instances.append(Instance("generate_until", {}, (context, options), number))

    texts = ours.generate_until(instances)
    assert texts == theirs.generate_until(instances)
    assert len(set(texts)) > 5


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
    # Single bytes and control tokens are never the likeliest: where they are no text,
    # `transformers` decodes them differently.
    ordinary = load_tokenizer(data_folder).ordinary_ids()
    is_ordinary = torch.zeros(512, 1)
    is_ordinary[torch.from_numpy(ordinary)] = 1
    model.token_embedding.weight.data *= is_ordinary
    weights = dict(model.named_parameters())
    save_model(path / "model", model, weights, data_folder / "tokenizer.model")
    export(ExportConfig(str(path / "model"), str(path / "exported")))
    return model.eval(), path / "exported"


def harness(
    folder: Path,
    tasks: Path,
    monkeypatch: pytest.MonkeyPatch,
    samples: dict[str, list[int]] | None = None,
    batch_size: int = 8,
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
        batch_size=batch_size,
        samples=samples,
        log_samples=True,
    )
    assert results is not None
    return results


THEIRS = {
    "arc_easy": {
        "doc_to_choice": "{{choices.text}}",
        "doc_to_target": "{{choices.label.index(answerKey)}}",
    },
    "piqa": {"doc_to_choice": "{{[sol1, sol2]}}"},
}
"""How lm-eval reads tasks whose rows have candidates of their own."""


def write_task_file(
    folder: Path, task: IclTask, test: Path, shown: list[dict[str, Any]], **options: Any
) -> None:
    """Write the task as lm-eval's file, with these demonstrations for every query."""
    folder.mkdir(exist_ok=True)
    files = {"test": str(test)}
    if shown:
        files["shown"] = str(folder / "shown.jsonl")
        write_rows(folder / "shown.jsonl", shown)
    about = {
        "task": task.name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "output_type": "multiple_choice",
        "test_split": "test",
        "fewshot_split": "shown" if shown else None,
        "doc_to_text": re.sub(r"{(\w+)}", r"{{\1}}", task.template),
        "doc_to_choice": [text.removeprefix(" ") for text in task.verbalizers],
        "doc_to_target": "label",
        "fewshot_delimiter": "\n",
        "num_fewshot": len(shown),
        "fewshot_config": {"sampler": "first_n"},
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    content = json.dumps(about | THEIRS.get(task.name, {}) | options)  # JSON is YAML, too
    (folder / f"{task.name}.yaml").write_text(content)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def our_record(exported: tuple[GPT, Path], config: IclConfig) -> FewShotRecord:
    model, export_folder = exported
    prompts = prepare_task(config.tasks[0], load_tokenizer(export_folder), config, 2048)
    (record,) = measure_task(model, prompts, 4096)
    return record


def samples_of(results: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return sorted(results["samples"][name], key=lambda sample: sample["doc_id"])


def check_scores(record: FewShotRecord, results: dict[str, Any], name: str) -> None:
    """Compare each candidate's log-probability, and the accuracies by sum and by character."""
    samples = samples_of(results, name)
    assert [sample["doc_id"] for sample in samples] == record.queries
    theirs = []
    for sample in samples:
        theirs.append([float(score) for score, _ in sample["filtered_resps"]])
    assert record.scores is not None
    ours = record.scores["sum"]
    assert len({score for scores in theirs for score in scores}) >= len(theirs)
    np.testing.assert_allclose(np.concatenate(ours), np.concatenate(theirs), atol=1e-4)

    found = results["results"][name]
    if "acc_norm,none" in found and "per_char" in record.accuracies:
        assert found["acc_norm,none"] == pytest.approx(record.accuracies["per_char"])
    assert found["acc,none"] == pytest.approx(record.accuracies.get("sum", record.acc))


def check_task(
    exported: tuple[GPT, Path],
    folder: Path,
    name: str,
    data: str | None,
    test: Path,
    train: Path,
    monkeypatch: pytest.MonkeyPatch,
    **options: Any,
) -> None:
    """Compare lm-eval on the export with our evaluation, after the same demonstrations."""
    config = IclConfig(tasks=[name], data=data, k=[4], seeds=1, queries=12)
    record = our_record(exported, config)
    rows = lines_of(train)
    task = load_task(name)
    shown = [rows[number] for number in record.demonstrations]
    write_task_file(folder, task, test, shown, **options)
    asked = {task.name: record.queries}
    results = harness(exported[1], folder, monkeypatch, asked, add_bos_token=True)
    check_scores(record, results, task.name)


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


SUITES = {
    "hellaswag": "hellaswag/hellaswag.yaml",
    "winogrande": "winogrande/default.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "rte": "glue/rte/default.yaml",
    "copa": "super_glue/copa/default.yaml",
    "lambada": "lambada/lambada_openai.yaml",
}
"""Where lm-eval has its own files of these tasks."""


def include(theirs: str, folder: Path, name: str, splits: dict[str, Path], **options: Any) -> None:
    """Write a task that is lm-eval's own, but for its data."""
    import lm_eval

    path = Path(lm_eval.__file__).parent / "tasks" / theirs
    about = {
        "include": str(path),
        "task": name,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(path) for split, path in splits.items()}},
    }
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(json.dumps(about | options))


def suite_splits(
    folder: Path, name: str, record: FewShotRecord
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Return the files of a suite's splits, and options that show our demonstrations first."""
    task = load_task(name)
    splits = {task.test_split: folder / name / f"{task.test_split}.jsonl"}
    n = len(record.demonstrations)
    if task.train_split:
        rows = lines_of(folder / name / f"{task.train_split}.jsonl")
        splits["shown"] = folder / "shown.jsonl"
        write_rows(splits["shown"], [rows[number] for number in record.demonstrations])
    shown = {
        "training_split": "shown" if task.train_split else None,
        "validation_split": None,
        "test_split": task.test_split,
        "fewshot_split": "shown" if task.train_split else None,
        "fewshot_config": {"sampler": "first_n"} if n else None,
        "num_fewshot": n,
    }
    return splits, shown


@pytest.mark.parametrize("name", SUITES)
def test_suites_are_asked_and_scored_as_by_lm_evals_own_files(
    exported: tuple[GPT, Path], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On rows in the hub's layout, after a demonstration where there is something to show."""
    write_hub(tmp_path, name)
    config = IclConfig(tasks=[name], data=str(tmp_path), k=[1], seeds=1, separator="\n\n")
    record = our_record(exported, config)
    splits, shown = suite_splits(tmp_path, name, record)
    if name == "copa":  # its candidates begin with a space, and lm-eval adds another
        shown["target_delimiter"] = ""
    include(SUITES[name], tmp_path / "tasks", name, splits, **shown)
    results = harness(exported[1], tmp_path / "tasks", monkeypatch, add_bos_token=True)
    check_scores(record, results, name)
    if record.ppl is not None:
        assert record.ppl == pytest.approx(results["results"][name]["perplexity,none"], rel=1e-4)


@pytest.mark.shared_data
def test_lambada_itself_has_lm_evals_scores(
    exported: tuple[GPT, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = SHARED_DATA / "text"
    config = IclConfig(tasks=["lambada"], data=str(data), k=[0], queries=12)
    record = our_record(exported, config)
    splits = {"test": data / "lambada" / "test.jsonl"}
    include(SUITES["lambada"], tmp_path / "tasks", "lambada", splits)
    asked = {"lambada": record.queries}
    results = harness(exported[1], tmp_path / "tasks", monkeypatch, asked, add_bos_token=True)
    check_scores(record, results, "lambada")


def test_subjects_of_mmlu_are_asked_and_scored_as_by_lm_evals_own_file(
    exported: tuple[GPT, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval's task is a single subject, and shows the rows of its demonstrations in order."""
    write_hub(tmp_path, "mmlu")
    config = IclConfig(tasks=["mmlu"], data=str(tmp_path), k=[2], seeds=1, separator="\n\n")
    record = our_record(exported, config)
    shown = lines_of(tmp_path / "mmlu" / "dev.jsonl")
    asked = lines_of(tmp_path / "mmlu" / "test.jsonl")
    assert record.scores is not None
    for subject in ("anatomy", "us_foreign_policy"):
        splits = {"dev": tmp_path / f"{subject}_dev.jsonl", "test": tmp_path / f"{subject}.jsonl"}
        drawn = [shown[number] for number in record.demonstrations]
        write_rows(splits["dev"], [row for row in drawn if row["subject"] == subject])
        write_rows(splits["test"], [row for row in asked if row["subject"] == subject])
        folder = tmp_path / f"{subject}_tasks"
        include(f"mmlu/default/mmlu_{subject}.yaml", folder, subject, splits, num_fewshot=2)
        results = harness(exported[1], folder, monkeypatch, add_bos_token=True)

        theirs = []
        for sample in samples_of(results, subject):
            theirs.append([float(score) for score, _ in sample["filtered_resps"]])
        places = [
            i for i, number in enumerate(record.queries) if asked[number]["subject"] == subject
        ]
        ours = [record.scores["sum"][place] for place in places]
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
        assert record.by_group is not None
        their_accuracy = results["results"][subject]["acc,none"]
        assert record.by_group[subject] == pytest.approx(their_accuracy)


def test_candidates_of_a_list_of_any_length_have_lm_evals_scores(
    exported: tuple[GPT, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, n in (("train", 9), ("test", 20)):
        rows = []
        for i in range(n):
            texts = [f"{word} {i}" for word in ("red and yellow", "blue", "grün", "a")[: 2 + i % 3]]
            keys = list("ABCD")[: len(texts)]
            choices = {"text": texts, "label": keys}
            rows.append({"text": f"{split} {i}", "choices": choices, "key": keys[i % len(keys)]})
        write_rows(tmp_path / f"{split}.jsonl", rows)
    task = tmp_path / "lists.yaml"
    task.write_text(
        f"dataset: {tmp_path}\n"
        "test_split: test\n"
        "template: 'Text: {text} Colour:'\n"
        "candidates: choices.text\n"
        "label: key\n"
        "labels: choices.label\n"
    )
    check_task(
        exported,
        tmp_path / "tasks",
        str(task),
        None,
        tmp_path / "test.jsonl",
        tmp_path / "train.jsonl",
        monkeypatch,
        doc_to_choice="{{choices.text}}",
        doc_to_target="{{choices.label.index(key)}}",
    )


def test_written_answers_are_those_of_lm_eval_and_as_right(
    exported: tuple[GPT, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its counts of exact matches and its F1 are those of the rules for MLQA, in English."""
    from lm_eval.tasks.mlqa.utils import process_results_en

    words = ("red", "blue", "a fox", "the dog")
    rows = []
    for i in range(13):
        text = " ".join(words[(i + j) % 4] for j in range(i + 1))
        rows.append({"text": text, "answers": {"text": [words[i % 4], f"{words[i % 3]} {i}"]}})
    write_rows(tmp_path / "train.jsonl", rows[:4])
    write_rows(tmp_path / "test.jsonl", rows[4:])
    task = tmp_path / "written.yaml"
    task.write_text(
        f"dataset: {tmp_path}\n"
        "test_split: test\n"
        "template: 'Text: {text} Answer:'\n"
        "answers: answers.text\n"
        "max_new_tokens: 16\n"
        "stop: [e, '.']\n"
    )
    options = {
        "output_type": "generate_until",
        "doc_to_target": "{{answers.text[0]}}",
        "doc_to_choice": None,
        "generation_kwargs": {"until": ["e", "."], "max_gen_toks": 16, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }
    record = our_record(exported, IclConfig(tasks=[str(task)], k=[2], seeds=1))
    shown = [rows[number] for number in record.demonstrations]
    folder = tmp_path / "tasks"
    write_task_file(folder, load_task(str(task)), tmp_path / "test.jsonl", shown, **options)
    results = harness(exported[1], folder, monkeypatch, batch_size=1, add_bos_token=True)

    theirs = []
    for sample, row in zip(samples_of(results, "written"), rows[4:], strict=True):
        (text,) = sample["filtered_resps"]
        found = process_results_en({"answers": row["answers"]["text"]}, [text])
        theirs.append((text, int(found["exact_match"]), found["f1"]))
    assert record.written == [text for text, _, _ in theirs]
    assert len(set(record.written)) > 3
    assert record.right == [exact for _, exact, _ in theirs]
    assert record.f1 == pytest.approx([overlap for _, _, overlap in theirs], abs=1e-5)


def test_recall_and_squad_have_lm_evals_prompts_and_its_count(tmp_path: Path) -> None:
    from lm_eval.tasks.fda.task import FDA, contains_score
    from lm_eval.tasks.squadv2.task import SQuAD2
    from lm_eval.tasks.swde.task import SWDE

    for name, theirs in (("fda", FDA), ("swde", SWDE), ("squad", SQuAD2)):
        write_hub(tmp_path, name)
        _, examples = load_examples(load_task(name), str(tmp_path))
        for example, row in zip(examples, ROWS[name]["validation"], strict=True):
            assert example.prompt == theirs.doc_to_text(None, row)  # type: ignore[arg-type]
            if name != "squad":
                for written in (f" it is {row['value'].upper()}.", " I. Be", ""):
                    ours = contains(written, example.candidates)
                    assert ours == contains_score(written, [row["value"]])


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
    documents = read_texts(str(texts), None, "test", "text", Counter())
    stream = Texts(documents, load_tokenizer(folder), 10**6, "texts")
    config = EvaluationConfig(
        tokens=10**6, documents="apart", context_lengths=[2048], induction_sequences=1
    )
    metrics = evaluate(model, stream, config, 2048, 4096).metrics
    theirs = harness(folder, tmp_path / "tasks", monkeypatch)["results"]["texts"]
    assert metrics["val/bpb"] == pytest.approx(theirs["bits_per_byte,none"], rel=1e-6)
