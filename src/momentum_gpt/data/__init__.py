"""Tokens: the tokenizer, the shards on disk, and the batches of a step."""

from momentum_gpt.data.batches import Batches
from momentum_gpt.data.shards import ShardWriter, TokenShards
from momentum_gpt.data.synthetic import SyntheticBatches, SyntheticTask
from momentum_gpt.data.tokenizer import Tokenizer, load_tokenizer

__all__ = ["Batches", "ShardWriter", "SyntheticBatches", "SyntheticTask", "TokenShards", "Tokenizer", "load_tokenizer"]
