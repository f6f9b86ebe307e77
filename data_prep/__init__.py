"""Corpus -> tokenizer -> token shards. May import momentum_gpt.data, never the reverse."""
