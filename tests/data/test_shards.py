"""Token shards: what was written is what is read, and what is not ours is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.sources import split_of
from momentum_gpt.core.batch_plan import BatchPlan
from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import sha256_of_file
from momentum_gpt.data import TokenShards, load_tokenizer, write_shard
from momentum_gpt.data.packing import PackedBatches
from momentum_gpt.data.shards import (
    ShardEntry,
    block_hashes,
    check_shard_file,
    read_manifest,
    token_dtype,
)


@pytest.fixture
def copy(data_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(data_folder, tmp_path / "copy"))


def test_every_document_is_there_once_in_its_split_and_decodes_to_its_text(
    data_folder: Path, text_folder: Path
) -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted(text_folder.glob("*.txt"))]
    found = []
    for split in ("train", "validation"):
        shards = TokenShards(data_folder, split)
        stream = shards.read(0, len(shards))
        ends = np.flatnonzero(stream == shards.tokenizer.eos_id)
        assert len(ends) == shards.documents
        assert ends[-1] == len(stream) - 1
        decoded = [
            shards.tokenizer.decode(piece[piece != shards.tokenizer.eos_id])
            for piece in np.split(stream, ends + 1)[:-1]
        ]
        assert all(split_of(text, 0.25) == split for text in decoded)
        found += decoded
    assert sorted(found) == sorted(texts)


def test_the_folder_has_several_shards_and_reads_cross_them(data_folder: Path) -> None:
    shards = TokenShards(data_folder, "train")
    assert len(shards.entries) > 2
    whole = np.concatenate(
        [np.load(path) for path in sorted(data_folder.glob("train_*.npy"))]
    ).astype(np.int64)
    assert np.array_equal(shards.read(0, len(shards)), whole)
    edge = int(shards.starts[1])
    assert np.array_equal(shards.read(edge - 5, 11), whole[edge - 5 : edge + 6])
    assert shards.read(len(whole), 0).tolist() == []
    assert shards.read(edge, 1).dtype == np.int64
    for start, length, last in ((-1, 3, 1), (len(whole) - 2, 3, len(whole)), (5, -1, 3)):
        message = rf"tokens {start} \.\.\. {last} of a stream of {len(whole)}$"
        with pytest.raises(IndexError, match=message):
            shards.read(start, length)


def test_a_shard_is_opened_when_it_is_read_and_few_stay_open(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are open at once are limited, often to 1,024, and there may be more shards."""
    opened: list[str] = []
    load = np.lib.format.open_memmap

    def noted(path: Path, *more: Any, **options: Any) -> Any:
        opened.append(Path(path).name)
        return load(path, *more, **options)

    monkeypatch.setattr(np.lib.format, "open_memmap", noted)
    monkeypatch.setattr("momentum_gpt.data.shards.OPEN_SHARDS", 2)
    shards = TokenShards(data_folder, "train")
    assert opened == []

    first, second, third = shards.starts[:3]
    for start in (second, second + 5, first, second, third, first):
        shards.read(int(start), 3)
    numbers = [1, 0, 2, 0]  # the one that was read longest ago is closed
    assert opened == [f"train_{number:05d}.npy" for number in numbers]


def test_the_manifest_says_what_lies_there(data_folder: Path) -> None:
    manifest = json.loads((data_folder / "manifest.json").read_text())
    assert manifest["dtype"] == "uint16"
    assert manifest["vocab_size"] == 512
    assert manifest["tokenizer_sha256"] == sha256_of_file(data_folder / "tokenizer.model")
    for entry in manifest["splits"]["train"] + manifest["splits"]["validation"]:
        shard = np.load(data_folder / entry["file"])
        assert (len(shard), sha256_of_file(data_folder / entry["file"])) == (
            entry["tokens"],
            entry["sha256"],
        )
        assert (shard == manifest["eos_id"]).sum() == entry["documents"]


def test_ids_that_do_not_fit_16_bits_take_32() -> None:
    assert token_dtype(2**16) == np.uint16
    assert token_dtype(2**16 + 1) == np.uint32


