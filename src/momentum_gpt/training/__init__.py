"""Training: the loop, the optimizer, the DeepSpeed engine, checkpoints."""
