"""A tokenizer as `transformers` loads it: tokenizer.json and tokenizer_config.json.

A sentencepiece BPE becomes a BPE of `tokenizers` with the same ids: sentencepiece merges the pair whose piece comes first,
so a piece's merges are all pairs of pieces that make it, in the order of the pieces. A unigram model has no such twin:
`tokenizers` splits some texts otherwise (562 of 20,000 fuzzed strings).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import tokenizers
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import decoders, models, normalizers

from momentum_gpt.core.errors import UserError
from momentum_gpt.data.tokenizer import ByteLevelTokenizer, Tokenizer

SPACE = "\u2581"
"""What a space is in sentencepiece's pieces."""


def write_tokenizer(folder: Path, tokenizer: Tokenizer, file: Path, seq_len: int) -> int:
    """Write both files; returns the id of the padding token, which is the document end where there is no other.

    Args:
        file: where the tokenizer was loaded from.
        seq_len: the model's longest context, tokens.

    Raises:
        UserError: the tokenizer does not convert faithfully.
    """
    theirs = (
        without_additions(file)
        if isinstance(tokenizer, ByteLevelTokenizer)
        else bpe_of(tokenizer, file)
    )
    theirs.save(str(folder / "tokenizer.json"))
    special = set(range(tokenizer.vocab_size)) - set(tokenizer.ordinary_ids().tolist())
    pad_id = next((i for i in sorted(special) if tokenizer.pieces[i] == "<pad>"), tokenizer.eos_id)
    eos = tokenizer.pieces[tokenizer.eos_id]
    about = {
        "bos_token": eos,  # a document begins behind the end of another
        "eos_token": eos,
        "pad_token": tokenizer.pieces[pad_id],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "split_special_tokens": True,  # text that looks like a special token is text
        "clean_up_tokenization_spaces": False,
        "model_input_names": [
            "input_ids",
            "attention_mask",
        ],  # GPT-2 would add an embedding for each token_type_id
        "model_max_length": seq_len,
        "padding_side": "left",
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return pad_id


def without_additions(file: Path) -> tokenizers.Tokenizer:
    """The tokenizer.json, but for a post-processor that adds tokens to each text: in training there were none."""
    theirs = tokenizers.Tokenizer.from_file(str(file))
    if theirs.num_special_tokens_to_add(False):
        theirs.post_processor = None
    return theirs


def bpe_of(tokenizer: Tokenizer, file: Path) -> tokenizers.Tokenizer:
    """The BPE of `tokenizers` that a sentencepiece BPE is.

    Raises:
        UserError: it is none, or has pieces of a kind that the other cannot have.
    """
    model = proto.ModelProto.FromString(file.read_bytes())  # type: ignore[attr-defined]
    kind = proto.ModelProto.SentencePiece  # type: ignore[attr-defined]
    if not tokenizer.is_plain_bpe or any(
        piece.type in (kind.USER_DEFINED, kind.UNUSED) for piece in model.pieces
    ):
        raise UserError(
            f"{file} cannot be exported: transformers would split some texts into other tokens, as it does unless the "
            "tokenizer is a BPE that takes text as it is (not unigram, no normalisation, no dummy prefix, no user-defined "
            "or unused pieces); export a copy of the model folder without it"
        )
    ids = {piece: i for i, piece in enumerate(tokenizer.pieces)}
    special = [piece.piece for piece in model.pieces if piece.type in (kind.CONTROL, kind.UNKNOWN)]
    unknown = next(piece.piece for piece in model.pieces if piece.type == kind.UNKNOWN)
    bpe = models.BPE(
        ids,
        merges_of(model, kind.NORMAL),
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=model.trainer_spec.byte_fallback,
    )
    theirs = tokenizers.Tokenizer(bpe)
    theirs.normalizer = normalizers.Replace(" ", SPACE)
    theirs.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    theirs.add_special_tokens(
        [tokenizers.AddedToken(piece, normalized=False, special=True) for piece in special]
    )
    return theirs


def merges_of(model: proto.ModelProto, normal: int) -> list[tuple[str, str]]:  # type: ignore[name-defined]
    """Every pair of pieces that makes a third, the best piece first: sentencepiece merges by the piece's score."""
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == normal}
    merges = []
    for piece in sorted(
        scores, key=lambda piece: -scores[piece]
    ):  # stable: of equal scores, the lower id first
        halves = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        merges += [(left, right) for left, right in halves if left in scores and right in scores]
    return merges


def fuzzed_texts(pieces: Sequence[str], n: int) -> list[str]:
    """Texts to compare tokenizers by, the same each time: pieces in a row, runs of spaces, any characters, control ones."""
    rng = random.Random(0)
    alphabets = [(0x00, 0x7F), (0xA0, 0x2FFF), (0x3000, 0xD7FF), (0x1F300, 0x1FAFF)]
    looks_special = [
        "<s>",
        "</s>",
        "<unk>",
        "<pad>",
        "<0x0A>",
        "<|endoftext|>",
        "\r\n",
        "e\u0301",
        "\ufb01",
        "\ufeff",
    ]
    draws = [
        lambda: rng.choice(pieces).replace(SPACE, " "),
        lambda: " " * rng.randrange(1, 9),
        lambda: chr(rng.randint(*rng.choice(alphabets))),
        lambda: rng.choice(looks_special),
    ]
    weights = (6, 1, 2, 1)
    return [
        "".join(draw() for draw in rng.choices(draws, weights, k=rng.randrange(1, 40)))
        for _ in range(n)
    ]
