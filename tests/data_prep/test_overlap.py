"""Which texts of evaluation sets are found in a page."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.overlap import evaluation_items, words_of
from data_prep.settings import DecontaminateConfig
from momentum_gpt.core.errors import UserError
from tests.conftest import SHARED_DATA
from tests.data_prep.recall import (
    CHANGES,
    FIELDS,
    Finder,
    count_words,
    missed,
    pages,
    texts_of,
)
from tests.data_prep.samples import json_lines, write_json_lines
from tests.evaluation.few_shot.cases import write_rows

SAME_WORDS = [
    ("the film 's", "the film's", "the film\u2019s", "THE FILM\u02bcS", "the film&#39;s"),
    ("State #39;s", "State's", "state 's"),
    ("i do n't", "I don't", "I don\u2019t", "i don\u00b4t", "I don`t", "i don\uff07t"),
    ("they didn #39;t", "they didn't", "THEY DIDN #39;T", "they did n't"),
    ("can&#8217 ; t do", "can't do", "ca n't do"),
    ("it can not be", "it cannot be", "It Cannot be"),
    ("the directors ' cut", "the directors' cut", "the directors\u2019 cut"),
    ("rock 'n' roll", "rock'n'roll", "rock \u2019n\u2019 roll"),
    ("action\\/effects -lrb- 2001 -rrb-", "action/effects (2001)"),
    ("`` never again ''", '"never again"', "\u201cNever again\u201d"),
    ("Merck  amp; Co", "Merck & Co", "Merck &amp; Co"),
    ("a fianc&#233 ; has", "a fianc\u00e9 has", "a fiance\u0301 has"),
    ("cr\u00e8me", "cre\u0300me", "CR\u00c8ME", "cr\u00e8\u00adme", "cr\u200b\u00e8me"),
    ("\uff21\uff22\uff23 \uff11", "abc 1"),
    ("\ufb01lm stra\u00dfe", "film STRASSE"),
]
"""Ways to write the same words; the first is often that of a data set."""

SPACELESS = {
    "Chinese": ("人人生而自由在尊严和权利上一律平等他们赋有理性和良心并应以兄弟关系的精神", 2),
    "Japanese": ("すべての人間は生まれながらにして自由でありかつ尊厳と権利とについて平等である", 2),
    "Thai": ("มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิต่างมีเหตุผล", 4),
    "Lao": ("ມະນຸດເກີດມາມີສິດເສລີພາບແລະສະເໝີໜ້າກັນໃນທາງກຽດຕິສັກແລະທາງສິດດ້ວຍມະນຸດມີສະຕິ", 4),
    "Khmer": ("មនុស្សទាំងអស់កើតមកមានសេរីភាពនិងភាពស្មើៗគ្នាក្នុងសេចក្ដីថ្លៃថ្នូរនិងសិទ្ធិ", 4),
    "Burmese": ("လူတိုင်းသည်တူညီလွတ်လပ်သောဂုဏ်သိက္ခာဖြင့်လည်းကောင်းတူညီလွတ်လပ်သောအခွင့်အရေး", 4),
}
"""The beginning of the Universal Declaration of Human Rights; how many characters are a word."""


@pytest.mark.parametrize("ways", SAME_WORDS, ids=lambda ways: ways[0])
def test_ways_to_write_the_same_words(ways: tuple[str, ...]) -> None:
    for way in ways[1:]:
        assert words_of(way) == words_of(ways[0]), way


def test_different_words_differ() -> None:
    assert words_of("the film is") != words_of("the films is")
    assert words_of("naïve") != words_of("naive")
    # A vowel sign is a part of its word.
    assert words_of("मानना") != words_of("मनना")
    assert len(words_of("हिन्दी में")) == 2
    assert words_of("don't") != words_of("donut")


def characters(text: str) -> list[str]:
    """Return the characters, each with the marks that follow it."""
    found: list[str] = []
    for character in text:
        if unicodedata.category(character).startswith("M"):
            found[-1] += character
        else:
            found.append(character)
    return found


@pytest.mark.parametrize("language", SPACELESS)
def test_scripts_without_spaces_are_compared_by_characters(language: str, tmp_path: Path) -> None:
    """Eight words are a whole item; one character fewer is not looked for."""
    text, per_word = SPACELESS[language]
    letters = characters(unicodedata.normalize("NFKC", text))
    least = 8 * per_word
    assert len(letters) > least

    item = write_json_lines(tmp_path / "item.jsonl", ["".join(letters[:least])])
    found = Finder([str(item)])
    assert found.sets_in(text) == {"item"}
    # Wherever it stands, and with a line broken inside it.
    assert found.sets_in(f"は人人{''.join(letters[:9])}\n{''.join(letters[9:])}") == {"item"}
    assert found.sets_in("".join(letters[1:])) == set()

    short = write_json_lines(tmp_path / "short.jsonl", ["".join(letters[: least - 1])])
    assert Finder([str(short)]).sets_in(text) == set()


def test_a_long_item_without_spaces_is_found_by_the_characters_of_thirteen_words(
    tmp_path: Path,
) -> None:
    text, _ = SPACELESS["Chinese"]
    item = write_json_lines(tmp_path / "item.jsonl", [text])
    finder = Finder([str(item)])
    assert finder.sets_in(f"一{text[3:29]}一") == {"item"}
    assert finder.sets_in(f"一{text[3:28]}一") == set()


WORDS = st.lists(st.sampled_from(["film's", "don't", "it", "is", "a", "x1", "naïve"]), min_size=8)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=WORDS)
def test_a_text_of_eight_words_and_more_is_found_in_every_page(
    words: list[str], tmp_path: Path
) -> None:
    text = " ".join(words)
    finder = Finder([str(write_json_lines(tmp_path / "item.jsonl", [text]))])
    for page in pages(text):
        assert finder.sets_in(page) == {"item"}
    # Words in another order, and a part that is too short.
    assert finder.sets_in(" ".join(words[:4])) == set()


SENTENCE = "one two three four five six seven eight"
"""Eight words."""


def write_splits(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows as the test split of a task, with something else to demonstrate."""
    folder.mkdir()
    for split in ("test", "validation"):
        write_rows(folder / f"{split}.jsonl", rows)
    write_rows(folder / "train.jsonl", rows)


