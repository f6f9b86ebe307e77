"""What is measured, on text and on a synthetic task; and progress that ends where it said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from momentum_gpt.core.config import EvaluationConfig, IclConfig, ModelConfig, TaskConfig
from momentum_gpt.data import SyntheticTask, Texts, TokenShards
from momentum_gpt.evaluation.suite import evaluate, plan_suite
from momentum_gpt.models import GPT
from momentum_gpt.models.gpt import init_weights


@pytest.fixture(scope="module")
def model() -> GPT:
    shape = ModelConfig(1, 2, 16, 128, vocab_size=512)
    model = GPT(shape, {"name": "momentum", "ema_decay": 0.5})
    init_weights(model, 0)
    return model


@pytest.fixture(scope="module")
def validation(data_folder: Path) -> TokenShards:
    return TokenShards(data_folder, "validation")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("task")
    for split in ("train", "test"):
        rows = [{"text": f"{split} {i}", "label": i % 2} for i in range(9)]
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    (folder / "small.yaml").write_text(
        f"dataset: {folder}\n"
        "test_split: test\n"
        "template: 'x {text}:'\n"
        "verbalizers: [' red', ' deep blue']\n"
    )
    return str(folder / "small.yaml")


def progress_of(model: GPT, data: object, config: EvaluationConfig) -> tuple[float, list[float]]:
    """Return the total that a suite states, and the amounts that it advances by."""
    suite = plan_suite(data, config, 128)
    amounts: list[float] = []
    suite.measure(model, 600, amounts.append)
    return suite.n_tokens, amounts


@pytest.mark.parametrize(
    "options",
    [
        {"tokens": 2000},
        {"tokens": 640, "stride": 48, "context_lengths": [64]},
        {"tokens": 2000, "stride": 48, "documents": "apart"},
    ],
    ids=["stream", "spread", "apart"],
)
def test_progress_through_text_ends_at_the_total_in_small_steps(
    model: GPT, validation: TokenShards, options: dict
) -> None:
    config = EvaluationConfig(induction_sequences=7, **options)
    total, amounts = progress_of(model, validation, config)
    assert sum(amounts) == total
    assert max(amounts) <= 600


def test_progress_goes_through_every_few_shot_task(
    model: GPT, validation: TokenShards, task: str
) -> None:
    """With wrong answers and with queries that are verified, too, and with written answers."""
    without, _ = progress_of(model, validation, EvaluationConfig(tokens=1000))
    written = Path(task).with_name("written.yaml")
    written.write_text(
        f"dataset: {written.parent}\ntest_split: test\ntemplate: 'x {{text}}:'\n"
        "answers: text\nmax_new_tokens: 5\n"
    )
    icl = IclConfig(tasks=[task, str(written)], k=[0, 2], seeds=2, flipped=True, verify=3)
    total, amounts = progress_of(model, validation, EvaluationConfig(tokens=1000, icl=icl))
    assert sum(amounts) == total
    assert total > without + 1000
    assert max(amounts) <= 600


def test_of_a_synthetic_task_only_the_answers_are_measured(model: GPT) -> None:
    data = SyntheticTask(TaskConfig("recall", n_pairs=3, n_keys=8, n_values=8), 128)
    config = EvaluationConfig(tokens=1300)
    measured = evaluate(model, data, config, 128, 600)
    assert set(measured.metrics) == {"val/loss", "val/acc"}
    assert not measured.perplexity
    assert not measured.few_shot

    total, amounts = progress_of(model, data, config)
    assert sum(amounts) == total == 10 * 128


def test_on_text_there_is_a_record_for_each_context_length_and_setting(
    model: GPT, validation: TokenShards, task: str
) -> None:
    icl = IclConfig(tasks=[task], k=[0, 2], seeds=2)
    config = EvaluationConfig(tokens=1000, context_lengths=[64, 128], icl=icl)
    measured = evaluate(model, validation, config, 128, 600)
    assert [record.context_length for record in measured.perplexity] == [64, 128]
    settings = [(record.k, record.seed) for record in measured.few_shot]
    assert settings == [(0, 0), (2, 0), (2, 1)]

    by_seed = [record.acc for record in measured.few_shot if record.k == 2]
    assert measured.metrics["icl/small/acc@2"] == pytest.approx(sum(by_seed) / 2)
    assert measured.metrics["val/ppl@64"] == measured.perplexity[0].ppl


def test_a_context_too_short_for_the_probe_is_measured_without_it(
    model: GPT, validation: TokenShards
) -> None:
    short = evaluate(model, validation, EvaluationConfig(tokens=30), 3, 600)
    assert "val/loss" in short.metrics
    assert "icl/induction/acc" not in short.metrics


def test_batch_size_changes_nothing(model: GPT, validation: TokenShards) -> None:
    config = EvaluationConfig(tokens=500, induction_sequences=5)
    model.train()
    results = []
    for tokens_per_forward in (1, 300, 10_000):
        metrics = evaluate(model, validation, config, 128, tokens_per_forward).metrics
        assert metrics.pop("eval/seconds") > 0
        results.append(metrics)
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-5)
    assert model.training


def test_the_text_alone_decides_a_fingerprint(validation: TokenShards) -> None:
    tokenizer = validation.tokenizer

    def fingerprint(texts: list[str], name: str = "a") -> str:
        return Texts(texts, tokenizer, 10**6, name).fingerprint()

    assert fingerprint(["one", "two"]) == fingerprint(["one", "two"], "b")
    assert fingerprint(["one", "two"]) != fingerprint(["one", "too"])
    assert fingerprint(["one", "two"]) != fingerprint(["onetwo"])
