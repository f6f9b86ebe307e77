"""datatrove's filters of documents, with counts of what they leave out."""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import prepare
from data_prep.provenance import Provenance, provenance_of
from data_prep.settings import STAGES
from momentum_gpt.data.shards import read_manifest
from tests.conftest import Result
from tests.data_prep.samples import (
    ONE_PROCESS,
    all_documents,
    contents,
    documents,
    write_json_lines,
)

Invoke = Callable[..., Result]

ALL = "[pii,fineweb_quality,c4_quality,gopher_quality,gopher_repetition]"

SYLLABLES = ["ba", "ce", "di", "fo", "gu", "ha", "le", "mi", "no", "pu", "ra", "se", "ti", "vo"]
STOP_WORDS = ["to", "of", "and", "that", "have", "with"]


def prose(number: int) -> str:
    """Return a text that every filter passes: six sentences of drawn words and stop words."""
    drawn = random.Random(number)
    sentences = []
    for _ in range(6):
        words = ["".join(drawn.choices(SYLLABLES, k=drawn.randint(2, 4))) for _ in range(10)]
        words += drawn.choices(STOP_WORDS, k=4)
        drawn.shuffle(words)
        sentences.append(f"The {' '.join(words)}.")
    return " ".join(sentences)


@pytest.fixture(scope="module")
def good() -> list[str]:
    return [prose(number) for number in range(200)]


def write_corpus(folder: Path, texts: list[str]) -> list[str]:
    """Write a corpus; return the arguments of a preparation of it."""
    path = write_json_lines(folder / "texts.jsonl", texts)
    return [
        "corpus=text",
        f"corpus.paths={path}",
        "tokenizer.vocab_size=400",
        "validation_fraction=0.2",
    ]


def made(folder: Path) -> Provenance:
    """Return how token shards were made."""
    return provenance_of(read_manifest(folder))