def test_a_missing_or_foreign_folder_is_refused_with_the_command_that_makes_one(
    tmp_path: Path,
) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError, match="momentum-gpt prepare"):
            TokenShards(folder)
    (tmp_path / "manifest.json").write_text('{"format": "something else", "version": 1}')
    with pytest.raises(UserError, match="not a folder of token shards"):
        TokenShards(tmp_path)


def test_a_tokenizer_that_did_not_make_the_shards_is_refused(copy: Path, tmp_path: Path) -> None:
    from data_prep.train_tokenizer import TokenizerConfig, train

    (copy / "tokenizer.model").write_bytes(
        train(["some other text, " * 50], TokenizerConfig(vocab_size=275))
    )
    assert load_tokenizer(copy).vocab_size == 275
    with pytest.raises(UserError, match="is not the tokenizer that made these shards"):
        TokenShards(copy)


def test_a_short_or_missing_shard_is_refused(copy: Path) -> None:
    shard = copy / "train_00001.npy"
    np.save(shard, np.load(shard)[:-1])
    with pytest.raises(UserError, match="the manifest says"):
        list(TokenShards(copy).whole())
    shard.write_bytes(shard.read_bytes()[:500])
    with pytest.raises(UserError, match="cannot be read"):
        list(TokenShards(copy).whole())
    shard.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        list(TokenShards(copy).whole())


def test_a_short_or_missing_file_is_found_without_opening_it(tmp_path: Path) -> None:
    """Ten tokens of two bytes: twenty bytes can hold them, nineteen cannot."""
    path = tmp_path / "train_00000.npy"
    entry = ShardEntry(path.name, tokens=10, documents=1, sha256="")
    with pytest.raises(UserError, match=r"train_00000\.npy does not exist"):
        check_shard_file(path, entry, "uint16")

    path.write_bytes(bytes(20))
    check_shard_file(path, entry, "uint16")
    path.write_bytes(bytes(19))
    with pytest.raises(UserError, match="too small for the 10 tokens"):
        check_shard_file(path, entry, "uint16")


def test_each_block_of_a_file_has_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "file"
    first, second = b"a" * 1000, b"b" * 5
    path.write_bytes(first + second)
    expected = [hashlib.sha256(block).hexdigest()[:16] for block in (first, second)]
    assert block_hashes(path, 1000) == expected


def test_a_new_manifest_has_the_hash_of_each_4_mib(tmp_path: Path) -> None:
    tokens = np.arange(3 << 20, dtype=np.uint16)  # 6 MiB
    entry = write_shard(tmp_path / "train_00000.npy", tokens.dtype, len(tokens), 1, [tokens])
    content = (tmp_path / "train_00000.npy").read_bytes()
    blocks = (content[: 4 << 20], content[4 << 20 :])
    assert entry.block_bytes == 4 << 20
    assert entry.blocks == [hashlib.sha256(block).hexdigest()[:16] for block in blocks]


def describe(folder: Path, block_bytes: int | None) -> None:
    """Write the hashes of the files as they are into the manifest.

    Args:
        block_bytes: size of the blocks; None for a manifest without hashes of blocks.
    """
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    for entry in content["splits"]["train"] + content["splits"]["validation"]:
        data = (folder / entry["file"]).read_bytes()
        entry["sha256"] = hashlib.sha256(data).hexdigest()
        del entry["blocks"], entry["block_bytes"]
        if block_bytes:
            starts = range(0, len(data), block_bytes)
            parts = [data[start : start + block_bytes] for start in starts]
            entry["blocks"] = [hashlib.sha256(part).hexdigest()[:16] for part in parts]
            entry["block_bytes"] = block_bytes
    path.write_text(json.dumps(content))


def flip_bit(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1]))


HEADER = 128
"""Bytes of a .npy file before its first token."""


