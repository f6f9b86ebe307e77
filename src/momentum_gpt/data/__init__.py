"""Tokens: the tokenizer, the shards on disk, and the batches of a step."""

from momentum_gpt.data.batches import Batches
from momentum_gpt.data.packing import PackedBatches
from momentum_gpt.data.prefetch import prefetch
from momentum_gpt.data.shards import TokenShards, write_shard
from momentum_gpt.data.sources import (
    TrainingData,
    ValidationData,
    describe_data,
    fixed_batch,
    inspect_data,
    open_training,
    open_validation,
)
from momentum_gpt.data.synthetic_tasks import SyntheticBatches, SyntheticTask
from momentum_gpt.data.texts import Texts, read_texts
from momentum_gpt.data.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "Batches",
    "PackedBatches",
    "SyntheticBatches",
    "SyntheticTask",
    "Texts",
    "TokenShards",
    "Tokenizer",
    "TrainingData",
    "ValidationData",
    "describe_data",
    "fixed_batch",
    "inspect_data",
    "load_tokenizer",
    "open_training",
    "open_validation",
    "prefetch",
    "read_texts",
    "write_shard",
]
