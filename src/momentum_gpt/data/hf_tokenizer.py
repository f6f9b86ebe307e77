"""A tokenizer as `transformers` loads it: tokenizer.json and tokenizer_config.json.

A sentencepiece model becomes a model of `tokenizers` with the same ids.

In a BPE, sentencepiece merges the pair whose piece comes first, so the merges are all pairs of
pieces that make a third piece, in the order of the third pieces.

A unigram model is the same search for the best pieces, but for two things. `tokenizers` adds scores
in fp64, sentencepiece in fp32: where two ways to split a text are equally good, rounding chooses,
unless all sums are exact (`SCORE_STEP`). And `tokenizers` also finds control pieces and bytes in
text that looks like them: such text is cut first, at a place that no ordinary piece crosses.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import decoders, models, normalizers, pre_tokenizers

from momentum_gpt.core.errors import UserError
from momentum_gpt.core.files import write_json
from momentum_gpt.data.tokenizer import (
    CONTROL_PIECES,
    SCORE_STEP,
    SPACE,
    ByteLevelTokenizer,
    Tokenizer,
)

KIND: Any = proto.ModelProto.SentencePiece  # type: ignore[attr-defined]
"""The kinds of pieces."""

ALPHABETS = ((0x00, 0x7F), (0xA0, 0x2FFF), (0x3000, 0xD7FF), (0x1F300, 0x1FAFF))
"""Ranges of characters for random texts; the surrogates are left out."""

LOOKS_SPECIAL = (
    "<s>",
    "</s>",
    "<unk>",
    "<pad>",
    "<0x0A>",
    "<|endoftext|>",
    *CONTROL_PIECES.values(),
    "\r\n",
    "e\u0301",
    "\ufb01",
    "\ufeff",
)
"""Texts that a tokenizer may take for something else, or normalise."""


def write_tokenizer(folder: Path, tokenizer: Tokenizer, file: Path, seq_len: int) -> None:
    """Write both files.

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
        converted = converted_from(tokenizer, file)
    converted.save(str(folder / "tokenizer.json"))

    eos = tokenizer.pieces[tokenizer.eos_id]
    config = {
        "bos_token": eos,  # a document begins after the end of another
        "eos_token": eos,
        "pad_token": tokenizer.pieces[tokenizer.pad_id],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "split_special_tokens": True,  # text that looks like a special token is text
        "clean_up_tokenization_spaces": False,
        # Without token_type_ids, for which GPT-2 would add an embedding.
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": seq_len,
        "padding_side": "left",
    }
    write_json(folder / "tokenizer_config.json", config)


def without_additions(file: Path) -> tokenizers.Tokenizer:
    """Return the tokenizer of a tokenizer.json without a post-processor that adds tokens.

    In training no tokens were added to a text.
    """
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    if tokenizer.num_special_tokens_to_add(False):
        tokenizer.post_processor = None
    return tokenizer


def converted_from(tokenizer: Tokenizer, file: Path) -> tokenizers.Tokenizer:
    """Return the tokenizer of `tokenizers` that equals a sentencepiece model.

    Args:
        tokenizer: the model.
        file: the file that it was loaded from, for the message.

    Raises:
        UserError: there is none.
    """
    reason = why_not_convertible(tokenizer)
    if reason is not None:
        raise UserError(
            f"{file} cannot be exported: transformers would split some texts into other tokens, "
            f"because {reason}; export a copy of the model folder without the tokenizer"
        )

    if tokenizer.kind == "bpe":
        converted = tokenizers.Tokenizer(bpe_of(tokenizer))
    else:
        converted = tokenizers.Tokenizer(unigram_of(tokenizer))
        split = pre_tokenizers.Split(before_cuts(tokenizer), "merged_with_previous")
        converted.pre_tokenizer = split
    converted.normalizer = normalizers.Replace(" ", SPACE)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    converted.decoder = decoders.Sequence(steps)

    added = []
    for piece in tokenizer.model.pieces:
        if piece.type in (KIND.CONTROL, KIND.UNKNOWN):
            added.append(tokenizers.AddedToken(piece.piece, normalized=False, special=True))
    converted.add_special_tokens(added)
    return converted


def why_not_convertible(tokenizer: Tokenizer) -> str | None:
    """Return why a tokenizer has no equal in `tokenizers`; None if it has one."""
    if isinstance(tokenizer, ByteLevelTokenizer):
        return None  # it is one

    pieces = tokenizer.model.pieces
    if tokenizer.kind not in ("bpe", "unigram"):
        return "it is neither BPE nor unigram"
    if not tokenizer.is_plain:
        return "it normalises text or adds spaces to it"
    if any(piece.type in (KIND.USER_DEFINED, KIND.UNUSED) for piece in pieces):
        return "it has user-defined or unused pieces"

    if tokenizer.kind == "unigram":
        scores = [piece.score for piece in pieces if piece.type == KIND.NORMAL]
        if any(score % SCORE_STEP for score in scores):
            return f"its scores are no multiples of 1/{1 / SCORE_STEP:.0f} and so add up inexactly"
        if 0 in places_to_cut(tokenizer).values():
            return "text that looks like a control piece cannot be kept apart from it"
    return None


def bpe_of(tokenizer: Tokenizer) -> models.BPE:
    """Return the BPE that equals a sentencepiece BPE."""
    return models.BPE(
        {piece: token for token, piece in enumerate(tokenizer.pieces)},
        merges_of(tokenizer.model),
        unk_token=tokenizer.pieces[tokenizer.unk_id],
        fuse_unk=True,
        byte_fallback=tokenizer.model.trainer_spec.byte_fallback,
    )


def merges_of(model: Any) -> list[tuple[str, str]]:
    """Return every pair of pieces that makes a third one, best piece first.

    Sentencepiece merges by the score of the piece that results.
    """
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == KIND.NORMAL}

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


def unigram_of(tokenizer: Tokenizer) -> models.Unigram:
    """Return the unigram model that equals a sentencepiece one."""
    return models.Unigram(
        [(piece.piece, piece.score) for piece in tokenizer.model.pieces],
        unk_id=tokenizer.unk_id,
        byte_fallback=tokenizer.model.trainer_spec.byte_fallback,
    )


def places_to_cut(tokenizer: Tokenizer) -> dict[str, int]:
    """Return where text that looks like a control piece or a byte has to be cut.

    There it is cut between two characters that stand together in no ordinary piece: then it is not
    found as a whole, and no other piece is lost.

    Returns:
        Special piece -> characters before the cut; 0 if there is no such place.
    """
    together: set[str] = set()
    for piece in tokenizer.model.pieces:
        if piece.type == KIND.NORMAL:
            text = piece.piece
            together.update(text[place : place + 2] for place in range(len(text) - 1))

    cuts = {}
    for piece in tokenizer.model.pieces:
        if piece.type != KIND.NORMAL:
            text = piece.piece
            places = (n for n in range(1, len(text)) if text[n - 1 : n + 1] not in together)
            cuts[text] = next(places, 0)
    return cuts


def before_cuts(tokenizer: Tokenizer) -> tokenizers.Regex:
    """Return an expression that matches the text before each such cut."""
    patterns = []
    for text, cut in places_to_cut(tokenizer).items():
        patterns.append(f"{re.escape(text[:cut])}(?={re.escape(text[cut:])})")
    return tokenizers.Regex("|".join(patterns))


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
