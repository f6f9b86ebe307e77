"""What a model knows: perplexity, loss by position, the induction probe, few-shot tasks."""