def counted(folder: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """Return the documents and bytes that each filter left out, by filter and reason."""
    counts = made(folder).curation
    return {(count.filter, count.reason): (count.documents, count.bytes) for count in counts}


def size(*texts: str) -> int:
    """Return the UTF-8 bytes of texts."""
    return sum(len(text.encode()) for text in texts)


def test_addresses_are_replaced_by_the_same_ones_everywhere(
    invoke: Invoke, good: list[str], tmp_path: Path
) -> None:
    """It needs no extra package. Equal documents stay equal, and are found as such."""
    before = [f"{text} Mail to j{number % 7}@mail.org!" for number, text in enumerate(good)]
    before += ["from 8.8.8.8 to 10.0.0.1", "a@b.org and c@d.org", "c@d.org and a@b.org"]
    command = write_corpus(tmp_path, before)
    output = tmp_path / "out"
    done = invoke(prepare.main, *command, ONE_PROCESS, "curate.filters=[pii]", f"output={output}")
    assert done.code == 0, done.err

    expected = [f"{text} Mail to email@example.com!" for text in good]
    # A private address names nobody.
    expected += ["from 22.214.171.124 to 10.0.0.1", "email@example.com and email@example.com"]
    assert sorted(all_documents(output)) == sorted(expected)
    assert made(output).duplicates == 1
    longer = size(*expected, expected[-1]) - size(*before)
    assert counted(output) == {("pii", "text changed"): (len(before), -longer)}
    assert re.search(r"pii +text changed +203 +-", done.out)


def test_every_document_that_is_left_out_is_counted_by_filter_and_reason(
    invoke: Invoke, good: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("spacy", reason="needs the extra `curation`")
    lines = [f"{text}\nShare this page" for text in good[:20]]
    bad = {
        ("gopher_repetition", "dup_line_frac"): ["\n".join([prose(1000)] * 3)],
        ("gopher_quality", "gopher_short_doc"): [" ".join(prose(1001).split()[:40])],
        ("gopher_quality", "gopher_enough_stop_words"): [
            re.sub(r"\b(the|to|of|and|that|have|with)\b", "xyz", prose(1002), flags=re.IGNORECASE)
        ],
        ("c4_quality", "curly_bracket"): [f"{prose(1003)}\nif it is so {{ then it is. }}."],
        ("c4_quality", "too_few_sentences"): [prose(1004).replace(".", " ;").replace("?", ";")],
    }
    texts = lines + good[20:]
    for examples in bad.values():
        texts += examples
    command = [*write_corpus(tmp_path, texts), f"curate.filters={ALL}", ONE_PROCESS]
    output = tmp_path / "out"
    done = invoke(prepare.main, *command, f"output={output}")
    assert done.code == 0, done.err

    assert sorted(all_documents(output)) == sorted(good)
    expected = {reason: (len(each), size(*each)) for reason, each in bad.items()}
    expected["c4_quality", "text changed"] = (20, 20 * len("\nShare this page"))
    assert counted(output) == expected
    assert sum(made(output).bytes.values()) == size(*texts) - sum(n for _, n in expected.values())
    # In the order in which they were applied.
    filters = [count.filter for count in made(output).curation]
    assert filters == sorted(
        filters, key=["gopher_repetition", "gopher_quality", "c4_quality"].index
    )


def test_arguments_are_those_of_datatrove(invoke: Invoke, good: list[str], tmp_path: Path) -> None:
    pytest.importorskip("spacy", reason="needs the extra `curation`")
    short = "That is to be a short text of the right kind."
    command = [*write_corpus(tmp_path, [*good, short]), ONE_PROCESS]
    command += ["curate.filters=[gopher_quality]", f"output={tmp_path / 'out'}"]
    # By default it would be left out for its length, and have enough stop words.
    arguments = {"min_doc_words": 9, "stop_words": ["The"], "min_stop_words": 1}
    given = f"curate.arguments={{gopher_quality: {json.dumps(arguments)}}}"
    done = invoke(prepare.main, *command, given.replace('"', ""))
    assert done.code == 0, done.err
    found = counted(tmp_path / "out")
    assert found == {("gopher_quality", "gopher_enough_stop_words"): (1, size(short))}


def test_a_document_of_which_nothing_is_left_is_left_out(
    invoke: Invoke, good: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("spacy", reason="needs the extra `curation`")
    links = "Share this page\nSign in to read"
    command = [*write_corpus(tmp_path, [*good, links]), ONE_PROCESS]
    command += ["curate.filters=[c4_quality]", f"output={tmp_path / 'out'}"]
    done = invoke(prepare.main, *command, "curate.arguments={c4_quality: {min_num_sentences: -1}}")
    assert done.code == 0, done.err
    assert sorted(all_documents(tmp_path / "out")) == sorted(good)
    assert counted(tmp_path / "out") == {("c4_quality", "no text left"): (1, size(links))}


def test_languages_are_told_by_a_local_model(
    invoke: Invoke, good: list[str], tmp_path: Path
) -> None:
    """A small model is trained here."""
    fasttext = pytest.importorskip("fasttext", reason="needs the extra `curation`")
    german = (
        "Das ist ein Satz, den niemand in der Stadt mit dem Fluss verstehen wird, und noch einer"
    )
    examples = [f"__label__en {prose(number)}" for number in range(1000, 1050)]
    examples += [f"__label__de {german} {number}" for number in range(50)]
    (tmp_path / "examples.txt").write_text("\n".join(examples))
    model = tmp_path / "lid.bin"
    # It initialises its weights in ten threads: with fewer, some are whatever the memory holds.
    trained = fasttext.train_supervised(
        str(tmp_path / "examples.txt"), epoch=50, thread=10, dim=10, verbose=0
    )
    trained.save_model(str(model))

    command = [*write_corpus(tmp_path, [*good, german]), ONE_PROCESS]
    command += ["curate.filters=[language]", f"output={tmp_path / 'out'}"]
    done = invoke(prepare.main, *command, "curate.languages=[en]", f"curate.language_model={model}")
    assert done.code == 0, done.err
    assert sorted(all_documents(tmp_path / "out")) == sorted(good)
    assert counted(tmp_path / "out") == {("language", "left out"): (1, size(german))}
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert made(tmp_path / "out").language_model_sha256 == digest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["curate.filters=[gopher]"], "curate.filters must be one of language, gopher_repetition"),
        (["curate.filters=[language]"], "curate.languages must be a list such as [en], got []"),
        (
            ["curate.filters=[language]", "curate.languages=[en]"],
            "curate.language_model must be the file of a fastText model, got None",
        ),
        (
            ["curate.filters=[pii]", "curate.arguments={pii: {emails: false}}"],
            "curate.arguments.pii has no 'emails': datatrove's PIIFormatter takes email_repl",
        ),
        (
            ["curate.filters=[pii]", "curate.arguments={c4_quality: {}}"],
            "curate.arguments are given for 'c4_quality', which is not among curate.filters",
        ),
        (["curate.arguments={pii: 3}"], "curate.arguments must be a mapping from filters to"),
        # Thai needs a package that is in none of our extras.
        (
            ["curate.filters=[gopher_quality]", "curate.language=tha"],
            "For English: pip install 'momentum-gpt[curation]'",
        ),
        (["near_deduplicate=true", "curate.language=tha"], "pip install 'momentum-gpt[curation]'"),
        (
            ["near_deduplicate=true", "curate.language=xyz"],
            "curate.language='xyz' is not a language",
        ),
    ],
)
def test_mistakes_are_one_line(
    invoke: Invoke, good: list[str], tmp_path: Path, options: list[str], message: str
) -> None:
    command = [*write_corpus(tmp_path, good), ONE_PROCESS, f"output={tmp_path / 'out'}"]
    done = invoke(prepare.main, *command, *options)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert message in done.err


