"""Pretraining of GPT-style language models with vanilla or momentum attention, made for comparing them."""