def test_a_flipped_bit_is_found_when_its_block_is_first_read(copy: Path, data_folder: Path) -> None:
    describe(copy, block_bytes=4096)
    damaged = copy / "train_00001.npy"
    flip_bit(damaged, 3 * 4096 + 1234)

    good, shards = TokenShards(data_folder), TokenShards(copy)
    begin = int(shards.starts[1])
    # The tokens that the bytes 12,288 to 16,383 of the file hold.
    first, last = ((place - HEADER) // 2 for place in (3 * 4096, 4 * 4096 - 1))
    for start, length in ((0, begin + first), (begin + last + 1, 5000)):
        assert np.array_equal(shards.read(start, length), good.read(start, length))

    for start, length in ((first, 1), (last, 1), (0, last + 100)):
        with pytest.raises(UserError) as caught:
            shards.read(begin + start, length)
        assert str(caught.value) == (
            f"shard {damaged}: bytes 12,288 to 16,383 are not what was written: check the folder "
            f"with `momentum-gpt verify data={copy}`, then restore the file or prepare the data "
            "again"
        )


def test_a_block_is_hashed_once_by_a_process_and_anew_by_the_next(copy: Path) -> None:
    shards = TokenShards(copy)
    shards.read(0, 10)
    flip_bit(copy / "train_00000.npy", 5000)
    shards.read(0, 10)
    with pytest.raises(UserError, match="are not what was written"):
        TokenShards(copy).read(0, 10)


def test_an_id_that_the_tokenizer_does_not_have_is_found(copy: Path) -> None:
    shard = np.load(copy / "train_00000.npy")
    shard[7000] = 511
    np.save(copy / "train_00000.npy", shard)
    describe(copy, block_bytes=4096)
    assert TokenShards(copy).read(7000, 1) == 511

    shard[7000] = 512
    np.save(copy / "train_00000.npy", shard)
    describe(copy, block_bytes=4096)
    shards = TokenShards(copy)
    shards.read(0, 6000)
    said = r"bytes 12,288 to 16,383 hold the token 512, but the tokenizer has 512: prepare"
    with pytest.raises(UserError, match=said):
        shards.read(6900, 200)


def test_without_hashes_of_blocks_the_whole_shard_is_checked(copy: Path) -> None:
    describe(copy, block_bytes=None)
    flip_bit(copy / "train_00001.npy", (copy / "train_00001.npy").stat().st_size - 1)
    shards = TokenShards(copy)
    begin = int(shards.starts[1])
    shards.read(0, begin)
    with pytest.raises(UserError, match=r"train_00001\.npy: bytes 0 to .* are not what was"):
        shards.read(begin, 1)


def test_blocks_without_a_size_are_of_16_mib(copy: Path) -> None:
    describe(copy, block_bytes=1 << 24)
    path = copy / "manifest.json"
    path.write_text(path.read_text().replace(f', "block_bytes": {1 << 24}', ""))
    assert "block_bytes" not in path.read_text()
    shards = TokenShards(copy)
    assert len(shards.read(0, len(shards))) == len(shards)


def test_packing_that_reads_all_documents_checks_them(copy: Path) -> None:
    plan = BatchPlan(2, 2, 1, 1)
    PackedBatches(TokenShards(copy), 64, 0, plan)
    flip_bit(copy / "train_00002.npy", 5000)
    with pytest.raises(UserError, match=r"train_00002\.npy"):
        PackedBatches(TokenShards(copy), 64, 0, plan)


def test_a_shard_with_a_pickle_in_it_is_not_unpickled(copy: Path) -> None:
    np.save(copy / "train_00000.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read"):
        TokenShards(copy).read(0, 1)


def test_the_fingerprint_follows_the_tokens(copy: Path, data_folder: Path) -> None:
    assert TokenShards(copy).fingerprint() == TokenShards(data_folder).fingerprint()
    assert TokenShards(copy, "validation").fingerprint() != TokenShards(copy).fingerprint()


def test_a_manifest_survives_reading_and_writing(data_folder: Path, tmp_path: Path) -> None:
    """Also the entries that only `prepare` writes, and that training does not read."""
    before = json.loads((data_folder / "manifest.json").read_text())
    read_manifest(data_folder).write(tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text()) == before


def test_a_manifest_may_lack_what_training_does_not_read(copy: Path) -> None:
    path = copy / "manifest.json"
    content = json.loads(path.read_text())
    for key in ("mix", "made_with", "contamination", "document_tokens"):
        del content[key]
    path.write_text(json.dumps({**content, "a_later_version": 1}))
    assert read_manifest(copy).tokens("train") == len(TokenShards(copy))

    del content["splits"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="not a folder of token shards"):
        read_manifest(copy)
