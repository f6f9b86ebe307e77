"""In-context learning beside finetuning: what both do to a model's attention."""