def test_the_fields_of_a_task_are_found_without_its_template(tmp_path: Path) -> None:
    rows = [{"sentence": SENTENCE, "label": 0}, {"sentence": "too short", "label": 1}]
    write_splits(tmp_path / "sst2", rows)
    finder = Finder(["sst2"], tmp_path)
    assert finder.sets_in(f"a page: {SENTENCE}. and more") == {"sst2"}
    assert finder.sets_in(f"Sentence: {SENTENCE[4:]} Label: Negative") == set()
    size = finder.sizes["sst2"]
    assert (size.items, size.too_short, size.texts) == (2, 1, 1)


def test_both_fields_of_a_pair_are_found_alone(tmp_path: Path) -> None:
    other = "nine ten eleven twelve thirteen fourteen fifteen sixteen"
    write_splits(tmp_path / "cb", [{"premise": SENTENCE, "hypothesis": other, "label": 0}])
    finder = Finder(["cb"], tmp_path)
    for text in (SENTENCE, other):
        assert finder.sets_in(f"a page: {text}, and more") == {"cb"}
    # The end of one field and the beginning of the next are no text of the item.
    assert finder.sets_in(f"{SENTENCE[4:]} {other[:-8]}") == set()


def question(text: str, answers: list[str]) -> dict[str, Any]:
    """Return a row of ARC whose third answer is the right one."""
    return {
        "id": text,
        "question": text,
        "choices": {"text": answers, "label": ["A", "B", "C", "D"]},
        "answerKey": "C",
    }


