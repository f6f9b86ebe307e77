"""A tokenizer as `transformers` loads it: tokenizer.json and tokenizer_config.json.

A sentencepiece BPE becomes a BPE of `tokenizers` with the same ids. Sentencepiece merges the pair
whose piece comes first, so the merges are all pairs of pieces that make a third piece, in the order
of the third pieces. A unigram model has no such equivalent: `tokenizers` splits some texts
differently (562 of 20,000 random strings).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import tokenizers
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import decoders, models, normalizers

from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import write_json
from momentum_gpt.data.tokenizer import ByteLevelTokenizer, Tokenizer

SPACE = "\u2581"
"""The character that stands for a space in sentencepiece's pieces."""

ALPHABETS = ((0x00, 0x7F), (0xA0, 0x2FFF), (0x3000, 0xD7FF), (0x1F300, 0x1FAFF))
"""Ranges of characters for random texts; the surrogates are left out."""

LOOKS_SPECIAL = (
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
)
"""Texts that a tokenizer may take for something else, or normalise."""


def write_tokenizer(folder: Path, tokenizer: Tokenizer, file: Path, seq_len: int) -> int:
    """Write both files, and return the id of the padding token.

    Padding is the token <pad> if there is one, else the token that ends a document.

    Args:
        folder: where to write.
        tokenizer: the tokenizer to convert.
        file: the file that it was loaded from.
        seq_len: longest context of the model, tokens.

    Raises:
        UserError: the tokenizer cannot be converted faithfully.
    """
    if isinstance(tokenizer, ByteLevelTokenizer):
        converted = without_additions(file)
    else:
        converted = bpe_of(tokenizer, file)
    converted.save(str(folder / "tokenizer.json"))

    pad_id = padding_id(tokenizer)
    eos = tokenizer.pieces[tokenizer.eos_id]
    config = {
        "bos_token": eos,  # a document begins after the end of another
        "eos_token": eos,
        "pad_token": tokenizer.pieces[pad_id],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "split_special_tokens": True,  # text that looks like a special token is text
        "clean_up_tokenization_spaces": False,
        # Without token_type_ids, for which GPT-2 would add an embedding.
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": seq_len,
        "padding_side": "left",
    }
    write_json(folder / "tokenizer_config.json", config)
    return pad_id


def padding_id(tokenizer: Tokenizer) -> int:
    """Return the id of the special token <pad>, or of the document end if there is none."""
    special = set(range(tokenizer.vocab_size)) - set(tokenizer.ordinary_ids().tolist())
    for token in sorted(special):
        if tokenizer.pieces[token] == "<pad>":
            return token
    return tokenizer.eos_id


def without_additions(file: Path) -> tokenizers.Tokenizer:
    """Return the tokenizer of a tokenizer.json without a post-processor that adds tokens.

    In training no tokens were added to a text.
    """
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    if tokenizer.num_special_tokens_to_add(False):
        tokenizer.post_processor = None
    return tokenizer


def bpe_of(tokenizer: Tokenizer, file: Path) -> tokenizers.Tokenizer:
    """Return the BPE of `tokenizers` that equals a sentencepiece BPE.

    Raises:
        UserError: the tokenizer is no BPE, or has pieces of a kind that the other cannot have.
    """
    model = proto.ModelProto.FromString(file.read_bytes())  # type: ignore[attr-defined]
    kind = proto.ModelProto.SentencePiece  # type: ignore[attr-defined]
    inconvertible = any(piece.type in (kind.USER_DEFINED, kind.UNUSED) for piece in model.pieces)
    if not tokenizer.is_plain_bpe or inconvertible:
        raise UserError(
            f"{file} cannot be exported: transformers would split some texts into other tokens, "
            "unless the tokenizer is a BPE that takes text as it is (not unigram, no "
            "normalisation, no dummy prefix, no user-defined or unused pieces); "
            "export a copy of the model folder without the tokenizer"
        )

    special = [piece.piece for piece in model.pieces if piece.type in (kind.CONTROL, kind.UNKNOWN)]
    unknown = next(piece.piece for piece in model.pieces if piece.type == kind.UNKNOWN)
    bpe = models.BPE(
        {piece: token for token, piece in enumerate(tokenizer.pieces)},
        merges_of(model, kind.NORMAL),
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=model.trainer_spec.byte_fallback,
    )
    converted = tokenizers.Tokenizer(bpe)
    converted.normalizer = normalizers.Replace(" ", SPACE)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    converted.decoder = decoders.Sequence(steps)

    added = []
    for piece in special:
        added.append(tokenizers.AddedToken(piece, normalized=False, special=True))
    converted.add_special_tokens(added)
    return converted


def merges_of(model: proto.ModelProto, normal: int) -> list[tuple[str, str]]:  # type: ignore[name-defined]
    """Return every pair of pieces that makes a third one, best piece first.

    Sentencepiece merges by the score of the piece that results.
    """
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == normal}

    # The sort is stable: of equal scores, the lower id comes first.
    best_first = sorted(scores, key=lambda piece: -scores[piece])
    merges = []
    for piece in best_first:
        for cut in range(1, len(piece)):
            left = piece[:cut]
            right = piece[cut:]
            if left in scores and right in scores:
                merges.append((left, right))
    return merges


def fuzzed_texts(pieces: Sequence[str], n: int) -> list[str]:
    """Return n random texts to compare tokenizers by, the same ones on every call.

    They mix pieces, runs of spaces, characters of many scripts, and texts that look special.
    """
    rng = random.Random(0)
    draws = [
        lambda: rng.choice(pieces).replace(SPACE, " "),
        lambda: " " * rng.randrange(1, 9),
        lambda: chr(rng.randint(*rng.choice(ALPHABETS))),
        lambda: rng.choice(LOOKS_SPECIAL),
    ]
    weights = (6, 1, 2, 1)
    texts = []
    for _ in range(n):
        chosen = rng.choices(draws, weights, k=rng.randrange(1, 40))
        texts.append("".join(draw() for draw in chosen))
    return texts