def test_filters_that_leave_nothing_are_an_error(invoke: Invoke, tmp_path: Path) -> None:
    pytest.importorskip("spacy", reason="needs the extra `curation`")
    command = [*write_corpus(tmp_path, ["one", "two"]), ONE_PROCESS]
    command += ["curate.filters=[gopher_quality]", f"output={tmp_path / 'out'}"]
    done = invoke(prepare.main, *command)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert "curate.filters=['gopher_quality'] leave out every document" in done.err


def near(text: str) -> str:
    """Return the text with one more word near its end."""
    *others, last = text.split()
    return " ".join([*others, "another", last])


def test_one_of_several_nearly_equal_documents_stays_and_validation_stays_whole(
    invoke: Invoke, good: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("spacy", reason="needs the extra `curation`")
    validation = [good[0], near(good[0]), *good[1:20]]
    train = [good[20].upper(), *good[20:], near(good[1]), near(good[30])]
    write_json_lines(tmp_path / "validation.jsonl", validation)
    command = [*write_corpus(tmp_path, train), ONE_PROCESS, "near_deduplicate=true"]
    command.append(f"corpus.validation_paths={tmp_path / 'validation.jsonl'}")
    # Several tasks, some of which have documents of one split only.
    output = tmp_path / "out"
    done = invoke(prepare.main, *command, "piece_bytes=9000", f"output={output}")
    assert done.code == 0, done.err

    assert sorted(documents(output, "validation")) == sorted(validation)
    found = documents(output)
    assert len(found) == len(good[20:])
    assert near(good[1]) not in found
    for text in (good[20], good[30]):
        assert (text in found) + (near(text) in found) + (text.upper() in found) == 1
    dropped = made(output).near_duplicates
    assert dropped is not None
    assert (dropped.documents, dropped.bytes) == (3, size(*train) - size(*found))
    assert f"3 documents ({dropped.bytes:,} bytes) left out: nearly equal to another" in done.out


def command_of_everything(folder: Path, good: list[str]) -> list[str]:
    """Return the arguments of a preparation with all filters, in several tasks."""
    texts = good + [near(text) for text in good[:50]]
    texts += [f"{text}\nMail to j{number}@mail.org.\nShare" for number, text in enumerate(good)]
    command = [*write_corpus(folder, texts), "piece_bytes=20000", "shard_tokens=10000"]
    return [*command, f"curate.filters={ALL}", "near_deduplicate=true"]


@pytest.fixture(scope="module")
def everything(good: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The command, and what it makes at once in one process."""
    pytest.importorskip("spacy", reason="needs the extra `curation`")
    folder = tmp_path_factory.mktemp("curated")
    command = command_of_everything(folder, good)
    run = [sys.executable, "-m", "data_prep.prepare", *command, f"output={folder / 'out'}"]
    subprocess.run([*run, ONE_PROCESS], check=True, capture_output=True)
    return command, folder / "out"


@pytest.mark.slow
def test_any_number_of_workers_makes_the_same_bytes_with_all_filters(
    invoke: Invoke, everything: tuple[list[str], Path], tmp_path: Path
) -> None:
    command, straight = everything
    filters = {count.filter for count in made(straight).curation}
    assert {"pii", "c4_quality"} <= filters
    assert made(straight).near_duplicates.documents > 50  # type: ignore[union-attr]
    for workers in (2, 3):
        output = tmp_path / str(workers)
        done = invoke(prepare.main, *command, f"output={output}", f"executor.workers={workers}")
        assert done.code == 0, done.err
        assert contents(output) == contents(straight)


@pytest.mark.slow
def test_stages_one_by_one_make_the_whole_with_all_filters(
    invoke: Invoke, everything: tuple[list[str], Path], tmp_path: Path
) -> None:
    """The tasks that are complete are not done again, and what a stage lacks is made."""
    command, straight = everything
    command = [*command, ONE_PROCESS, f"output={tmp_path / 'out'}"]
    work = tmp_path / ".out.partial"
    for stage in STAGES[: STAGES.index("decontaminate")]:
        assert invoke(prepare.main, *command, f"until={stage}").code == 0

    # As after a kill: one task of each is not complete, and its files are half there.
    marks = [*work.glob("curate/tasks/completions/*"), *work.glob("near_*/*/tasks/completions/*")]
    kept = {}
    for tasks in {mark.parent for mark in marks}:
        first, *others = sorted(tasks.iterdir())
        first.unlink()
        kept |= {mark: mark.stat().st_mtime_ns for mark in others}
    (work / "curate" / "documents" / "00000.jsonl.zst").write_bytes(b"half")
    assert invoke(prepare.main, *command, "until=decontaminate").code == 0
    assert {mark: mark.stat().st_mtime_ns for mark in kept} == kept
    assert invoke(prepare.main, *command).code == 0
    assert contents(tmp_path / "out") == contents(straight)