def test_answers_of_a_row_are_fields_and_short_ones_are_looked_for_with_the_question(
    tmp_path: Path,
) -> None:
    rows = [
        question("What are the first eight numbers?", ["none", "one", SENTENCE, "two"]),
        question("What do all cats like most?", ["dogs", "rain", "fresh milk", "cold water"]),
    ]
    write_splits(tmp_path / "arc_easy", rows)
    finder = Finder(["arc_easy"], tmp_path)
    assert finder.sets_in(f"They are {SENTENCE}.") == {"arc_easy"}
    assert finder.sets_in("Q: What do all cats like most? Fresh milk!") == {"arc_easy"}
    assert finder.sets_in("Q: What do all cats like most? Cold water!") == set()
    assert finder.sets_in("Q: What are the first eight numbers? None.") == set()


def test_the_length_of_a_text_is_that_of_the_text_as_it_stands(tmp_path: Path) -> None:
    """A sentence of SST-5: eight runs of letters, two of which are names of brackets."""
    text = "-lrb- a -rrb- shapeless blob of desperate entertainment ."
    write_splits(tmp_path / "sst5", [{"text": text, "label": 0}])
    finder = Finder(["sst5"], tmp_path)
    assert finder.sets_in(f"He says: {text}") == {"sst5"}
    assert finder.sets_in("(A) shapeless blob of desperate entertainment!") == {"sst5"}


def test_a_text_of_two_sets_counts_for_both(tmp_path: Path) -> None:
    write_splits(tmp_path / "sst2", [{"sentence": SENTENCE, "label": 0}])
    write_splits(tmp_path / "mr", [{"text": SENTENCE, "label": 0}])
    assert Finder(["sst2", "mr"], tmp_path).sets_in(SENTENCE) == {"sst2", "mr"}


def test_the_known_tasks_are_those_in_the_folder(tmp_path: Path) -> None:
    write_splits(tmp_path / "cb", [{"premise": SENTENCE, "hypothesis": "x", "label": 0}])
    # Two templates of one data set.
    assert Finder(["known"], tmp_path).sets_in(SENTENCE) == {"cb", "cb_paper"}
    with pytest.raises(UserError, match="holds none of the tasks agnews, "):
        Finder(["known"], tmp_path / "cb")


@pytest.fixture(scope="session")
def finder() -> Finder:
    """All shipped tasks, on the real data sets."""
    return Finder(list(FIELDS), SHARED_DATA / "icl")


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("task", FIELDS)
def test_every_real_text_of_eight_words_and_more_is_found(
    finder: Finder, task: str, change: str
) -> None:
    texts = [text for text in texts_of(task, every=23) if count_words(text) >= 8]
    assert len(texts) >= 2
    assert missed(finder, task, texts, change) == []


@pytest.mark.slow
@pytest.mark.shared_data
def test_unrelated_text_holds_none(finder: Finder) -> None:
    path = SHARED_DATA / "text" / "openwebtext_1k" / "valid.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines():
        assert finder.sets_in(json.loads(line)["text"]) == set()


def test_the_files_of_a_set_are_read_to_their_end_plain_or_packed(tmp_path: Path) -> None:
    """Lines end at newlines alone, and a mark at the beginning is no part of the text."""
    rows = json_lines("one\u2028two", "three").decode("unicode_escape").encode()
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + rows.replace(b"\n", b"\r\n"))
    (tmp_path / "in").mkdir()
    packed = zstandard.compress(rows)
    (tmp_path / "in" / "b.jsonl.zst").write_bytes(packed)
    config = DecontaminateConfig([str(tmp_path)])
    found = [(name, *item.texts) for name, item in evaluation_items(config)]
    texts = ["one\u2028two", "three"]
    assert found == [("a", text) for text in texts] + [("in/b", text) for text in texts]

    (tmp_path / "in" / "b.jsonl.zst").write_bytes(packed[:-1])
    with pytest.raises(UserError, match=r"b\.jsonl\.zst cannot be read .*cut short"):
        list(evaluation_items(config))
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "\xe9"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl is not UTF-8: byte 0xe9 at offset 10"):
        list(evaluation_items(config))
