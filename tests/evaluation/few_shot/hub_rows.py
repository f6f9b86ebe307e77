"""A handful of made-up rows for each task, in the layout of its data set on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from momentum_gpt.evaluation.few_shot.tasks import load_task
from tests.evaluation.few_shot.cases import write_rows


def hellaswag(label: str, ctx_b: str, **more: Any) -> dict[str, Any]:
    row = {
        "ind": 4,
        "activity_label": "Washing dishes",
        "ctx_a": "A man stands at the sink.",
        "ctx_b": ctx_b,
        "ctx": f"A man stands at the sink. {ctx_b}",
        "endings": ["dries a plate.", "paints it red.", "runs away.", "sings [to] the moon."],
        "source_id": "activitynet~v_1",
        "split": "val",
        "split_type": "indomain",
        "label": label,
    }
    return row | more


def winogrande(sentence: str, answer: str) -> dict[str, Any]:
    return {"sentence": sentence, "option1": "cup", "option2": "shelf", "answer": answer}


def with_choices(question: dict[str, str], texts: list[str], key: str) -> dict[str, Any]:
    choices = {"text": texts, "label": list("ABCDE")[: len(texts)]}
    return {"id": "7-1", **question, "choices": choices, "answerKey": key}


def openbookqa(stem: str, texts: list[str], key: str) -> dict[str, Any]:
    return with_choices({"question_stem": stem}, texts, key)


def copa(premise: str, question: str, label: int) -> dict[str, Any]:
    choices = {"choice1": "The road was wet.", "choice2": "It was a Sunday."}
    return {"premise": premise, **choices, "question": question, "idx": 0, "label": label}


def mmlu(subject: str, question: str, answer: int) -> dict[str, Any]:
    choices = ["one", "two", "the third", "four"]
    return {"question": question, "subject": subject, "choices": choices, "answer": answer}


def squad(question: str, texts: list[str]) -> dict[str, Any]:
    return {
        "id": "56be",
        "title": "Bridges",
        "context": "The old bridge was built in 1890 by Ada Holm, a mason.",
        "question": question,
        "answers": {"text": texts, "answer_start": [0] * len(texts)},
    }


def recall(text: str, value: str) -> dict[str, Any]:
    return {"doc_id": "1", "key": "applicant", "value": value, "text": text}


ROWS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "hellaswag": {
        "train": [
            hellaswag("2", "she", ctx_a="A woman is on a bike."),
            hellaswag("0", "", ctx_a="[header] How to boil [title] Fill a pot. [step] Use water."),
        ],
        "validation": [
            hellaswag("3", "he"),
            hellaswag("1", "the dog"),
            hellaswag("0", "", ctx_a="[header] How to rest [title] Sit down. [step] Sit still."),
        ],
    },
    "winogrande": {
        "train": [
            winogrande("The vase fell off the _ because it was narrow.", "2"),
            winogrande("Tea went into the _ that stood there.", "1"),
        ],
        "validation": [
            winogrande("The book did not fit on the _ , which was small.", "2"),
            winogrande("He drank from the _ at noon.", "1"),
        ],
    },
    "openbookqa": {
        "train": [openbookqa("Frogs start as", ["eggs", "leaves", "sand", "rain"], "A")],
        "test": [
            openbookqa("A magnet pulls", ["wood", "a nail of iron", "glass", "milk"], "B"),
            openbookqa("Ice is", ["water", "a metal", "gas", "fire"], "A"),
        ],
    },
    "boolq": {
        "train": [
            {"question": "is snow cold", "passage": "Snow is ice.", "idx": 0, "label": 1},
            {"question": "is fire wet", "passage": "Fire burns.", "idx": 1, "label": 0},
        ],
        "validation": [
            {"question": "do birds fly", "passage": "Most birds fly.", "idx": 0, "label": 1},
            {"question": "do stones swim", "passage": "Stones sink.", "idx": 1, "label": 0},
        ],
    },
    "rte": {
        "train": [
            {"sentence1": "Ann sold a car.", "sentence2": "Ann had a car.", "label": 0, "idx": 0}
        ],
        "validation": [
            {"sentence1": "It rained.", "sentence2": "It was dry.", "label": 1, "idx": 0},
            {"sentence1": "Bo ran home.", "sentence2": "Bo ran.", "label": 0, "idx": 1},
        ],
    },
    "copa": {
        "train": [copa("The car slid.", "cause", 0)],
        "validation": [
            copa("The shop was closed. ", "cause", 1),
            copa("It rained all night.", "effect", 0),
        ],
    },
    "lambada": {
        "test": [
            {"text": "Ann put the lamp on the table and lit the lamp"},
            {"text": "He called for his dog, but nobody had seen the dog"},
        ],
    },
    "trec": {
        "train": [
            {"text": "Who built it ?", "coarse_label": 3, "fine_label": 28},
            {"text": "How many legs has a crab ?", "coarse_label": 5, "fine_label": 39},
        ],
        "test": [
            {"text": "Where is Oslo ?", "coarse_label": 4, "fine_label": 32},
            {"text": "What does NATO stand for ?", "coarse_label": 0, "fine_label": 1},
        ],
    },
    "mmlu": {
        "dev": [
            mmlu("anatomy", "Which bone is longest? ", 2),
            mmlu("anatomy", "How many lungs are there?", 1),
            mmlu("us_foreign_policy", "Which treaty came first?", 0),
            mmlu("us_foreign_policy", "Who signed it?", 3),
        ],
        "test": [
            mmlu("anatomy", "Which muscle bends the arm?", 3),
            mmlu("us_foreign_policy", "Which pact ended it?", 1),
            mmlu("anatomy", "Where is the heart?", 0),
        ],
    },
    "squad": {
        "train": [squad("When was the bridge built?", ["1890"])],
        "validation": [
            squad("Who built the bridge?", ["Ada Holm", "Ada Holm, a mason", "Ada Holm"]),
            squad("What was Ada Holm?", ["a mason", "mason"]),
        ],
    },
    "fda": {
        "validation": [
            recall("Report 12. Applicant: Nord Lab. Date: May 3.\nApplicant: ", "Nord Lab"),
            recall("Report 13. Applicant: B. Oak. Date: June 1.\nDate:", "June 1"),
        ],
    },
    "swde": {
        "validation": [
            recall("Movie: Rain. Director: I. Berg. Year: 1961.\nDirector:", "I. Berg"),
            recall("Movie: Snow. Director: A. Ek. Year: 1970.\nYear:", "1970"),
        ],
    },
}


def write_hub(folder: Path, name: str) -> None:
    """Write the rows of a task to the folder that `evaluation.icl.data` names."""
    place = folder / (load_task(name).folder or name)
    place.mkdir(parents=True)
    for split, rows in ROWS[name].items():
        write_rows(place / f"{split}.jsonl", rows)
