"""From text to token shards: corpus -> tokenizer -> shards.

This package may import momentum_gpt; momentum_gpt never imports this package.
"""
