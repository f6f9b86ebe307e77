"""Measure how fast text becomes token ids, in MB per CPU second on one core.

    momentum-gpt bench tokenize
    momentum-gpt bench tokenize 'paths=[novels/]' tokenizer.vocab_size=32000

Our encoder is compared with plain sentencepiece, with `datasets.map` and with
datatrove's step. Ours encodes all of the text, and its ids are compared with
sentencepiece's; the slower methods encode a part of it. datatrove's step takes
tokenizers of the `tokenizers` library alone: a byte-level BPE of the same
size, which is trained here on the same text.
"""

from __future__ import annotations

from data_prep.settings import BenchTokenizeConfig
from momentum_gpt.cli import Command


def bench(config: BenchTokenizeConfig) -> None:
    """Measure, and print the speeds."""
    from data_prep.encoding_speed import measure

    measure(config)


main = Command(bench, BenchTokenizeConfig, "bench_tokenize")


if __name__ == "__main__":
    main()
