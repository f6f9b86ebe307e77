"""Few-shot in-context learning: tasks, prompts, scores after a shared prefix, and summaries."""
