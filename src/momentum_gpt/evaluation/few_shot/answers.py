"""How right an answer is that a model wrote.

The rules are those of SQuAD's script (Rajpurkar et al., arXiv 1606.05250 and 1806.03822): case,
punctuation, articles and spaces do not count, and of several right answers the nearest counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def words_of(answer: str) -> list[str]:
    """Return the words that count."""
    without_punctuation = answer.lower().translate(PUNCTUATION)
    return ARTICLES.sub(" ", without_punctuation).split()


def exact(written: str, right: Sequence[str]) -> bool:
    """Return whether the answer has the words of a right one."""
    return any(words_of(written) == words_of(answer) for answer in right)


def contains(written: str, right: Sequence[str]) -> bool:
    """Return whether a right answer stands somewhere in the text, whatever its case.

    This is how lm-eval counts in-context recall (SWDE, FDA).
    """
    return any(answer.strip().lower() in written.lower() for answer in right)


def f1(written: str, right: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall of the words, for the nearest answer."""
    return max(_f1(words_of(written), words_of(answer)) for answer in right)


def _f1(written: list[str], right: list[str]) -> float:
    if not written or not right:
        return float(written == right)
    shared = (Counter(written) & Counter(right)).total()
    return 2 * shared / (len(written) + len(right))
