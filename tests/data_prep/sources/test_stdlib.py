"""The standard library as a corpus."""

from __future__ import annotations

from tests.data_prep.samples import texts


def test_the_standard_library_is_megabytes_of_source_without_its_tests() -> None:
    found = texts(kind="stdlib")
    assert 8e6 < sum(len(text.encode()) for text in found) < 20e6
    assert any("class OrderedDict(dict):" in text for text in found)
    assert not any("class TestOrderedDict" in text for text in found)
