"""Answers are compared by SQuAD's rules, with numbers worked out by hand."""

from __future__ import annotations

import pytest

from momentum_gpt.evaluation.few_shot.answers import contains, exact, f1


@pytest.mark.parametrize(
    ("written", "right", "is_exact", "overlap"),
    [
        (" The Eiffel Tower.", "eiffel tower", True, 1),
        (" eiffel", "the Eiffel Tower", False, 2 / 3),  # precision 1, recall 1/2
        (" 1890, in May", "May 1890", False, 4 / 5),  # 2/3 and 1; their order does not count
        (" an apple and an apple", "apple apple pie", False, 4 / 6),  # apple counts twice
        (" theatre", "the atre", False, 0),  # an article is a word of its own
        (" Äpfel", "äpfel", True, 1),
        (" well-known", "wellknown", True, 1),
        ("", "a", True, 1),  # nothing is left of either
        ("", "something", False, 0),
        (" no", "yes", False, 0),
    ],
)
def test_case_punctuation_and_articles_do_not_count(
    written: str, right: str, is_exact: bool, overlap: float
) -> None:
    assert exact(written, [right]) == is_exact
    assert f1(written, [right]) == pytest.approx(overlap)


def test_of_several_right_answers_the_nearest_counts() -> None:
    right = ["Ada Holm, a mason", "Ada Holm"]
    assert exact(" Ada Holm", right)
    assert not exact(" Ada", right)
    # One of the two words that count in the shorter: precision 1, recall 1/2.
    assert f1(" Ada", right) == pytest.approx(2 / 3)


def test_recall_needs_the_answer_somewhere_whatever_its_case() -> None:
    assert contains(" it is NORD lab, of course", ["Nord Lab"])
    assert contains(" A. Ek", [" a. ek"])
    assert not contains(" Nord", ["Nord Lab"])
